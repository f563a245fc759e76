"""Rate limits and sums per key, and the port of their counters.

A rate is a token bucket of ``burst`` units that refills with ``amount`` units every ``period_s`` seconds
(GCRA: one number per key, no timer). A charge takes units; one that does not fit takes nothing and returns
when it would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Rate:
    """``amount`` units every ``period_s`` seconds, ``burst`` of them at once."""

    amount: float
    period_s: float
    burst: float

    @property
    def unit_s(self) -> float:
        """Seconds in which one unit is refilled."""
        return self.period_s / self.amount


@dataclass(frozen=True, slots=True)
class Charge:
    """``cost`` units of ``rate`` for ``key``. A negative cost returns unused units."""

    key: bytes
    rate: Rate
    cost: float = 1.0


@dataclass(frozen=True, slots=True)
class Grant:
    """The result of some charges: all were taken, or none."""

    allowed: bool
    remaining: float
    """Units left in the bucket that has the fewest."""
    retry_after_s: float = 0.0
    """When all of them would fit; infinite where one exceeds its bucket. 0 when allowed."""
    refused_index: int = -1
    """The index of the charge with the longest wait; -1 when allowed."""


class Counters(Protocol):
    """Buckets and sums by key, each operation atomic. Failures raise ``StoreError``.

    Keys of one call belong to one tenant. Nothing here waits for a limit.
    """

    async def take(self, charges: Sequence[Charge]) -> Grant:
        """Take all charges, or none where one of them does not fit."""
        ...

    async def settle(self, charge: Charge) -> None:
        """Take a charge unconditionally: the cost of a call is only known when it is over.

        A bucket may become negative, and then refuses until it is refilled.
        """
        ...

    async def add(self, key: bytes, amount: float, ttl_s: float) -> float:
        """Add to a sum, which starts at 0 and expires ``ttl_s`` after its first addition.

        Returns the new sum.
        """
        ...

    async def aclose(self) -> None:
        """Release what it holds; idempotent."""
        ...
