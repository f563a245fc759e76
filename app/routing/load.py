"""Load balancing over deployments: power of two choices on live latency estimates (P2C with EWMA).

A deployment is a configured model. Its time to first token is an exponentially weighted moving average that
also decays with time, so that an idle deployment's old trouble fades; its circuit breaker
(``app.routing.breaker``) says when not to call it at all.

Of two deployments drawn at random the better one is called: each worker sees only its own calls, and sending
everything to the one that looks best would overload it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from app.domain.models import Model
from app.routing.breaker import CircuitBreaker

_DECAY_S = 30.0
"""Time constant with which an estimate decays while no call ends."""
_EWMA_WEIGHT = 0.1
_WARM_FACTOR = 0.5
"""First-token time with the prompt's prefix in the vendor's cache: about half (vendors say up to 80 % less).

"""
_DEFAULT_HOLD_S = 1.0
"""Hold after a 429 without a retry-after."""
_TYPICAL_TOKENS = 256
_MIN_HEALTH = 0.05
_FIRST_TOKENS = 256
_SORT_EVERY = 16

Sample = Callable[[Sequence[Model]], Sequence[Model]]
"""Draws the deployments to compare; the others follow in order of their cost."""


def sample_two(random: Random) -> Sample:
    """Sample two of any number."""

    def sample(models: Sequence[Model]) -> Sequence[Model]:
        return models if len(models) <= 2 else random.sample(models, 2)  # noqa: PLR2004 - two choices

    return sample


class FirstTokenTimes:
    """The last 256 times to first token of one deployment, and their quantiles."""

    __slots__ = ("_at", "_ranked", "_seen", "_values")

    def __init__(self) -> None:
        """Start empty."""
        self._values: list[float] = []
        self._ranked: list[float] = []
        self._at = 0
        self._seen = 0

    def __len__(self) -> int:
        return len(self._values)

    def add(self, seconds: float) -> None:
        """Add one; the oldest of more than 256 is dropped."""
        if len(self._values) < _FIRST_TOKENS:
            self._values.append(seconds)
        else:
            self._values[self._at] = seconds
            self._at = (self._at + 1) % _FIRST_TOKENS
        self._seen += 1

    def mean_above(self, seconds: float) -> float | None:
        """The mean of those above ``seconds``; None where there is none."""
        longer = [value for value in self._values if value > seconds]
        return sum(longer) / len(longer) if longer else None

    def quantile(self, share: float) -> float:
        """The ``share`` quantile, up to 16 values old. Raises IndexError when nothing is known."""
        if self._seen >= _SORT_EVERY or not self._ranked:
            self._ranked = sorted(self._values)
            self._seen = 0
        return self._ranked[min(len(self._ranked) - 1, int(share * len(self._ranked)))]


@dataclass(slots=True)
class Deployment:
    """The live estimates of one deployment."""

    in_flight: int = 0
    ttft_s: float = 0.0
    upstream_s: float = 0.0
    """Moving average of the duration of whole calls."""
    seen_at_s: float = -math.inf
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    # Learned from routed streams only: nothing else is predicted.
    token_s: float = 0.0
    """Mean time per token after the first; 0 = unknown."""
    answer_tokens: float = 0.0
    error_share: float = 0.0
    first_tokens: FirstTokenTimes = field(default_factory=FirstTokenTimes)


class LoadBalancer:
    """The estimates of all deployments, and their ranking; owned by one event loop."""

    def __init__(
        self,
        names: Iterable[str],
        clock: Callable[[], float] = time.monotonic,
        sample: Sample | None = None,
    ) -> None:
        """Start with the deployments ``names`` and no estimates."""
        self._clock = clock
        self._deployments = {name: Deployment() for name in names}
        self._sample = sample_two(Random()) if sample is None else sample  # noqa: S311 - load, not security

    def deployment(self, name: str) -> Deployment:
        """The estimates of the deployment ``name``."""
        return self._deployments[name]

    def now_s(self) -> float:
        """The current time on the breakers' clock."""
        return self._clock()

    def rank(
        self, models: Sequence[Model], preferred: Callable[[Model], bool], warm: str = ""
    ) -> list[Model]:
        """The deployments to try, best first: of two healthy ones that of the least expected wait,
        preferred ones on a tie, then the others.

        Expected wait is the time to first token scaled by the calls in flight and the error rate, and
        halved for the one that has the prompt's prefix ``warm``. One whose breaker is open goes last and is
        not left out: when all are open, one has to be tried.
        """
        if len(models) == 1:
            return list(models)
        now = self._clock()

        def cost(model: Model) -> tuple[bool, float, bool, bool]:
            deployment = self._deployments[model.name]
            fresh = math.exp(-max(0.0, now - deployment.seen_at_s) / _DECAY_S)
            wait = (deployment.ttft_s or deployment.upstream_s) * fresh
            wait *= 1 + deployment.in_flight
            wait /= max(_MIN_HEALTH, 1 - deployment.error_share * fresh)
            if model.name == warm:
                wait *= _WARM_FACTOR
            # Waits within 20 % are a tie: noise must not override the preference for a pass-through.
            bucket = round(math.log(wait, 1.2)) if wait > 0 else -math.inf
            open_ = deployment.breaker.is_open(now)
            return open_, bucket, model.name != warm, not preferred(model)

        ranked = sorted(models, key=cost)
        healthy = [m for m in ranked if not self._deployments[m.name].breaker.is_open(now)]
        if len(healthy) > 1:
            best = min(self._sample(healthy), key=cost)
            ranked.remove(best)
            ranked.insert(0, best)
        return ranked

    def is_open(self, name: str) -> bool:
        """Whether ``name`` should not be called now."""
        return self._deployments[name].breaker.is_open(self._clock())

    def record_start(self, name: str) -> None:
        """Record the start of a call."""
        deployment = self._deployments[name]
        deployment.in_flight += 1
        if (
            deployment.breaker.failures
        ):  # every call comes here: skip the method call in the usual case
            deployment.breaker.record_start()

    def record_end(
        self,
        name: str,
        *,
        ok: bool | None,
        ttft_s: float | None = None,
        total_s: float | None = None,
    ) -> None:
        """Record the end of a call; ``ok`` is None when it says nothing about the deployment (the client
        left, or erred).
        """
        deployment = self._deployments[name]
        if ok:
            self.record_success(deployment, ttft_s, total_s)
            return
        deployment.in_flight -= 1
        if ok is None:
            deployment.breaker.release_probe()
            return
        deployment.breaker.record_failure(self._clock())
        deployment.error_share += _EWMA_WEIGHT * (1 - deployment.error_share)

    def record_success(
        self, deployment: Deployment, ttft_s: float | None, total_s: float | None
    ) -> None:
        """As ``record_end``, of a successful call."""
        deployment.in_flight -= 1
        if deployment.breaker.failures:
            deployment.breaker.record_success()
        share = 1.0 if deployment.seen_at_s == -math.inf else _EWMA_WEIGHT
        if ttft_s is not None:
            deployment.ttft_s += share * (ttft_s - deployment.ttft_s)
        if total_s is not None:
            deployment.upstream_s += share * (total_s - deployment.upstream_s)
        if deployment.error_share:
            deployment.error_share -= _EWMA_WEIGHT * deployment.error_share
        deployment.seen_at_s = self._clock()

    def record_rate_limit(self, name: str, retry_after_s: float | None) -> None:
        """Hold the deployment for ``retry_after_s`` after a rate limit; one second where it is None."""
        hold_s = _DEFAULT_HOLD_S if retry_after_s is None else retry_after_s
        self._deployments[name].breaker.hold(self._clock(), hold_s)

    def record_stream(self, name: str, first_s: float, total_s: float, tokens: int) -> None:
        """Learn from a routed stream: first token after ``first_s``, all its ``tokens`` after ``total_s``."""
        deployment = self._deployments[name]
        deployment.first_tokens.add(first_s)
        if tokens > 1:
            each_s = max(0.0, total_s - first_s) / (tokens - 1)
            share = _EWMA_WEIGHT if deployment.token_s else 1.0
            deployment.token_s += share * (each_s - deployment.token_s)
            deployment.answer_tokens += share * (tokens - deployment.answer_tokens)

    def record_hedged_wait(self, name: str, waited_s: float) -> None:
        """Record a call that lost to its hedge: its first token took longer than ``waited_s``
        (right-censored).
        """
        self._deployments[name].first_tokens.add(waited_s)

    def predicted_duration_s(self, name: str, max_tokens: int | None) -> float | None:
        """Predicted duration of a whole answer: first token + tokens x time per token; None = unknown."""
        deployment = self._deployments[name]
        if not deployment.ttft_s or not deployment.token_s:
            return deployment.upstream_s or None
        tokens = deployment.answer_tokens or _TYPICAL_TOKENS
        if max_tokens is not None:
            tokens = min(tokens, max_tokens)
        return deployment.ttft_s + tokens * deployment.token_s
