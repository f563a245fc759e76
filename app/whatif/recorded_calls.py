"""Durations and tokens of recorded calls: the pools from which calls that were never made are drawn.

A pool holds whole calls (time and tokens stay together). For a model without recorded calls those of its
tier's other models are drawn; where the tier has none either, the settings cannot be evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.domain.decisions import Tier
from app.domain.usage import Price
from app.whatif.traffic import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from app.settings import Settings
    from app.whatif.traffic import Arrival, Recorded

    Floats = NDArray[np.float64]

DEFAULT_HIT_S = 0.002
"""Duration of a hit where none was recorded; the report says so."""
_PER_MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Pool:
    """Recorded calls at the prices of one configuration; arrays of one length."""

    total_s: Floats
    prompt_usd: Floats
    """Of one prompt token."""
    output_usd: Floats
    """Of the whole answer."""
    prompt_tokens: Floats


class RecordedCalls:
    """All recorded calls and hits."""

    def __init__(self, *sources: Iterable[Arrival]) -> None:
        known = [each.recorded for source in sources for each in source if each.recorded]
        self.calls: tuple[Recorded, ...] = tuple(each for each in known if each.called)
        self.models = frozenset(call.model for call in self.calls)
        hits = [each.total_s for each in known if each.cache in {"exact", "lane", "semantic"}]
        self.hit_s = np.array(hits or [DEFAULT_HIT_S])
        self.hits_known = bool(hits)

    def pools(self, settings: Settings) -> Pools:
        """The calls of the models that ``settings`` has, at its prices."""
        return Pools(self, settings)


class Pools:
    """The pools of one configuration, by what is asked for; numbered in the order of first use."""

    def __init__(self, evidence: RecordedCalls, settings: Settings) -> None:
        self._evidence = evidence
        self.prices = {
            each.name: Price(
                each.price.input, each.price.output, each.price.cached_input, each.price.cache_write
            )
            for each in settings.models
        }
        self.tiers = {each.name: each.tier.value for each in settings.models}
        hits = evidence.hit_s
        nothing = np.zeros(len(hits))
        self.all: list[Pool] = [Pool(hits, nothing, nothing, nothing)]
        self._numbers: dict[str, int] = {}

    HITS = 0
    """The number of the pool of hits."""

    def tier(self, tier: str) -> int:
        """The number of a tier's pool; of the other tier's where ``settings`` has no model of it."""
        if tier not in self.tiers.values():
            tier = (Tier.POWERFUL if tier == Tier.FAST else Tier.FAST).value
        return self._number(tier, [n for n, its in self.tiers.items() if its == tier])

    def model(self, name: str) -> int:
        """The number of a model's pool, or its tier's where it has no recorded call."""
        if name not in self._evidence.models:
            return self.tier(self.tiers[name])
        return self._number(f"model {name}", [name])

    def _number(self, key: str, models: Sequence[str]) -> int:
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.all)
            self.all.append(self._pool(key, frozenset(models)))
        return number

    def _pool(self, key: str, models: frozenset[str]) -> Pool:
        calls = [call for call in self._evidence.calls if call.model in models]
        if not calls:
            names = ", ".join(sorted(models))
            raise TraceError(
                [f"no call of {key} ({names}) is recorded: give --calls a trace that has some"]
            )
        prices = [self.prices[call.model] for call in calls]
        return Pool(
            np.array([call.total_s for call in calls]),
            np.array([price.input / _PER_MILLION for price in prices]),
            np.array(
                [
                    price.output * call.usage.output_tokens / _PER_MILLION
                    for call, price in zip(calls, prices, strict=True)
                ]
            ),
            np.array([float(call.usage.prompt_tokens) for call in calls]),
        )
