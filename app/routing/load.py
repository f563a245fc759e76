"""Live estimates of each deployment: what the router needs to know about load and health.

A deployment is a configured model. Its time to first token is an average that forgets
(exponentially weighted, by time, so that an idle deployment's old trouble fades); its breaker
(``app.routing.breaker``) says when it is not to be asked at all.

Two drawn at random are compared, and the better one is asked (power of two choices): each worker sees
only its own calls, and if all of them sent everything to the one that looks best, it would not be for
long.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from app.domain.models import Model
from app.routing.breaker import Breaker

_DECAY_S = 30.0
"""After this long without news an estimate has lost 63 % of its weight against the prior."""
_SHARE = 0.1
_UNKNOWN_TTFT_S = 0.0
_WARM = 0.5
"""A prompt's prefix that the vendor has in its cache is read in about half the time (vendors say up to
80 % less)."""
_LIMITED_S = 1.0
"""How long a deployment is left alone after a 429 that does not say."""
_TYPICAL_TOKENS = 256
_MIN_HEALTH = 0.05
_FIRSTS = 256
_FRESH = 16

Pick = Callable[[Sequence[Model]], Sequence[Model]]
"""Draws those that are compared; the others follow in order of their cost."""


def two_of(random: Random) -> Pick:
    """Draw two of any number."""

    def pick(models: Sequence[Model]) -> Sequence[Model]:
        return models if len(models) <= 2 else random.sample(models, 2)  # noqa: PLR2004 - two choices

    return pick


class FirstTokens:
    """The last 256 times to first token of one deployment, and their quantiles."""

    __slots__ = ("_at", "_ranked", "_seen", "_values")

    def __init__(self) -> None:
        """Know none."""
        self._values: list[float] = []
        self._ranked: list[float] = []
        self._at = 0
        self._seen = 0

    def __len__(self) -> int:
        return len(self._values)

    def add(self, seconds: float) -> None:
        """Take one in; the oldest goes."""
        if len(self._values) < _FIRSTS:
            self._values.append(seconds)
        else:
            self._values[self._at] = seconds
            self._at = (self._at + 1) % _FIRSTS
        self._seen += 1

    def mean_beyond(self, seconds: float) -> float | None:
        """The mean of those that took longer than ``seconds``; None where none did."""
        longer = [value for value in self._values if value > seconds]
        return sum(longer) / len(longer) if longer else None

    def quantile(self, share: float) -> float:
        """The ``share`` quantile, up to 16 values old. Raises IndexError when nothing is known."""
        if self._seen >= _FRESH or not self._ranked:
            self._ranked = sorted(self._values)
            self._seen = 0
        return self._ranked[min(len(self._ranked) - 1, int(share * len(self._ranked)))]


@dataclass(slots=True)
class Deployment:
    """What is known of one deployment now."""

    in_flight: int = 0
    ttft_s: float = _UNKNOWN_TTFT_S
    upstream_s: float = 0.0
    """Mean duration of whole calls, forgetting likewise."""
    seen_at_s: float = -math.inf
    breaker: Breaker = field(default_factory=Breaker)

    # Of routed streams only: nothing else is predicted.
    token_s: float = 0.0
    """Mean time per token after the first; 0 = unknown."""
    answer_tokens: float = 0.0
    error_share: float = 0.0
    first_tokens: FirstTokens = field(default_factory=FirstTokens)


class Load:
    """The estimates of all deployments; one event loop owns it."""

    def __init__(
        self,
        names: Iterable[str],
        clock: Callable[[], float] = time.monotonic,
        pick: Pick | None = None,
    ) -> None:
        """Know the deployments ``names`` and nothing about them."""
        self._clock = clock
        self._deployments = {name: Deployment() for name in names}
        self._pick = two_of(Random()) if pick is None else pick  # noqa: S311 - load, not security

    def of(self, name: str) -> Deployment:
        """What is known of the deployment ``name``."""
        return self._deployments[name]

    def now_s(self) -> float:
        """This moment on the clock that the breakers go by."""
        return self._clock()

    def order(
        self, models: Sequence[Model], preferred: Callable[[Model], bool], warm: str = ""
    ) -> list[Model]:
        """The deployments to try, best first: of two healthy ones that of the least expected wait,
        preferred ones on a tie, then the others.

        Expected wait is the time to first token stretched by what is in flight and by failures, and
        halved for the one whose vendor has the prompt's prefix ``warm``. One whose breaker is open goes
        last rather than nowhere: when all are open, somebody has to be asked.
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
                wait *= _WARM
            # Waits within 20 % are a tie: noise must not undo the preference for a pass-through.
            bucket = round(math.log(wait, 1.2)) if wait > 0 else -math.inf
            open_ = deployment.breaker.is_open(now)
            return open_, bucket, model.name != warm, not preferred(model)

        ranked = sorted(models, key=cost)
        healthy = [m for m in ranked if not self._deployments[m.name].breaker.is_open(now)]
        if len(healthy) > 1:
            best = min(self._pick(healthy), key=cost)
            ranked.remove(best)
            ranked.insert(0, best)
        return ranked

    def is_open(self, name: str) -> bool:
        """Whether ``name`` is better not asked now."""
        return self._deployments[name].breaker.is_open(self._clock())

    def begin(self, name: str) -> None:
        """A call starts."""
        deployment = self._deployments[name]
        deployment.in_flight += 1
        if (
            deployment.breaker.failures
        ):  # every call comes by here: no call of ours where all is well
            deployment.breaker.begin()

    def end(
        self,
        name: str,
        *,
        ok: bool | None,
        ttft_s: float | None = None,
        total_s: float | None = None,
    ) -> None:
        """A call ends: ``ok`` None when it says nothing about the deployment (the client left, or
        erred).
        """
        deployment = self._deployments[name]
        if ok:
            self.end_well(deployment, ttft_s, total_s)
            return
        deployment.in_flight -= 1
        if ok is None:
            deployment.breaker.leave()
            return
        deployment.breaker.fail(self._clock())
        deployment.error_share += _SHARE * (1 - deployment.error_share)

    def end_well(self, deployment: Deployment, ttft_s: float | None, total_s: float | None) -> None:
        """As ``end``, of a call that went well."""
        deployment.in_flight -= 1
        if deployment.breaker.failures:
            deployment.breaker.succeed()
        share = 1.0 if deployment.seen_at_s == -math.inf else _SHARE
        if ttft_s is not None:
            deployment.ttft_s += share * (ttft_s - deployment.ttft_s)
        if total_s is not None:
            deployment.upstream_s += share * (total_s - deployment.upstream_s)
        if deployment.error_share:
            deployment.error_share -= _SHARE * deployment.error_share
        deployment.seen_at_s = self._clock()

    def limited(self, name: str, retry_after_s: float | None) -> None:
        """The vendor's limit is spent: ask others for ``retry_after_s``, one second where it is None."""
        wait_s = _LIMITED_S if retry_after_s is None else retry_after_s
        self._deployments[name].breaker.hold(self._clock(), wait_s)

    def streamed(self, name: str, first_s: float, total_s: float, tokens: int) -> None:
        """Learn from a routed stream: first token after ``first_s``, all its ``tokens`` after ``total_s``."""
        deployment = self._deployments[name]
        deployment.first_tokens.add(first_s)
        if tokens > 1:
            each_s = max(0.0, total_s - first_s) / (tokens - 1)
            share = _SHARE if deployment.token_s else 1.0
            deployment.token_s += share * (each_s - deployment.token_s)
            deployment.answer_tokens += share * (tokens - deployment.answer_tokens)

    def waited(self, name: str, waited_s: float) -> None:
        """No first token came in ``waited_s``, then somebody else was quicker: it was slower than that."""
        self._deployments[name].first_tokens.add(waited_s)

    def predicted_s(self, name: str, max_tokens: int | None) -> float | None:
        """How long a whole answer takes: first token + tokens x time per token. None = nothing is known."""
        deployment = self._deployments[name]
        if not deployment.ttft_s or not deployment.token_s:
            return deployment.upstream_s or None
        tokens = deployment.answer_tokens or _TYPICAL_TOKENS
        if max_tokens is not None:
            tokens = min(tokens, max_tokens)
        return deployment.ttft_s + tokens * deployment.token_s
