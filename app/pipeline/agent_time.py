"""A run's time: by when the tools must be done so that the answer can still be whole in time.

From the deadline backwards: a margin for what is on the wire, the time that the model needs to
write the answer, and what is left belongs to the tools. How long an answer takes is what the
deployment's recent calls took; where nothing is known yet, a third of the time there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from app.domain.deadline import Deadline
from app.domain.models import Model
from app.pipeline.gateway import Gateway

_MARGIN_S = 0.05
_MARGIN_SHARE = 0.05
_UNKNOWN_SHARE = 0.35
_SAFETY = 1.3
_MOST_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class TimePlan:
    """Instants of the loop's clock; None = no deadline."""

    deadline: Deadline
    tools_by_s: float | None = None
    answer_by_s: float | None = None

    @classmethod
    def of(cls, deadline: Deadline, gateway: Gateway, candidates: Sequence[Model]) -> TimePlan:
        """Divide what is left until ``deadline``."""
        now_s = asyncio.get_running_loop().time()
        left_s = deadline.left_s(now_s)
        if left_s is None or deadline.at_s is None:
            return cls(deadline)
        margin_s = min(_MARGIN_S, left_s * _MARGIN_SHARE)
        known_s = gateway.load.deployment(candidates[0].name).upstream_s * _SAFETY
        answer_s = min(known_s or left_s * _UNKNOWN_SHARE, left_s * _MOST_SHARE)
        answer_by_s = deadline.at_s - margin_s
        return cls(deadline, answer_by_s - answer_s, answer_by_s)

    def tool_time_left_s(self) -> float | None:
        """Seconds that a tool started now may take; None = no limit from here."""
        if self.tools_by_s is None:
            return None
        return max(0.0, self.tools_by_s - asyncio.get_running_loop().time())

    def must_answer(self) -> bool:
        """Say whether the time for tools is over: the next model call has to answer."""
        return self.tool_time_left_s() == 0.0
