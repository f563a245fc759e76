"""Weights of named figures, learned one example at a time (AdaGrad): pure, bounded.

Names are made from what is learned about (``text after from`` for the argument ``city`` of one tool, for
any argument of that name, for any argument at all), so one example teaches the general and the special
at once: the general ones move together, and what is special moves further only where it must.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Figures = Mapping[str, float]
"""What is known of one choice: figures by name. Those that are not there are 0."""

_MOST = 16_384


@dataclass(slots=True)
class Weights:
    """Weights by name; ``start`` gives that of a name never learned about."""

    rate: float
    start: Callable[[str], float]
    _known: dict[str, tuple[float, float]] = field(default_factory=dict)
    """A weight, and the sum of its squared slopes; the one longest not learned about first."""

    def total(self, figures: Figures) -> float:
        """The weighted sum."""
        known, total = self._known, 0.0
        for name, figure in figures.items():
            found = known.get(name)
            total += figure * (self.start(name) if found is None else found[0])
        return total

    def step(self, slopes: Figures) -> None:
        """One step against ``slopes``, each weight at its own pace."""
        for name, slope in slopes.items():
            if not slope:
                continue
            weight, steepness = self._known.pop(name, (math.nan, 1.0))
            weight = self.start(name) if math.isnan(weight) else weight
            steepness += slope * slope
            self._known[name] = weight - self.rate * slope / math.sqrt(steepness), steepness
        while len(self._known) > _MOST:
            del self._known[next(iter(self._known))]


def chances(totals: Mapping[str, float]) -> dict[str, float]:
    """Totals of choices of which exactly one is right, as probabilities (softmax)."""
    most = max(totals.values())
    weighed = {name: math.exp(total - most) for name, total in totals.items()}
    whole = sum(weighed.values())
    return {name: each / whole for name, each in weighed.items()}


def chance(total: float) -> float:
    """A total as the probability of a yes (logistic)."""
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, total))))
