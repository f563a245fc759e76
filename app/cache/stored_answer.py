"""The answer stored beside a question, with its provenance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from app.domain.vectors import Neighbour, StoredQuestion

_MOST_ASKERS: Final = 32


class StoredAnswer(msgspec.Struct, frozen=True):
    """A stored question's body, as JSON: the field names are in the store."""

    group: str
    """Shared by answers that agree."""
    text: str
    finish: str
    model: str
    """The model's own name for itself."""
    tier: str
    request_id: str
    route: str
    usage: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    cost_usd: float = 0.0
    upstream_s: float = 0.0
    askers: tuple[str, ...] = ()
    """Hashed users whom a model gave an agreeing answer; first the one whom this answer was made for."""


def answer_of(question: StoredQuestion) -> StoredAnswer | None:
    """Decode the answer of a stored question; None for one that another version wrote."""
    try:
        return msgspec.json.decode(question.body, type=StoredAnswer)
    except msgspec.DecodeError:
        return None  # it expires in time


def askers_of(asked: tuple[str, str], group: str, near: Sequence[Neighbour]) -> tuple[str, ...]:
    """Who asks now, and who had an answer that agrees from the entry that this one replaces.

    ``asked``: the entry's id, and who asks.
    """
    entry_id, asker = asked
    for each in near:
        if each.question.id == entry_id:
            before = answer_of(each.question)
            if before is not None and before.group == group:
                others = (who for who in before.askers if who != asker)
                return (asker, *others)[:_MOST_ASKERS]
    return (asker,)
