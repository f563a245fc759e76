"""An online quantile scoreser: the threshold that keeps the fast tier's share at its target under shift.

A threshold tuned elsewhere gave 3-100 % fast where 70 % was wanted. So each tenant has its own: a
quantile of its last 128 scores. Which quantile is set by integral feedback: the target plus the
shortfall of the share over about the last 500 requests. The window follows a shift within some dozens of
requests, and the feedback compensates for what the shift cost, so that the share over any 500 requests
stays near the target; a quantile alone only stops making new errors.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.decisions import Tier

_MAX_TENANTS = 2_000
_MIN_TIES = 16
_WINDOW = 128
_FEEDBACK_REQUESTS = 500.0
_FEEDBACK_GAIN = 1.0 / 30.0  # a shortfall of 3 requests moves the quantile by 0.1
_ABOVE_ALL, _BELOW_ALL = 2.0, -1.0
_MIN_SCORES = 8  # fewer give no quantile; the start value holds


@dataclass(slots=True)
class _TenantScores:
    """One tenant's last scores, by age and sorted, and its shortfall of fast requests."""

    threshold: float
    recent: deque[float] = field(default_factory=deque)
    ordered: list[float] = field(default_factory=list)
    shortfall: float = 0.0


class FastShareTracker:
    """Thresholds per tenant: a score at or below goes to the fast tier. Bounded to 2,000 tenants."""

    __slots__ = ("_start", "_tenant_targets", "_tenants", "target")

    def __init__(
        self,
        target: float = 0.70,
        *,
        start: float = 0.25,
        tenant_targets: Mapping[str, float] | None = None,
    ) -> None:
        """`target`: the wanted fast share in [0, 1], which may be moved; `start`: a tenant's first
        threshold; `tenant_targets`: the targets of single tenants.
        """
        self._tenant_targets = dict(tenant_targets or {})
        for each in (target, *self._tenant_targets.values()):
            if not 0.0 <= each <= 1.0:
                raise ValueError(f"fast share: the target must lie in 0..1, got {each}")
        self.target = target
        self._start = start
        self._tenants: OrderedDict[str, _TenantScores] = OrderedDict()

    def threshold(self, tenant: str) -> float:
        """The tenant's current threshold, on the scale of the scores."""
        scores = self._tenants.get(tenant)
        return self._initial(self._target_of(tenant)) if scores is None else scores.threshold

    def observe(self, tenant: str, score: float, tier: Tier) -> None:
        """Record a request that the score decided (not one that a rule forced); about 3 us."""
        scores = self._tenants.get(tenant)
        if scores is None:
            scores = self._tenants[tenant] = _TenantScores(self._initial(self._target_of(tenant)))
        self._tenants.move_to_end(tenant)
        scores.recent.append(score)
        insort(scores.ordered, score)
        if len(scores.ordered) > _WINDOW:
            del scores.ordered[bisect_left(scores.ordered, scores.recent.popleft())]
        target = self._target_of(tenant)
        error = target - (1.0 if tier is Tier.FAST else 0.0)
        scores.shortfall += error - scores.shortfall / _FEEDBACK_REQUESTS
        scores.threshold = self._quantile(scores, target)
        while len(self._tenants) > _MAX_TENANTS:
            self._tenants.popitem(last=False)

    def _target_of(self, tenant: str) -> float:
        return (
            self._tenant_targets.get(tenant, self.target) if self._tenant_targets else self.target
        )

    def _initial(self, target: float) -> float:
        """The threshold before any score is known; shares of 0 and 1 hold from the first request on."""
        if target >= 1.0:
            return _ABOVE_ALL
        return _BELOW_ALL if target <= 0.0 else self._start

    def _quantile(self, scores: _TenantScores, target: float) -> float:
        """The quantile of the recent scores at the target plus the feedback."""
        level = target + _FEEDBACK_GAIN * scores.shortfall
        ordered = scores.ordered
        if level >= 1.0:
            return ordered[-1] + 1.0
        if level <= 0.0:
            return ordered[0] - 1.0
        if len(ordered) < _MIN_SCORES:
            return self._start
        threshold = ordered[min(len(ordered) - 1, int(level * len(ordered)))]
        tied = bisect_right(ordered, threshold) - bisect_left(ordered, threshold)
        if scores.shortfall < 0 and tied > _MIN_TIES:
            # No quantile separates equal scores: they go to either tier in turn, as the shortfall requires.
            return math.nextafter(threshold, -math.inf)
        return threshold
