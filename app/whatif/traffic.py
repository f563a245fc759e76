"""Recorded traffic: arrivals and their recorded outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.models import AUTO
from app.domain.usage import Usage
from app.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.chat import ChatRequest
    from app.domain.decisions import PromptView

HITS: Final = frozenset({"exact", "semantic", "coalesced", "lane"})


class TraceError(GatewayError):
    """A trace that cannot be replayed; ``problems`` are lines for the operator, with file and line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems[0] if problems else "the trace holds nothing")
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The recorded outcome of a request. Times in seconds, money in USD."""

    model: str
    """Configured name; empty for a lane."""
    tier: str
    cache: str
    total_s: float
    usage: Usage = Usage()  # noqa: RUF009 - nobody changes one
    cost_usd: float = 0.0
    score: float | None = None
    """The router's score, where the record has it."""
    may_move: bool = True
    """Whether the router chose its tier, as far as the record shows."""

    @property
    def called(self) -> bool:
        """Whether a model was called."""
        return self.cache not in HITS and bool(self.model)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of the trace."""

    at_s: float
    """Seconds, from any origin."""
    place: str
    """``file:line``, for error messages."""
    requested: str = AUTO
    tenant: str = "default"
    user: str = ""
    request: ChatRequest | None = None
    """None: the record holds no prompt."""
    view: PromptView | None = None
    recorded: Recorded | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """A trace, oldest arrival first."""

    file: str
    kind: str
    """``ledger``, ``traces`` or ``prompts``."""
    arrivals: tuple[Arrival, ...]
    failed: int = 0
    """Requests that were not answered; they are not replayed."""
    summed: int = 0
    """Requests in aggregated ledger rows, which have the row's mean time."""

    @property
    def has_prompts(self) -> bool:
        """Whether the gateway's decisions can be replayed."""
        return self.kind == "prompts"
