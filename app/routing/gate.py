"""How many calls an upstream gets at once, found out by itself, and who waits for a place.

Theory of operation. The operator's ``max_connections`` is the most that may be; what an upstream
bears may be less, and changes. Two things say that it has too much: it says so (429, 503, 529), and
its first word comes later the more it is asked. So the limit goes

* down by a tenth on a saying (once in the time that an answer takes to begin: one burst is one fact);
* down by the ratio of the calm first-token time to the present one where that is under a half, since
  prompts differ by that much on their own (a gradient; it looks at a fast and a slow average);
* up by one for each limit's worth of answers that came while it was needed.

The slow average must not learn the overload as normal. So it learns from answers that were given while
no more calls ran than are known to do no harm: the most at which first tokens still came as in calm.
Above that it only drifts, by about a half in seven minutes, so that a vendor that really became slower
is believed in the end.

Who finds no place waits, in a queue that is bounded in number and in time. Places go to tenants in
turn, whatever each has waiting. A full queue takes a newcomer of a tenant that waits with less at the
expense of the newest of the one that waits with most. A request whose turn would by all appearance
come too late is told so at once and not after its wait: 503 with ``retry-after``, while those that
were let in keep their pace.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from app.domain.deadline import Deadline
from app.errors import DeadlineExceeded, Overloaded

_DOWN = 0.9
_TOLERANCE = 2.0
"""First tokens that come within twice the calm time say nothing."""
_FLOOR_S = 0.05
"""Nor do differences of a few hundredths of a second: the gateway's own machine makes those."""
_FAST, _SLOW = 0.1, 0.02
"""Weights of the newest first-token time in the averages: present and calm."""
_DRIFT_S = 600.0
"""In so many seconds of too many calls the calm average comes to 63 % of what it sees."""
_HARMLESS = 1.3
"""First tokens within this much of the calm time show that as many calls do no harm."""
_FEWEST = 16
"""First tokens seen before their time says anything."""
_BUSY = 0.5
_NEEDED = 0.8
_GRADIENT_LEAST = 0.7


@dataclass(frozen=True, slots=True)
class GateLimits:
    """The bounds of one upstream's gate."""

    most: int
    """Calls at once, at most and to begin with."""
    least: int = 2
    adaptive: bool = True
    queue: int = 1_000
    """Calls that may wait."""
    wait_s: float = 10.0
    """How long one may wait."""


@dataclass(slots=True)
class _Waiting:
    """One call that waits."""

    tenant: str
    turn: asyncio.Future[None]


def _unheard(_why: str) -> None:
    """Tell nobody."""


class Gate:
    """The places at one upstream; one event loop owns it."""

    def __init__(
        self,
        name: str,
        limits: GateLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_shed: Callable[[str], None] = _unheard,
    ) -> None:
        """``name`` is the upstream's, for messages; ``clock`` gives seconds; ``on_shed`` is told why
        a call was turned away.
        """
        self.name, self._limits, self._clock, self._on_shed = name, limits, clock, on_shed
        self.limit = float(limits.most)
        self.in_use = 0
        self.waiting = 0
        self._queues: dict[str, deque[_Waiting]] = {}
        """By tenant, in the order in which they get their turn."""
        self._present_s = self._calm_s = 0.0
        self._seen = 0
        self._harmless = 0
        """The most calls at once at which first tokens came as in calm."""
        self._learned_at_s = -math.inf
        self._took_s = 0.0
        """Mean time for which a place is held."""
        self._lowered_at_s = -math.inf

    def try_enter(self) -> bool:
        """Take a place if one is free and nobody waits for it."""
        if self.waiting or self.in_use >= self.limit:
            return False
        self.in_use += 1
        return True

    async def enter(self, tenant: str, deadline: Deadline) -> None:
        """Take a place, waiting for one if need be.

        Raises ``Overloaded`` when there will be none in time, ``DeadlineExceeded`` when the caller's
        own time is over first. Cancelled, it leaves the queue.
        """
        if self.try_enter():
            return
        now_s = self._clock()
        most_s = self._limits.wait_s
        left_s = deadline.sooner(now_s, most_s)
        bound_s = most_s if left_s is None else left_s
        expected_s = self._expected_s(tenant)
        if expected_s > bound_s:
            raise self._shed("too_late", expected_s)
        if self.waiting >= self._limits.queue and not self._make_room(tenant):
            raise self._shed("queue_full", expected_s)
        waiting = _Waiting(tenant, asyncio.get_running_loop().create_future())
        self._queues.setdefault(tenant, deque()).append(waiting)
        self.waiting += 1
        try:
            async with asyncio.timeout(bound_s):
                await waiting.turn
        except TimeoutError:
            self._forget(waiting)
            if bound_s < most_s:
                message = f"the deadline passed while the call waited for a place at {self.name}"
                raise DeadlineExceeded(message) from None
            raise self._shed("waited", self._expected_s(tenant)) from None
        except BaseException:
            self._forget(waiting)
            raise

    def leave(self, *, first_s: float | None, took_s: float, overloaded: bool, ok: bool) -> None:
        """Give the place back and say how the call went.

        ``first_s`` is the time to its first event, None where there was none; ``overloaded``: the
        upstream said that it has too much.
        """
        if ok and not overloaded:
            self.leave_well(first_s, took_s)
            return
        self.in_use -= 1
        if ok:
            self._took(took_s)
        if self._limits.adaptive and overloaded:
            self._lower(_DOWN)
        if self.waiting:
            self._admit()

    def leave_well(self, first_s: float | None, took_s: float) -> None:
        """As ``leave``, after a call that went well."""
        in_use = self.in_use
        self.in_use = in_use - 1
        # _took(), without the call: every request comes by here, and 430 instructions are for nothing.
        self._took_s += (took_s - self._took_s) * (_FAST if self._took_s else 1.0)
        if first_s is not None and self._limits.adaptive:
            self._learn(first_s, in_use)
        if self.waiting:
            self._admit()

    def _took(self, took_s: float) -> None:
        self._took_s += (took_s - self._took_s) * (_FAST if self._took_s else 1.0)

    def _learn(self, first_s: float, in_use: int) -> None:
        self._seen += 1
        if self._seen == 1:
            self._present_s = self._calm_s = first_s
        now_s = self._clock()
        self._present_s += _FAST * (first_s - self._present_s)
        if in_use <= self._harmless or self._seen < _FEWEST:
            weight = _SLOW
        else:
            weight = min(_SLOW, (now_s - self._learned_at_s) / _DRIFT_S)
        self._learned_at_s = now_s
        self._calm_s += weight * (first_s - self._calm_s)
        if in_use > self._harmless and self._present_s <= _HARMLESS * self._calm_s:
            self._harmless = in_use
        if self._seen < _FEWEST:
            return
        tolerated_s = self._calm_s * _TOLERANCE + _FLOOR_S
        if self._present_s > tolerated_s:
            if in_use >= _BUSY * self.limit or in_use > self._harmless:
                self._lower(max(_GRADIENT_LEAST, tolerated_s / self._present_s))
        elif in_use >= _NEEDED * self.limit and self.limit < self._limits.most:
            self.limit = min(float(self._limits.most), self.limit + 1 / self.limit)

    def _lower(self, factor: float) -> None:
        """Lower the limit, once in the time in which the effect of the last time can be seen."""
        now_s = self._clock()
        if now_s - self._lowered_at_s < max(self._present_s, self._calm_s, _FLOOR_S):
            return
        self._lowered_at_s = now_s
        # From what is in use, where that is less: a limit that nobody reaches lowers nothing.
        base = min(self.limit, max(self.in_use + 1.0, self._limits.least))
        self.limit = max(float(self._limits.least), base * factor)
        self._harmless = min(self._harmless, int(self.limit))

    def _expected_s(self, tenant: str) -> float:
        """How long a newcomer of ``tenant`` would wait: turns go around, so each tenant ahead counts
        with at most as many calls as this one will have waiting.
        """
        own = len(self._queues.get(tenant, ())) + 1
        ahead = sum(min(len(queue), own) for name, queue in self._queues.items() if name != tenant)
        return (own + ahead) * self._took_s / max(1.0, self.limit)

    def _make_room(self, tenant: str) -> bool:
        """Turn away the newest of the tenant with most waiting, if that is more than ``tenant`` has."""
        longest = max(self._queues.values(), key=len, default=None)
        if longest is None or len(longest) <= len(self._queues.get(tenant, ())) + 1:
            return False
        turned_away = longest[-1]
        error = self._shed("displaced", self._expected_s(turned_away.tenant))
        self._forget(turned_away)
        if not turned_away.turn.done():
            turned_away.turn.set_exception(error)
        return True

    def _admit(self) -> None:
        """Give the free places to who waits, tenant by tenant."""
        while self.waiting and self.in_use < self.limit:
            tenant, queue = next(iter(self._queues.items()))
            waiting = queue.popleft()
            self.waiting -= 1
            del self._queues[tenant]
            if queue:
                self._queues[tenant] = queue  # to the end of the round
            if not waiting.turn.done():
                self.in_use += 1
                waiting.turn.set_result(None)

    def _forget(self, waiting: _Waiting) -> None:
        """Take ``waiting`` out of the queue; its place, if it just got one, goes to the next."""
        queue = self._queues.get(waiting.tenant)
        if queue is not None and waiting in queue:
            queue.remove(waiting)
            self.waiting -= 1
            if not queue:
                del self._queues[waiting.tenant]
        elif waiting.turn.done() and not waiting.turn.cancelled() and not waiting.turn.exception():
            self.in_use -= 1
            self._admit()

    def _shed(self, why: str, expected_s: float) -> Overloaded:
        self._on_shed(why)
        message = f"the upstream {self.name} has as much as it bears: come back shortly"
        return Overloaded(message, code="upstream_busy", retry_after_s=max(1.0, expected_s))
