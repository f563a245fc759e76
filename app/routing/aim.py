"""The fast share that brings what a routed request costs, or takes, to a target on the mean.

Of the requests that the score decided, each tier's mean cost and time are known from the last few hundred.
With a share x of them fast the mean is x * fast + (1 - x) * powerful; the share that makes it the target
follows. It is worked out anew after every request, from what the requests of each tier really came to,
escalations and hedges included, so an error in it shows in the means and is made up for.

Until both tiers have been seen a few times the configured share holds. A target that no share reaches gives
0 or 1: all is done for it that can be done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from app.domain.decisions import Tier

_ENOUGH = 10
_NEWEST = 0.01
"""Weight of the newest request, once there are a hundred."""


@dataclass(slots=True)
class _Mean:
    seen: int = 0
    value: float = 0.0

    def add(self, value: float) -> None:
        self.seen += 1
        self.value += max(_NEWEST, 1.0 / self.seen) * (value - self.value)


class Aim:
    """Targets on the mean of all routed requests; one event loop owns it."""

    __slots__ = ("_seconds", "_share", "_usd", "mean_s", "mean_usd")

    def __init__(
        self, share: float, *, mean_usd: float | None = None, mean_s: float | None = None
    ) -> None:
        """Hold ``mean_usd`` and ``mean_s`` where they are given; ``share`` until enough is known."""
        self._share, self.mean_usd, self.mean_s = share, mean_usd, mean_s
        self._usd = {tier: _Mean() for tier in Tier}
        self._seconds = {tier: _Mean() for tier in Tier}

    def observe(self, tier: Tier, usd: float, seconds: float) -> float:
        """A request that was routed to ``tier`` is over; the fast share to aim at from now on."""
        if math.isfinite(usd) and math.isfinite(seconds):
            self._usd[tier].add(usd)
            self._seconds[tier].add(seconds)
        wanted = [
            _share(means[Tier.FAST], means[Tier.POWERFUL], target)
            for means, target in ((self._usd, self.mean_usd), (self._seconds, self.mean_s))
            if target is not None
        ]
        known = [share for share in wanted if share is not None]
        return max(known, default=self._share)  # the stricter of both targets


def _share(fast: _Mean, powerful: _Mean, target: float) -> float | None:
    """The share of fast requests that makes the mean ``target``; None while too little is known."""
    if min(fast.seen, powerful.seen) < _ENOUGH:
        return None
    gap = powerful.value - fast.value
    if gap <= 0:  # the fast tier is no cheaper: the target says nothing about the share
        return None
    return min(1.0, max(0.0, (powerful.value - target) / gap))
