"""How good a router's scores are: APGR with its confidence, and the calibration error.

PGR(p) is the share of the quality gap between always-fast and always-powerful that is won when the
fraction p of the prompts, those with the highest scores, goes to the powerful model. APGR is its area
over p: a coin gets 0.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def apgr(score: Floats, gain: Floats, *, weight: Floats | None = None, seed: int = 0) -> float:
    """Area under PGR of scores float[n] for gains float[n]; ties fall at random by `seed`.

    0.5 when the gains do not sum to something positive: there is then no gap to win.
    """
    w = np.ones(len(gain)) if weight is None else weight
    tie = np.random.default_rng(seed).random(len(score))
    order = np.lexsort((tie, -score))
    won = np.cumsum((w * gain)[order])
    if not len(won) or won[-1] <= 0:
        return 0.5
    share = np.cumsum(w[order])
    won, share = np.concatenate(([0.0], won)), np.concatenate(([0.0], share))
    return float(np.trapezoid(won / won[-1], share / share[-1]))


def apgr_interval(
    score: Floats,
    gain: Floats,
    *,
    weight: Floats | None = None,
    draws: int = 200,
    levels: tuple[float, float] = (0.025, 0.975),
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of the APGR (resampled prompts)."""
    rng = np.random.default_rng(seed)
    w = np.ones(len(gain)) if weight is None else weight
    values = []
    for draw in range(draws):
        at = rng.integers(0, len(gain), len(gain))
        values.append(apgr(score[at], gain[at], weight=w[at], seed=draw))
    low, high = np.quantile(values, levels)
    return float(low), float(high)


def apgr_lower_bound(
    score: Floats, gain: Floats, *, weight: Floats | None = None, seed: int = 0
) -> float:
    """One-sided 70 % bound of the APGR, by 60 bootstrap draws: is this better than a coin?"""
    low, _ = apgr_interval(score, gain, weight=weight, draws=60, levels=(0.3, 1.0), seed=seed)
    return low


def expected_calibration_error(probability: Floats, outcome: Floats, *, bins: int = 10) -> float:
    """Mean |stated - observed| over `bins` equally filled groups of similar probability."""
    order = np.argsort(probability, kind="stable")
    error = 0.0
    for part in np.array_split(order, bins):
        if len(part):
            error += abs(float(probability[part].mean() - outcome[part].mean())) * len(part)
    return error / max(1, len(probability))
