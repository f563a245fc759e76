"""A feedback controller: the fast share that brings a routed request's mean cost or latency to a target.

Of the requests that the score decided, each tier's mean cost and duration are averaged over the last few
hundred. With a share x of them fast the mean is x * fast + (1 - x) * powerful, which is solved for x. It is
recomputed after every request from what each tier really cost, escalations and hedges included, so that
errors show in the means and are corrected.

Until both tiers have been seen ten times the configured share holds. A target out of reach gives 0 or 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from app.domain.decisions import Tier

_MIN_REQUESTS = 10
_MIN_WEIGHT = 0.01
"""Weight of the newest request in the mean, once there are a hundred."""


@dataclass(slots=True)
class _RunningMean:
    count: int = 0
    value: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += max(_MIN_WEIGHT, 1.0 / self.count) * (value - self.value)


class MeanTargetController:
    """Controls the mean of all routed requests; owned by one event loop."""

    __slots__ = ("_seconds", "_share", "_usd", "mean_s", "mean_usd")

    def __init__(
        self, share: float, *, mean_usd: float | None = None, mean_s: float | None = None
    ) -> None:
        """Aim at ``mean_usd`` and ``mean_s`` where given; at ``share`` until enough requests are known."""
        self._share, self.mean_usd, self.mean_s = share, mean_usd, mean_s
        self._usd = {tier: _RunningMean() for tier in Tier}
        self._seconds = {tier: _RunningMean() for tier in Tier}

    def observe(self, tier: Tier, usd: float, seconds: float) -> float:
        """Record a finished request of ``tier``; return the fast share to aim at from now on."""
        if math.isfinite(usd) and math.isfinite(seconds):
            self._usd[tier].add(usd)
            self._seconds[tier].add(seconds)
        shares = [
            _share(means[Tier.FAST], means[Tier.POWERFUL], target)
            for means, target in ((self._usd, self.mean_usd), (self._seconds, self.mean_s))
            if target is not None
        ]
        known = [share for share in shares if share is not None]
        return max(known, default=self._share)  # the stricter of both targets


def _share(fast: _RunningMean, powerful: _RunningMean, target: float) -> float | None:
    """The share of fast requests that makes the mean ``target``; None while too little is known."""
    if min(fast.count, powerful.count) < _MIN_REQUESTS:
        return None
    gap = powerful.value - fast.value
    if gap <= 0:  # the fast tier is no cheaper: no share follows from the target
        return None
    return min(1.0, max(0.0, (powerful.value - target) / gap))
