"""The simulator's timing: how long each request takes, drawn from one seed.

Every request draws the same number of times from the simulator's generator, in the order in which
requests arrive, so that a run can be repeated, and so that the second copy of a hedged request has
luck of its own. Nothing here waits; `delivery` does, and `time_scale` 0 makes every wait nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from app.providers.simulator.profile import ModelProfile
from app.providers.simulator.prompt_cache import CacheUse


@dataclass(frozen=True, slots=True)
class Pace:
    """One request's times in seconds, scaled: to its first token, then between tokens."""

    first_token_s: float
    token_s: float
    jitter: float
    rng: Random

    def gap_s(self, tokens: int) -> float:
        """The time that `tokens` more tokens take, with jitter."""
        if self.token_s == 0:
            return 0.0
        return tokens * self.token_s * self.rng.lognormvariate(0, self.jitter)

    @property
    def is_instant(self) -> bool:
        """Whether all waits are zero."""
        return self.first_token_s == 0 and self.token_s == 0


class Script:
    """Draws the pace and the random faults of every request from `seed`."""

    def __init__(self, seed: int, time_scale: float) -> None:
        self._rng = Random(seed)  # noqa: S311  # a script, not a secret
        self._time_scale = time_scale

    def fault(self, rates: Mapping[str, float]) -> str | None:
        """The spec of the random fault that this request meets, or None for most of them."""
        luck = self._rng.random()
        for spec, rate in rates.items():
            if luck < rate:
                return spec
            luck -= rate
        return None

    def pace(self, profile: ModelProfile, use: CacheUse) -> Pace:
        """The times of one request whose prompt was partly found in the cache."""
        seed = self._rng.getrandbits(64)
        if self._time_scale == 0:
            return Pace(0.0, 0.0, 0.0, self._rng)
        rng = Random(seed)  # noqa: S311  # a script, not a secret
        is_late = rng.random() < profile.tail_probability
        first_s = profile.first_token_s * rng.lognormvariate(0, profile.jitter)
        if is_late:
            first_s *= profile.tail_multiplier
        first_s += use.read_tokens * profile.cached_prefill_token_s
        first_s += (use.total_tokens - use.read_tokens) * profile.prefill_token_s
        token_s = profile.token_s * rng.lognormvariate(0, profile.jitter)
        scale = self._time_scale
        return Pace(first_s * scale, token_s * scale, profile.jitter, rng)
