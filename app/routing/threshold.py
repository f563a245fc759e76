"""The threshold that keeps the fast tier's share at its target, whatever the traffic turns into.

A threshold tuned elsewhere gave 3-100 % fast where 70 % was wanted. So each tenant has its own: a
quantile of its last 128 scores. Which quantile is set by feedback: the target, plus what the
share has fallen short of it over about the last 500 requests. The window follows a shift within some
dozens of requests, and the feedback pays back what the shift cost, so that the share over any 500
requests stays near the target; a quantile alone only stops making new errors.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.decisions import Tier

_MAX_TENANTS = 2_000
_TIED = 16
_WINDOW = 128
_MEMORY = 500.0
_GAIN = 1.0 / 30.0  # a debt of 3 requests moves the quantile by 0.1
_ABOVE_ALL, _BELOW_ALL = 2.0, -1.0
_ENOUGH = 8  # fewer scores say nothing about a quantile; the start value stands


@dataclass(slots=True)
class _Track:
    """One tenant's last scores, in order of age and of size, and its debt of fast requests."""

    threshold: float
    recent: deque[float] = field(default_factory=deque)
    ranked: list[float] = field(default_factory=list)
    debt: float = 0.0


class FastShareTracker:
    """Thresholds per tenant: a score at or below goes to the fast tier. Bounded to 2,000 tenants."""

    __slots__ = ("_own", "_start", "_tracks", "target")

    def __init__(
        self,
        target: float = 0.70,
        *,
        start: float = 0.25,
        own: Mapping[str, float] | None = None,
    ) -> None:
        """`target`: the wanted fast share in [0, 1], which may be moved; `start`: a tenant's first
        threshold; `own`: the targets of single tenants.
        """
        self._own = dict(own or {})
        for each in (target, *self._own.values()):
            if not 0.0 <= each <= 1.0:
                raise ValueError(f"fast share: the target must lie in 0..1, got {each}")
        self.target = target
        self._start = start
        self._tracks: OrderedDict[str, _Track] = OrderedDict()

    def threshold(self, tenant: str) -> float:
        """The tenant's current threshold, on the scale of the scores."""
        track = self._tracks.get(tenant)
        return self._first(self._target_of(tenant)) if track is None else track.threshold

    def observe(self, tenant: str, score: float, tier: Tier) -> None:
        """Count a request that the score decided (not one that a rule forced), about 3 us."""
        track = self._tracks.get(tenant)
        if track is None:
            track = self._tracks[tenant] = _Track(self._first(self._target_of(tenant)))
        self._tracks.move_to_end(tenant)
        track.recent.append(score)
        insort(track.ranked, score)
        if len(track.ranked) > _WINDOW:
            del track.ranked[bisect_left(track.ranked, track.recent.popleft())]
        target = self._target_of(tenant)
        missed = target - (1.0 if tier is Tier.FAST else 0.0)
        track.debt += missed - track.debt / _MEMORY
        track.threshold = self._place(track, target)
        while len(self._tracks) > _MAX_TENANTS:
            self._tracks.popitem(last=False)

    def _target_of(self, tenant: str) -> float:
        return self._own.get(tenant, self.target) if self._own else self.target

    def _first(self, target: float) -> float:
        """Before any score is known; all or nothing holds from the first request on."""
        if target >= 1.0:
            return _ABOVE_ALL
        return _BELOW_ALL if target <= 0.0 else self._start

    def _place(self, track: _Track, target: float) -> float:
        """The quantile of the recent scores that the target and the debt ask for."""
        wanted = target + _GAIN * track.debt
        ranked = track.ranked
        if wanted >= 1.0:
            return ranked[-1] + 1.0
        if wanted <= 0.0:
            return ranked[0] - 1.0
        if len(ranked) < _ENOUGH:
            return self._start
        place = ranked[min(len(ranked) - 1, int(wanted * len(ranked)))]
        tied = bisect_right(ranked, place) - bisect_left(ranked, place)
        if track.debt < 0 and tied > _TIED:
            # No quantile parts equal scores: they go to either tier in turn, as the debt asks.
            return math.nextafter(place, -math.inf)
        return place
