"""What was decided lately about requests' hits by meaning: for people who ask why, and for verdicts."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from app.cache.semantic import Asked, Look

_MOST: Final = 1_000


@dataclass(frozen=True, slots=True)
class Reasoned:
    """One decision: the reasons in words, and what it was about."""

    words: tuple[str, ...]
    asked: Asked
    look: Look


class Told:
    """The newest decisions by tenant and request; one event loop owns it."""

    def __init__(self) -> None:
        """Remember none yet."""
        self._told: OrderedDict[tuple[str, str], Reasoned] = OrderedDict()

    def add(self, tenant: str, request_id: str, reasoned: Reasoned) -> None:
        """Remember one."""
        self._told[tenant, request_id] = reasoned
        if len(self._told) > _MOST:
            self._told.popitem(last=False)

    def get(self, tenant: str, request_id: str) -> Reasoned | None:
        """The decision on that request, if it is remembered."""
        return self._told.get((tenant, request_id))

    def words(self, tenant: str, request_id: str) -> tuple[str, ...]:
        """Its reasons; empty where there was no decision."""
        found = self.get(tenant, request_id)
        return () if found is None else found.words
