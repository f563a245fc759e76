"""In-process counters, used for limits without Redis or while it is unavailable, and an in-process
``KeyValue``.

Bounded: the values that were used least recently leave first. One event loop owns each.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from app.domain.limits import Charge, Grant

_SWEEP_EVERY = 1_024


class MemoryKeyValue:
    """A ``KeyValue`` in this process, at most ``max_bytes`` of values."""

    def __init__(
        self, *, max_bytes: int = 32 << 20, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start empty; ``clock`` gives seconds on any monotonic scale."""
        self._max_bytes, self._clock = max_bytes, clock
        self._values: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0

    async def get(self, key: bytes) -> bytes | None:
        """The live value of ``key``."""
        found = self._values.get(key)
        if found is None:
            return None
        if self._clock() >= found[0]:
            self._drop(key)
            return None
        self._values.move_to_end(key)
        return found[1]

    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Keep ``value`` for ``ttl_s`` seconds; one larger than all the room is not kept."""
        if key in self._values:
            self._drop(key)
        if len(value) > self._max_bytes:
            return
        self._values[key] = (self._clock() + ttl_s, value)
        self._bytes += len(value)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._values)))

    async def delete(self, key: bytes) -> bool:
        """Remove it; say whether it was there."""
        there = await self.get(key) is not None
        if there:
            self._drop(key)
        return there

    async def aclose(self) -> None:
        """Forget everything."""
        self._values.clear()
        self._bytes = 0

    def _drop(self, key: bytes) -> None:
        self._bytes -= len(self._values.pop(key)[1])


class MemoryCounters:
    """``Counters`` in this process."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full buckets and empty sums; ``clock`` gives seconds on any monotonic scale."""
        self._clock = clock
        self._full_at: dict[bytes, float] = {}
        self._sums: dict[bytes, tuple[float, float]] = {}
        self._until_sweep = _SWEEP_EVERY

    async def take(self, charges: Sequence[Charge]) -> Grant:
        """Take all charges, or none where one of them does not fit."""
        self._sweep()
        now_s = self._clock()
        wanted = [(charge, self._after(charge, now_s)) for charge in charges]
        waits = [_wait_s(charge, full_at - now_s) for charge, full_at in wanted]
        longest = max(waits, default=0.0)
        if longest > 0.0:
            left = min(_left(charge, full_at - now_s) + charge.cost for charge, full_at in wanted)
            return Grant(
                allowed=False,
                remaining=max(0.0, left),
                retry_after_s=longest,
                refused_index=waits.index(longest),
            )
        for charge, full_at in wanted:
            self._full_at[charge.key] = full_at
        left = min((_left(charge, full_at - now_s) for charge, full_at in wanted), default=0.0)
        return Grant(allowed=True, remaining=max(0.0, left))

    async def settle(self, charge: Charge) -> None:
        """Take a charge whatever it does to the bucket."""
        self._full_at[charge.key] = self._after(charge, self._clock())

    async def add(self, key: bytes, amount: float, ttl_s: float) -> float:
        """Add to a sum and return it."""
        self._sweep()
        now_s = self._clock()
        until_s, total = self._sums.get(key, (0.0, 0.0))
        if now_s >= until_s:
            until_s, total = now_s + ttl_s, 0.0
        total += amount
        if amount:
            self._sums[key] = (until_s, total)
        return total

    async def aclose(self) -> None:
        """Forget everything."""
        self._full_at.clear()
        self._sums.clear()

    def _after(self, charge: Charge, now_s: float) -> float:
        """When the bucket would be full again once the charge was taken."""
        full_at = max(self._full_at.get(charge.key, now_s), now_s)
        return max(now_s, full_at + charge.cost * charge.rate.unit_s)

    def _sweep(self) -> None:
        """Forget buckets that are full and sums that are over, now and then."""
        self._until_sweep -= 1
        if self._until_sweep > 0:
            return
        self._until_sweep = max(_SWEEP_EVERY, len(self._full_at) + len(self._sums))
        now_s = self._clock()
        self._full_at = {key: at for key, at in self._full_at.items() if at > now_s}
        self._sums = {key: it for key, it in self._sums.items() if it[0] > now_s}


def _wait_s(charge: Charge, debt_s: float) -> float:
    """How long until the charge fits; 0 where it does. ``debt_s``: until full, the charge taken."""
    if charge.cost > charge.rate.burst:
        return math.inf
    over_s = debt_s - charge.rate.burst * charge.rate.unit_s
    return over_s if over_s > _ROUNDING_S else 0.0


def _left(charge: Charge, debt_s: float) -> float:
    return charge.rate.burst - debt_s / charge.rate.unit_s


_ROUNDING_S = 1e-6
"""Sums of binary fractions are not exact: a charge that fits but for this fits."""
