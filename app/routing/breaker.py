"""When a deployment is not to be asked: a circuit breaker with half-open probes, and the vendor's own word.

::

    closed --5 failures in a row--> open (1 s, then 2, 4 .. 30) --its time is over--> half open
       ^                              ^                                                  |
       +--------- success ------------+------- failure: open for twice as long ----------+

Half open, one probe at a time goes through; everybody else still finds it open. Beside that a
deployment may be on hold: its vendor said when to come back (a 429, or a rate header at zero). A hold
is no failure: it opens nothing and closes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FAILURES_TO_OPEN = 5
_OPEN_FIRST_S = 1.0
_OPEN_MOST_S = 30.0
HOLD_MOST_S = 60.0
"""A vendor that asks for more is asked again all the same: limits are raised, clocks are wrong."""

STATES = ("closed", "held", "half_open", "open")
"""From the best to the worst."""


@dataclass(slots=True)
class Breaker:
    """The state of one deployment; every instant is in seconds of the owner's monotonic clock."""

    failures: int = 0
    """In a row."""
    open_until_s: float = -math.inf
    open_for_s: float = 0.0
    probing: bool = False
    held_until_s: float = -math.inf

    def is_open(self, now_s: float) -> bool:
        """Whether to ask somebody else: open, held, or half open with a probe under way."""
        if now_s < self.held_until_s:
            return True
        if self.failures < FAILURES_TO_OPEN:
            return False
        return now_s < self.open_until_s or self.probing

    def state(self, now_s: float) -> str:
        """One of ``STATES``: how it stands, the worst of what holds."""
        if self.failures >= FAILURES_TO_OPEN:
            return "open" if now_s < self.open_until_s else "half_open"
        return "held" if now_s < self.held_until_s else "closed"

    def shut_for_s(self, now_s: float) -> float:
        """How much longer nobody is sent there; 0 where somebody may be."""
        opens_s = self.open_until_s if self.failures >= FAILURES_TO_OPEN else -math.inf
        return max(0.0, opens_s - now_s, self.held_until_s - now_s)

    @property
    def tripped(self) -> bool:
        """Whether its last calls failed in a row: not closed, hold or no hold."""
        return self.failures >= FAILURES_TO_OPEN

    def begin(self) -> None:
        """A call starts; on a breaker that is not closed it is the probe."""
        if self.failures >= FAILURES_TO_OPEN:
            self.probing = True

    def succeed(self) -> None:
        """A call was answered: closed, and the next opening is short again."""
        self.failures = 0
        self.open_for_s = 0.0
        self.probing = False

    def fail(self, now_s: float) -> None:
        """A call failed: the fifth in a row opens it, a failed probe for twice as long."""
        self.probing = False
        self.failures += 1
        if self.failures >= FAILURES_TO_OPEN:
            self.open_for_s = min(_OPEN_MOST_S, max(_OPEN_FIRST_S, self.open_for_s * 2))
            self.open_until_s = now_s + self.open_for_s

    def leave(self) -> None:
        """A call ended that says nothing: the client left or erred. A probe's place is free again."""
        self.probing = False

    def hold(self, now_s: float, for_s: float) -> None:
        """Ask nothing for ``for_s`` seconds (60 at most): the vendor said so."""
        self.held_until_s = max(self.held_until_s, now_s + min(HOLD_MOST_S, max(0.0, for_s)))
