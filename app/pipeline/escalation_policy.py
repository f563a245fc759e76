"""What is looked for in fast answers before they stand; made of the settings, read by routed turns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import get_args

from app.domain.decisions import Lack

Check = Callable[[str, str], Awaitable[str]]
"""Question and answer to what is wrong ("" = nothing)."""


@dataclass(frozen=True, slots=True)
class OwnCheck:
    """One of the operator's; counted under ``name``."""

    name: str
    check: Check
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Escalation:
    """What is looked for in fast answers, and how."""

    lacks: frozenset[str] = frozenset(get_args(Lack))
    hold_s: float = 0.15
    """How long a stream's first tokens may be held back; 0 = streams are not looked at."""
    grey_hedge: bool = False
    """Whether both tiers are asked at once where the score is near the threshold."""
    min_mean_logprob: float | None = None
    own: tuple[OwnCheck, ...] = ()
