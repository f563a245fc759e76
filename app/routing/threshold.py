"""The threshold that keeps the fast tier's share at its target, whatever the traffic turns into.

A threshold tuned elsewhere gave 3-100 % fast where 70 % was wanted. So each tenant has its own, and
each scored request moves it: stochastic gradient descent on the pinball loss, whose minimum is the
target quantile of the scores. The step is scaled by a running estimate of the scores' spread.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from app.domain.decisions import Tier

_MAX_TENANTS = 10_000
_STEP = 0.1
_SPREAD_MEMORY = 0.02


@dataclass(slots=True)
class _Track:
    """One tenant's threshold, and running mean and mean absolute deviation of its scores."""

    threshold: float
    mean: float
    spread: float = 0.1
    seen: int = 0


class FastShareTracker:
    """Thresholds per tenant: a score at or below goes to the fast tier. Bounded to 10,000 tenants."""

    __slots__ = ("_start", "_tracks", "target")

    def __init__(self, target: float = 0.70, *, start: float = 0.5) -> None:
        """`target`: the wanted fast share in [0, 1]; `start`: a tenant's first threshold."""
        if not 0.0 <= target <= 1.0:
            raise ValueError(f"fast share: the target must lie in 0..1, got {target}")
        self.target = target
        self._start = start
        self._tracks: OrderedDict[str, _Track] = OrderedDict()

    def threshold(self, tenant: str) -> float:
        """The tenant's current threshold, on the scale of the scores."""
        track = self._tracks.get(tenant)
        return self._start if track is None else track.threshold

    def observe(self, tenant: str, score: float, tier: Tier) -> None:
        """Count a request that the score decided (not one that a rule forced) and move the threshold."""
        track = self._tracks.setdefault(tenant, _Track(self._start, score))
        self._tracks.move_to_end(tenant)
        track.seen += 1
        rate = max(_SPREAD_MEMORY, 1.0 / track.seen)
        track.mean += rate * (score - track.mean)
        track.spread += rate * (abs(score - track.mean) - track.spread)
        step = _STEP * max(track.spread, 1e-4) * (1 + 10 / track.seen)
        slow = tier is Tier.POWERFUL
        track.threshold += step * (self.target if slow else self.target - 1.0)
        while len(self._tracks) > _MAX_TENANTS:
            self._tracks.popitem(last=False)
