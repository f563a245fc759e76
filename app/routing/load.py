"""Live estimates of each deployment: what the router needs to know about load and health.

A deployment is a configured model. Its time to first token is an average that forgets
(exponentially weighted, by time, so that an idle deployment's old trouble fades), its failures open
a breaker for a growing while, and one half-open probe at a time decides when it closes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from app.domain.models import Model

_DECAY_S = 30.0
"""After this long without news an estimate has lost 63 % of its weight against the prior."""
_FAILURES_TO_OPEN = 5
_OPEN_FIRST_S = 1.0
_OPEN_MOST_S = 30.0
_UNKNOWN_TTFT_S = 0.0


@dataclass(slots=True)
class Deployment:
    """What is known of one deployment now."""

    in_flight: int = 0
    ttft_s: float = _UNKNOWN_TTFT_S
    upstream_s: float = 0.0
    """Mean duration of whole calls, forgetting likewise."""
    seen_at_s: float = -math.inf
    failures: int = 0
    """In a row."""
    open_until_s: float = -math.inf
    open_for_s: float = 0.0
    probing: bool = False


class Load:
    """The estimates of all deployments; one event loop owns it."""

    def __init__(self, names: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        """Know the deployments ``names`` and nothing about them."""
        self._clock = clock
        self._deployments = {name: Deployment() for name in names}

    def of(self, name: str) -> Deployment:
        """What is known of the deployment ``name``."""
        return self._deployments[name]

    def order(self, models: Sequence[Model], preferred: Callable[[Model], bool]) -> list[Model]:
        """The deployments to try, best first: healthy ones, then least expected wait, preferred
        ones on a tie.

        Expected wait is the time to first token stretched by what is in flight. One whose breaker
        is open goes last rather than nowhere: when all are open, somebody has to be asked.
        """
        now = self._clock()

        def cost(model: Model) -> tuple[bool, float, bool]:
            deployment = self._deployments[model.name]
            weight = math.exp(-max(0.0, now - deployment.seen_at_s) / _DECAY_S)
            wait = deployment.ttft_s * weight * (1 + deployment.in_flight)
            # Waits within 20 % are a tie: noise must not undo the preference for a pass-through.
            bucket = 0.0 if wait <= 0 else round(math.log(wait, 1.2))
            return (
                self._is_open(deployment, now),
                bucket if wait > 0 else -math.inf,
                not preferred(model),
            )

        return sorted(models, key=cost)

    def _is_open(self, deployment: Deployment, now: float) -> bool:
        if deployment.failures < _FAILURES_TO_OPEN:
            return False
        return now < deployment.open_until_s or deployment.probing

    def begin(self, name: str) -> None:
        """A call starts."""
        deployment = self._deployments[name]
        deployment.in_flight += 1
        if deployment.failures >= _FAILURES_TO_OPEN:
            deployment.probing = True

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
        deployment.in_flight -= 1
        deployment.probing = False
        if ok is None:
            return
        now = self._clock()
        if not ok:
            deployment.failures += 1
            if deployment.failures >= _FAILURES_TO_OPEN:
                deployment.open_for_s = min(
                    _OPEN_MOST_S, max(_OPEN_FIRST_S, deployment.open_for_s * 2)
                )
                deployment.open_until_s = now + deployment.open_for_s
            return
        deployment.failures = 0
        deployment.open_for_s = 0.0
        share = 1.0 if deployment.seen_at_s == -math.inf else 0.1
        if ttft_s is not None:
            deployment.ttft_s += share * (ttft_s - deployment.ttft_s)
        if total_s is not None:
            deployment.upstream_s += share * (total_s - deployment.upstream_s)
        deployment.seen_at_s = now
