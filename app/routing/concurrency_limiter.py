"""Adaptive concurrency limit of one upstream, with a fair queue for the calls that wait.

Theory of operation. The operator's ``max_connections`` is the upper bound; what an upstream can serve may be
less, and changes. Two signals show overload: it says so (429, 503, 529), and its time to first token rises
with concurrency. So the limit goes

* down by a tenth on an overload response (once per time to first token: a burst is one signal);
* down by the ratio of the baseline time to first token to the recent one where that is under a half, since
  prompts differ by that much on their own (a gradient of a slow and a fast moving average);
* up by one for each limit's worth of answers that came while the limit was nearly used up.

The baseline must not learn an overload as normal. So it learns from answers given at a concurrency known to
be safe: the highest at which first tokens still came at the baseline. Above that it only drifts, by about a
half in seven minutes, so that a vendor that really became slower becomes the new baseline.

Calls beyond the limit wait in a queue that is bounded in length and time. Slots go to tenants round-robin,
whatever each has waiting. When the queue is full, a newcomer of a tenant with fewer waiting calls displaces
the newest of the tenant with the most. A request whose expected wait is too long is rejected at once and not
after its wait: 503 with ``retry-after``.
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

_OVERLOAD_FACTOR = 0.9
_TOLERANCE = 2.0
"""First tokens within twice the baseline time are no sign of overload."""
_FLOOR_S = 0.05
"""Nor are differences of a few hundredths of a second, which the gateway's own machine causes."""
_RECENT_WEIGHT, _BASELINE_WEIGHT = 0.1, 0.02
"""Weights of the newest first-token time in the two moving averages."""
_DRIFT_S = 600.0
"""Time constant of the baseline above the safe concurrency."""
_SAFE_RATIO = 1.3
"""First tokens within this ratio of the baseline show that the concurrency is safe."""
_MIN_FIRST_TOKENS = 16
"""First tokens to observe before the averages are used."""
_BUSY_SHARE = 0.5
_NEEDED_SHARE = 0.8
_MIN_GRADIENT = 0.7


@dataclass(frozen=True, slots=True)
class ConcurrencyBounds:
    """The bounds of one upstream's concurrency and queue."""

    max_concurrent: int
    """Upper bound and initial value of the limit."""
    min_concurrent: int = 2
    adaptive: bool = True
    max_waiting: int = 1_000
    """Length of the queue."""
    max_wait_s: float = 10.0
    """Longest wait in the queue."""


@dataclass(slots=True)
class _WaitingCall:
    """A call in the queue."""

    tenant: str
    granted: asyncio.Future[None]


def _ignore(_reason: str) -> None:
    """Report nothing."""


class ConcurrencyLimiter:
    """The slots of one upstream; owned by one event loop."""

    def __init__(
        self,
        name: str,
        limits: ConcurrencyBounds,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_shed: Callable[[str], None] = _ignore,
    ) -> None:
        """``name``: the upstream's, for messages; ``clock`` gives seconds; ``on_shed`` gets the reason of
        each rejected call.
        """
        self.name, self._limits, self._clock, self._on_shed = name, limits, clock, on_shed
        self.limit = float(limits.max_concurrent)
        self.in_use = 0
        self.waiting = 0
        self._queues: dict[str, deque[_WaitingCall]] = {}
        """By tenant, in round-robin order."""
        self._recent_s = self._baseline_s = 0.0
        self._first_tokens = 0
        self._safe_concurrency = 0
        """The highest concurrency at which first tokens came at the baseline."""
        self._learned_at_s = -math.inf
        self._mean_hold_s = 0.0
        """Mean time for which a slot is held."""
        self._lowered_at_s = -math.inf

    def try_acquire(self) -> bool:
        """Take a slot if one is free and no call waits."""
        if self.waiting or self.in_use >= self.limit:
            return False
        self.in_use += 1
        return True

    async def acquire(self, tenant: str, deadline: Deadline) -> None:
        """Take a slot, waiting for one if need be.

        Raises ``Overloaded`` when none is expected or got in time, ``DeadlineExceeded`` when the caller's
        deadline passes first. Cancelled, it leaves the queue.
        """
        if self.try_acquire():
            return
        now_s = self._clock()
        max_wait_s = self._limits.max_wait_s
        left_s = deadline.sooner(now_s, max_wait_s)
        bound_s = max_wait_s if left_s is None else left_s
        expected_s = self._expected_s(tenant)
        if expected_s > bound_s:
            raise self._shed("too_late", expected_s)
        if self.waiting >= self._limits.max_waiting and not self._make_room(tenant):
            raise self._shed("queue_full", expected_s)
        waiting = _WaitingCall(tenant, asyncio.get_running_loop().create_future())
        self._queues.setdefault(tenant, deque()).append(waiting)
        self.waiting += 1
        try:
            async with asyncio.timeout(bound_s):
                await waiting.granted
        except TimeoutError:
            self._remove(waiting)
            if bound_s < max_wait_s:
                message = f"the deadline passed while the call waited for a slot at {self.name}"
                raise DeadlineExceeded(message) from None
            raise self._shed("waited", self._expected_s(tenant)) from None
        except BaseException:
            self._remove(waiting)
            raise

    def release(self, *, first_s: float | None, took_s: float, overloaded: bool, ok: bool) -> None:
        """Give the slot back and record the call.

        ``first_s``: time to its first event, None where there was none; ``overloaded``: the upstream answered
        with 429, 503 or 529.
        """
        if ok and not overloaded:
            self.release_succeeded(first_s, took_s)
            return
        self.in_use -= 1
        if ok:
            self._record_hold(took_s)
        if self._limits.adaptive and overloaded:
            self._lower(_OVERLOAD_FACTOR)
        if self.waiting:
            self._admit()

    def release_succeeded(self, first_s: float | None, took_s: float) -> None:
        """As ``release``, after a successful call."""
        in_use = self.in_use
        self.in_use = in_use - 1
        # _record_hold() inlined: every request comes through here, and the call costs 430 instructions.
        self._mean_hold_s += (took_s - self._mean_hold_s) * (
            _RECENT_WEIGHT if self._mean_hold_s else 1.0
        )
        if first_s is not None and self._limits.adaptive:
            self._learn(first_s, in_use)
        if self.waiting:
            self._admit()

    def _record_hold(self, took_s: float) -> None:
        self._mean_hold_s += (took_s - self._mean_hold_s) * (
            _RECENT_WEIGHT if self._mean_hold_s else 1.0
        )

    def _learn(self, first_s: float, in_use: int) -> None:
        self._first_tokens += 1
        if self._first_tokens == 1:
            self._recent_s = self._baseline_s = first_s
        now_s = self._clock()
        self._recent_s += _RECENT_WEIGHT * (first_s - self._recent_s)
        if in_use <= self._safe_concurrency or self._first_tokens < _MIN_FIRST_TOKENS:
            weight = _BASELINE_WEIGHT
        else:
            weight = min(_BASELINE_WEIGHT, (now_s - self._learned_at_s) / _DRIFT_S)
        self._learned_at_s = now_s
        self._baseline_s += weight * (first_s - self._baseline_s)
        if in_use > self._safe_concurrency and self._recent_s <= _SAFE_RATIO * self._baseline_s:
            self._safe_concurrency = in_use
        if self._first_tokens < _MIN_FIRST_TOKENS:
            return
        tolerated_s = self._baseline_s * _TOLERANCE + _FLOOR_S
        if self._recent_s > tolerated_s:
            if in_use >= _BUSY_SHARE * self.limit or in_use > self._safe_concurrency:
                self._lower(max(_MIN_GRADIENT, tolerated_s / self._recent_s))
        elif in_use >= _NEEDED_SHARE * self.limit and self.limit < self._limits.max_concurrent:
            self.limit = min(float(self._limits.max_concurrent), self.limit + 1 / self.limit)

    def _lower(self, factor: float) -> None:
        """Lower the limit, at most once in the time in which the last effect can show."""
        now_s = self._clock()
        if now_s - self._lowered_at_s < max(self._recent_s, self._baseline_s, _FLOOR_S):
            return
        self._lowered_at_s = now_s
        # From what is in use, where that is less: lowering a limit that is not reached has no effect.
        base = min(self.limit, max(self.in_use + 1.0, self._limits.min_concurrent))
        self.limit = max(float(self._limits.min_concurrent), base * factor)
        self._safe_concurrency = min(self._safe_concurrency, int(self.limit))

    def _expected_s(self, tenant: str) -> float:
        """Expected wait of a newcomer of ``tenant``: slots go round-robin, so each other tenant counts with
        at most as many calls as this one will have waiting.
        """
        own = len(self._queues.get(tenant, ())) + 1
        ahead = sum(min(len(queue), own) for name, queue in self._queues.items() if name != tenant)
        return (own + ahead) * self._mean_hold_s / max(1.0, self.limit)

    def _make_room(self, tenant: str) -> bool:
        """Displace the newest call of the tenant with most waiting, if that is more than ``tenant`` has."""
        longest = max(self._queues.values(), key=len, default=None)
        if longest is None or len(longest) <= len(self._queues.get(tenant, ())) + 1:
            return False
        displaced = longest[-1]
        error = self._shed("displaced", self._expected_s(displaced.tenant))
        self._remove(displaced)
        if not displaced.granted.done():
            displaced.granted.set_exception(error)
        return True

    def _admit(self) -> None:
        """Give the free slots to waiting calls, round-robin by tenant."""
        while self.waiting and self.in_use < self.limit:
            tenant, queue = next(iter(self._queues.items()))
            waiting = queue.popleft()
            self.waiting -= 1
            del self._queues[tenant]
            if queue:
                self._queues[tenant] = queue  # to the end of the rotation
            if not waiting.granted.done():
                self.in_use += 1
                waiting.granted.set_result(None)

    def _remove(self, waiting: _WaitingCall) -> None:
        """Take ``waiting`` out of the queue; a slot that it was just granted goes to the next."""
        queue = self._queues.get(waiting.tenant)
        if queue is not None and waiting in queue:
            queue.remove(waiting)
            self.waiting -= 1
            if not queue:
                del self._queues[waiting.tenant]
        elif (
            waiting.granted.done()
            and not waiting.granted.cancelled()
            and not waiting.granted.exception()
        ):
            self.in_use -= 1
            self._admit()

    def _shed(self, reason: str, expected_s: float) -> Overloaded:
        self._on_shed(reason)
        message = f"the upstream {self.name} is at its concurrency limit: retry shortly"
        return Overloaded(message, code="upstream_busy", retry_after_s=max(1.0, expected_s))
