"""Weights of named features, learned online (AdaGrad): pure, bounded.

A feature exists at several levels (``text after from`` for the argument ``city`` of one tool, for any
argument of that name, for any argument), so one example trains the general and the specific weights at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Features = Mapping[str, float]
"""Feature values of one choice, by name; absent ones are 0."""

_MOST = 16_384


@dataclass(slots=True)
class Weights:
    """Weights by name; ``start`` gives the initial one."""

    rate: float
    start: Callable[[str], float]
    _known: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Weight and sum of squared gradients; the least recently trained first."""

    def score(self, figures: Features) -> float:
        """The weighted sum."""
        known, total = self._known, 0.0
        for name, figure in figures.items():
            found = known.get(name)
            total += figure * (self.start(name) if found is None else found[0])
        return total

    def step(self, slopes: Features) -> None:
        """One gradient step; each weight has its own rate."""
        for name, slope in slopes.items():
            if not slope:
                continue
            weight, steepness = self._known.pop(name, (math.nan, 1.0))
            weight = self.start(name) if math.isnan(weight) else weight
            steepness += slope * slope
            self._known[name] = weight - self.rate * slope / math.sqrt(steepness), steepness
        while len(self._known) > _MOST:
            del self._known[next(iter(self._known))]


def softmax(totals: Mapping[str, float]) -> dict[str, float]:
    """Scores of mutually exclusive choices as probabilities."""
    most = max(totals.values())
    weighed = {name: math.exp(total - most) for name, total in totals.items()}
    whole = sum(weighed.values())
    return {name: each / whole for name, each in weighed.items()}


def logistic(total: float) -> float:
    """A score as a probability."""
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, total))))
