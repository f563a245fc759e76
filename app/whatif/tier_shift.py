"""A trace without prompts under other settings: nothing can be decided again, so shares are moved.

With no prompts there is no score (a ledger) and no key (either), so this says only what can be said. Under
the settings it was recorded with a trace stays as it is. A ``fast_share`` that is higher by a part of the
way to 1 moves that part of the routed powerful calls to the fast tier: those of the lowest score where
scores are recorded, else drawn at random; a lower one likewise the other way. What a cache that is now off
had answered is asked of the model that had answered it. How many hits another time to live would have made
cannot be told; they stay, and the report says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from app.domain.decisions import Tier
from app.domain.models import AUTO
from app.whatif.outcome import FIXED, Outcomes
from app.whatif.traffic import HITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from app.settings import Settings
    from app.whatif.recorded_calls import Pools
    from app.whatif.traffic import Arrival, Recorded

_FAST, _POWERFUL = Tier.FAST.value, Tier.POWERFUL.value


class TierShiftReplay:
    """One run of a trace without prompts; ``base``: the settings that it was recorded under."""

    def __init__(
        self,
        settings: Settings,
        base: Settings,
        pools: Pools,
        rng: np.random.Generator,
    ) -> None:
        self._settings, self._pools, self._rng = settings, pools, rng
        self._same_prices = settings.models == base.models
        was, wanted = base.routing.fast_share, settings.routing.fast_share
        self._to_fast = (wanted - was) / (1.0 - was) if wanted > was else 0.0
        self._to_powerful = (was - wanted) / was if wanted < was else 0.0
        cache = settings.cache
        self._kept = {
            "exact": cache.exact.enabled,
            "coalesced": cache.coalesce and cache.exact.enabled,
            "semantic": cache.semantic.enabled and cache.exact.enabled,
            "lane": settings.lanes.enabled,
        }
        self.outcomes = Outcomes()

    def run(self, arrivals: Sequence[Arrival]) -> Outcomes:
        """Replay ``arrivals``."""
        rows = [arrival.recorded for arrival in arrivals]
        ranks = _ranks(rows, self._rng)
        for arrival, row, rank in zip(arrivals, rows, ranks, strict=True):
            if row is not None:
                self._one(arrival, row, float(rank))
        return self.outcomes

    def _one(self, arrival: Arrival, row: Recorded, rank: float) -> None:
        if row.cache in HITS:
            if self._kept.get(row.cache, True):
                self.outcomes.add(row.cache, row.total_s, row.cost_usd, pool=FIXED)
                return
            self._draw(arrival, row, self._tier_of_hit(row))
            return
        if not row.called or row.model not in self._pools.prices:
            self.outcomes.add("other", row.total_s, row.cost_usd, pool=FIXED)
            return
        tier = row.tier or self._pools.tiers[row.model]
        if row.may_move and tier == _POWERFUL and rank < self._to_fast:
            self._draw(arrival, row, _FAST)
        elif row.may_move and tier == _FAST and 1.0 - rank <= self._to_powerful:
            self._draw(arrival, row, _POWERFUL)
        else:
            price = self._pools.prices[row.model]
            usd = row.cost_usd if self._same_prices else price.cost_usd(row.usage)
            self.outcomes.add(tier, row.total_s, usd, pool=FIXED)

    def _tier_of_hit(self, row: Recorded) -> str:
        known = row.tier or self._pools.tiers.get(row.model, "")
        if known:
            return known
        return _FAST if self._rng.random() < self._settings.routing.fast_share else _POWERFUL

    def _draw(self, arrival: Arrival, row: Recorded, tier: str) -> None:
        named = arrival.requested not in {AUTO, ""} and arrival.requested in self._pools.prices
        number = self._pools.model(arrival.requested) if named else self._pools.tier(tier)
        pool = self._pools.all[number]
        at = int(self._rng.integers(len(pool.total_s)))
        tokens = float(row.usage.prompt_tokens) or float(pool.prompt_tokens[at])
        usd = float(tokens * pool.prompt_usd[at] + pool.output_usd[at])
        own = float(row.usage.prompt_tokens) or np.nan
        self.outcomes.add(tier, float(pool.total_s[at]), usd, pool=number, prompt_tokens=own)


def _ranks(rows: Sequence[Recorded | None], rng: np.random.Generator) -> NDArray[np.float64]:
    """Each row's place among those of its tier, 0 to 1: the lowest score first; at random without scores."""
    drawn = rng.random(len(rows))
    places = np.ones(len(rows))
    for tier in (_FAST, _POWERFUL):
        found: list[tuple[float, float, int]] = []
        for at, row in enumerate(rows):
            if row is not None and row.tier == tier and row.called and row.may_move:
                found.append((row.score or 0.0, float(drawn[at]), at))
        for place, (_, _, at) in enumerate(sorted(found)):
            places[at] = place / len(found)
    return places
