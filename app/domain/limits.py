"""Rates and sums that are counted for a key, and the port of what counts them.

A rate is a bucket of ``burst`` units that fills with ``amount`` units every ``period_s`` seconds
(GCRA: one number a key, no timer). A charge takes units out of it; one that does not fit takes
nothing and says when it would.
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
        """Seconds in which one unit comes back."""
        return self.period_s / self.amount


@dataclass(frozen=True, slots=True)
class Charge:
    """``cost`` units of ``rate`` for ``key``. A negative cost gives back what was not needed."""

    key: bytes
    rate: Rate
    cost: float = 1.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What became of some charges: all were taken, or none."""

    allowed: bool
    remaining: float
    """Units that the fullest of the buckets asked about still has, the least of them first."""
    retry_after_s: float = 0.0
    """When all of them would fit; infinite where one is larger than its bucket. 0 when allowed."""
    refused_index: int = -1
    """The index of the charge that has to wait longest; -1 when allowed."""


class Counters(Protocol):
    """Buckets and sums by key, each operation atomic. Failures raise ``StoreError``.

    Keys of one call belong to one tenant. Nothing here waits for a limit: it says when to come back.
    """

    async def take(self, charges: Sequence[Charge]) -> Grant:
        """Take all charges, or none where one of them does not fit."""
        ...

    async def settle(self, charge: Charge) -> None:
        """Take a charge whatever it does to the bucket: what a call cost is known when it is over.

        A bucket may so go below empty, and refuses until it has filled again.
        """
        ...

    async def add(self, key: bytes, amount: float, ttl_s: float) -> float:
        """Add to a sum, which begins at 0 and is forgotten ``ttl_s`` after its first addition.

        Says the new sum; with ``amount`` 0 only that.
        """
        ...

    async def aclose(self) -> None:
        """Release what it holds; idempotent."""
        ...
