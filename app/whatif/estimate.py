"""Estimates with confidence intervals from one replay: a block bootstrap over requests and over calls.

Two things are uncertain: the traffic, and the duration of calls that were never made. So each resample draws
blocks of consecutive requests (which are correlated; block length is about the cube root of the count) and
its own set of recorded calls to draw from. Intervals are the middle 95 %. All configurations are resampled
with the same seed (common random numbers), so that their differences are less noisy than the values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from app.whatif.outcome import Columns, Outcomes
    from app.whatif.recorded_calls import Pool

    Floats = NDArray[np.float64]

SLO: Final = ((3.0, 0.80), (5.0, 0.95))
"""(Seconds, share of the requests that are done by then)."""
PERCENTILES: Final = (0.50, 0.80, 0.95)
_CURVE_POINTS = 101


@dataclass(frozen=True, slots=True)
class Figure:
    """A value and the middle 95 % of its resamples."""

    value: float
    low: float
    high: float


class Figures(NamedTuple):
    """The estimated metrics of a configuration."""

    p50_s: Figure
    p80_s: Figure
    p95_s: Figure
    under_3s: Figure
    under_5s: Figure
    cost_usd: Figure
    hit_ratio: Figure


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate of one configuration."""

    name: str
    requests: int
    figures: Figures
    error_bound: float
    """At most this share of the requests is answered by a wrong hit, where the cache's promise holds."""
    sources: Mapping[str, int]
    curve_s: tuple[float, ...]
    """The 0th, 1st ... 100th percentile of the total time."""
    fast_share: float
    exact_ttl_s: float | None
    """None: the exact cache is off."""

    @property
    def verdict(self) -> str:
        """``holds`` where even the interval's lower end does, ``misses`` where not even the value does."""
        wanted = (SLO[0][1], SLO[1][1])
        shares = (self.figures.under_3s, self.figures.under_5s)
        if all(share.low >= least for share, least in zip(shares, wanted, strict=True)):
            return "holds"
        if all(share.value >= least for share, least in zip(shares, wanted, strict=True)):
            return "close"
        return "misses"


def estimate_figures(
    outcomes: Outcomes, pools: Sequence[Pool], resamples: int, seed: int
) -> tuple[Figures, tuple[float, ...]]:
    """p50, p80, p95, the shares under 3 and 5 s, cost and hit ratio; and the percentile curve of times."""
    columns = outcomes.columns()
    values = _statistics(columns.total_s, columns.cost_usd, columns.hit)
    rng = np.random.default_rng(seed)
    drawn = np.array([_resample(columns, pools, rng) for _ in range(resamples)])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0) if resamples else (values, values)
    found = Figures(
        *[
            Figure(float(value), float(min(value, a)), float(max(value, b)))
            for value, a, b in zip(values, low, high, strict=True)
        ]
    )
    curve = np.quantile(columns.total_s, np.linspace(0, 1, _CURVE_POINTS), method="inverted_cdf")
    return found, tuple(float(each) for each in curve)


def _statistics(total_s: Floats, cost_usd: Floats, hit: Floats) -> Floats:
    # A percentile is a time that a request really took: no interpolation.
    times = np.quantile(total_s, PERCENTILES, method="inverted_cdf")
    shares = [float(np.mean(total_s < limit)) for limit, _ in SLO]
    return np.array([*times, *shares, float(np.sum(cost_usd)), float(np.mean(hit))])


def _resample(columns: Columns, pools: Sequence[Pool], rng: np.random.Generator) -> Floats:
    count = len(columns.total_s)
    block = max(1, round(count ** (1 / 3)))
    starts = rng.integers(count, size=math.ceil(count / block))
    at = ((starts[:, None] + np.arange(block)) % count).ravel()[:count]
    total_s, cost_usd, which = columns.total_s[at], columns.cost_usd[at], columns.pool[at]
    tokens, fixed = columns.prompt_tokens[at], columns.fixed_usd[at]
    for number, pool in enumerate(pools):
        mine = np.flatnonzero(which == number)
        size = len(pool.total_s)
        subset = rng.integers(size, size=size)
        calls = subset[rng.integers(size, size=len(mine))]
        total_s[mine] = pool.total_s[calls]
        prompt = np.where(np.isnan(tokens[mine]), pool.prompt_tokens[calls], tokens[mine])
        usd = prompt * pool.prompt_usd[calls] + pool.output_usd[calls]
        cost_usd[mine] = np.where(np.isnan(fixed[mine]), usd, fixed[mine])
    return _statistics(total_s, cost_usd, columns.hit[at])
