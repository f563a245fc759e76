"""Recent decisions of the semantic cache, by request: for explanations in traces, and for verdicts."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.cache.explanation import explain

if TYPE_CHECKING:
    from app.cache.bound import Threshold
    from app.cache.semantic import Lookup, SemanticQuery

_MOST: Final = 1_000
_TOO_FEW_ASKERS: Final = "too few users had this answer yet"


@dataclass(frozen=True, slots=True)
class SemanticDecision:
    """One decision: the query, what the look-up found, and the threshold then in force."""

    query: SemanticQuery
    lookup: Lookup
    threshold: Threshold | None

    @property
    def words(self) -> tuple[str, ...]:
        """Its reasons in words, made when they are read: no request waits for them."""
        look = self.lookup
        if look.query is None or look.decision is None:
            return ()
        words = explain(look.query.view, look.decision, self.threshold)
        return (*words, _TOO_FEW_ASKERS) if look.outcome == "unshared" else words


class DecisionLog:
    """The newest decisions by tenant and request; one event loop owns it."""

    def __init__(self) -> None:
        """Start empty."""
        self._decisions: OrderedDict[tuple[str, str], SemanticDecision] = OrderedDict()

    def record(self, tenant: str, request_id: str, reasoned: SemanticDecision) -> None:
        """Add one; the oldest of more than 1,000 is dropped."""
        self._decisions[tenant, request_id] = reasoned
        if len(self._decisions) > _MOST:
            self._decisions.popitem(last=False)

    def get(self, tenant: str, request_id: str) -> SemanticDecision | None:
        """The decision on that request; None where it is unknown or dropped."""
        return self._decisions.get((tenant, request_id))

    def reasons(self, tenant: str, request_id: str) -> tuple[str, ...]:
        """The reasons of that decision; empty where there is none."""
        found = self.get(tenant, request_id)
        return () if found is None else found.words
