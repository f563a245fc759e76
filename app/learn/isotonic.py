"""Isotonic regression: the monotone map from a score to a probability that fits best.

A router's score only ranks. To say "0.7" and mean it, the score passes through this map, fitted on
scores of rows that the scoring model was not trained on. Pool-adjacent-violators, linear in the
number of rows after the sort. With few rows the ends are pulled towards the mean (`prior_weight`),
as a pool of three rows that happen to agree is no evidence for a probability of 1.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class Isotonic:
    """A fitted non-decreasing map, linear between pool centres and constant outside them."""

    __slots__ = ("_xs", "_ys", "x", "y")

    def __init__(self, x: Floats, y: Floats) -> None:
        """Wrap knots: `x` strictly increasing, `y` non-decreasing, equally long, at least one."""
        if not len(x) or len(x) != len(y) or (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
            raise ValueError(
                "isotonic: knots must be increasing in x, non-decreasing in y, and at least one"
            )
        self.x, self.y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        self._xs: list[float] = self.x.tolist()
        self._ys: list[float] = self.y.tolist()

    @classmethod
    def fit(
        cls,
        score: Floats,
        target: Floats,
        *,
        weight: Floats | None = None,
        prior_weight: float = 0.0,
    ) -> Isotonic:
        """Fit to `score` float[n], `target` float[n] (labels or values), `weight` float[n] >= 0.

        `prior_weight`: that many rows' worth of the overall mean are mixed into each pool.
        Raises ValueError on empty, unequal or non-finite input, or when no weight is positive.
        """
        s, t = np.asarray(score, dtype=np.float64), np.asarray(target, dtype=np.float64)
        w = np.ones(len(s)) if weight is None else np.asarray(weight, dtype=np.float64)
        if not len(s) or len(s) != len(t) or len(w) != len(s):
            raise ValueError(
                f"isotonic: need equally many scores, targets, weights,"
                f" got {len(s)}, {len(t)}, {len(w)}"
            )
        if not all(np.isfinite(part).all() for part in (s, t, w)) or (w < 0).any() or w.sum() <= 0:
            raise ValueError(
                "isotonic: scores, targets and weights must be finite, weights >= 0 and not all 0"
            )
        xs, ys, ws = _pool(*_tied(s, t, w))
        mean = float((w * t).sum() / w.sum())
        shrunk = (ys * ws + mean * prior_weight) / (ws + prior_weight)
        # Shrinking pools of different weight can break their order; the running maximum mends it.
        return cls(xs, np.maximum.accumulate(shrunk))

    def predict(self, score: Floats) -> Floats:
        """Map scores float[n]."""
        out: Floats = np.interp(np.asarray(score, dtype=np.float64), self.x, self.y)
        return out

    def predict_one(self, score: float) -> float:
        """Map one score; under a microsecond."""
        xs, ys = self._xs, self._ys
        at = bisect_right(xs, score)
        if at == 0:
            return ys[0]
        if at == len(xs):
            return ys[-1]
        low, high = xs[at - 1], xs[at]
        return ys[at - 1] + (ys[at] - ys[at - 1]) * (score - low) / (high - low)


def _tied(s: Floats, t: Floats, w: Floats) -> tuple[Floats, Floats, Floats]:
    """Sort by score and merge equal scores into their weighted mean; drop rows of no weight."""
    keep = w > 0
    s, t, w = s[keep], t[keep], w[keep]
    xs, inverse = np.unique(s, return_inverse=True)
    ws: Floats = np.bincount(inverse, weights=w).astype(np.float64)
    return xs, np.bincount(inverse, weights=w * t) / ws, ws


def _pool(x: Floats, y: Floats, w: Floats) -> tuple[Floats, Floats, Floats]:
    """Pool adjacent violators; each pool stands at its weighted mean score."""
    pools: list[tuple[float, float, float]] = []  # (sum of w*x, sum of w*y, sum of w)
    for sx, sy, sw in zip((x * w).tolist(), (y * w).tolist(), w.tolist(), strict=True):
        pool = (sx, sy, sw)
        while pools and pools[-1][1] * pool[2] >= pool[1] * pools[-1][2]:
            last = pools.pop()
            pool = (last[0] + pool[0], last[1] + pool[1], last[2] + pool[2])
        pools.append(pool)
    table = np.array(pools)
    return table[:, 0] / table[:, 2], table[:, 1] / table[:, 2], table[:, 2]
