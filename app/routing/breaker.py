"""A circuit breaker with half-open probes per deployment, and holds that its vendor asked for.

::

    closed --5 failures in a row--> open (1 s, then 2, 4 .. 30) --its time is over--> half open
       ^                              ^                                                  |
       +--------- success ------------+------- failure: open for twice as long ----------+

Half open, one probe at a time goes through; other callers still find it open. Independently a deployment may
be on hold: its vendor said when to come back (a 429, or a rate header at zero). A hold is no failure and
does not change the breaker's state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FAILURES_TO_OPEN = 5
_FIRST_OPEN_S = 1.0
_MAX_OPEN_S = 30.0
MAX_HOLD_S = 60.0
"""Longest hold, whatever the vendor asks for: limits are raised, and clocks are wrong."""

STATES = ("closed", "held", "half_open", "open")
"""From best to worst."""


@dataclass(slots=True)
class CircuitBreaker:
    """The state of one deployment; every instant is in seconds of the owner's monotonic clock."""

    failures: int = 0
    """Consecutive failures."""
    open_until_s: float = -math.inf
    open_for_s: float = 0.0
    probing: bool = False
    held_until_s: float = -math.inf

    def is_open(self, now_s: float) -> bool:
        """Whether to avoid it: open, held, or half open with a probe under way."""
        if now_s < self.held_until_s:
            return True
        if self.failures < FAILURES_TO_OPEN:
            return False
        return now_s < self.open_until_s or self.probing

    def state(self, now_s: float) -> str:
        """One of ``STATES``, the worst that applies."""
        if self.failures >= FAILURES_TO_OPEN:
            return "open" if now_s < self.open_until_s else "half_open"
        return "held" if now_s < self.held_until_s else "closed"

    def unavailable_for_s(self, now_s: float) -> float:
        """Seconds until calls may be sent again; 0 where they may."""
        opens_s = self.open_until_s if self.failures >= FAILURES_TO_OPEN else -math.inf
        return max(0.0, opens_s - now_s, self.held_until_s - now_s)

    @property
    def tripped(self) -> bool:
        """Whether it is not closed, whatever its hold."""
        return self.failures >= FAILURES_TO_OPEN

    def record_start(self) -> None:
        """Record that a call starts; on a breaker that is not closed it is the probe."""
        if self.failures >= FAILURES_TO_OPEN:
            self.probing = True

    def record_success(self) -> None:
        """Record an answered call: close, and reset the backoff."""
        self.failures = 0
        self.open_for_s = 0.0
        self.probing = False

    def record_failure(self, now_s: float) -> None:
        """Record a failed call: the fifth in a row opens it, a failed probe reopens it for twice as long."""
        self.probing = False
        self.failures += 1
        if self.failures >= FAILURES_TO_OPEN:
            self.open_for_s = min(_MAX_OPEN_S, max(_FIRST_OPEN_S, self.open_for_s * 2))
            self.open_until_s = now_s + self.open_for_s

    def release_probe(self) -> None:
        """Record a call that says nothing (the client left or erred): another probe may start."""
        self.probing = False

    def hold(self, now_s: float, for_s: float) -> None:
        """Hold for ``for_s`` seconds (60 at most), as the vendor asked."""
        self.held_until_s = max(self.held_until_s, now_s + min(MAX_HOLD_S, max(0.0, for_s)))
