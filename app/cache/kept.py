"""What lies beside a kept question: the answer, and where it is from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from app.domain.vectors import KeptQuestion, Neighbour

_MOST_ASKERS: Final = 32


class KeptAnswer(msgspec.Struct, frozen=True):
    """A kept question's body."""

    group: str
    """Answers that agree are of one group."""
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
    """Whom a model answered so, the one whom this very answer was made for first."""


def answer_of(question: KeptQuestion) -> KeptAnswer | None:
    """The answer of a kept question; None for one that another version wrote."""
    try:
        return msgspec.json.decode(question.body, type=KeptAnswer)
    except msgspec.DecodeError:
        return None  # another version's: it expires in its time


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
