"""What makes a fast answer inadequate, and how it is checked; made from the settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import get_args

from app.domain.decisions import AnswerDefect

Check = Callable[[str, str], Awaitable[str]]
"""Question and answer to the fault found ("" = none)."""


@dataclass(frozen=True, slots=True)
class OperatorCheck:
    """A check of the operator's, counted under ``name``."""

    name: str
    check: Check
    timeout_s: float


@dataclass(frozen=True, slots=True)
class EscalationPolicy:
    """What to look for in fast answers, and how."""

    lacks: frozenset[str] = frozenset(get_args(AnswerDefect))
    hold_s: float = 0.15
    """The longest that a stream's first tokens are held; 0 = streams are not inspected."""
    grey_hedge: bool = False
    """Whether both tiers are asked at once where the score is near the threshold."""
    min_mean_logprob: float | None = None
    operator_checks: tuple[OperatorCheck, ...] = ()
