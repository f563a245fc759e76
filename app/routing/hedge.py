"""When a second call is worth its price: the delay, and the budget that it must fit in.

A call that has no first token after the time in which 95 of 100 had one is probably in the tail, and
another deployment probably is not (Dean and Barroso, "The Tail at Scale"). The delay is the learned 95 %
quantile of the deployment that was asked, or a later one: with a budget of 3 % of the calls, the second call
waits for the 97 % quantile, so that the budget goes to the longest waits and not to the first comers.

The budget is two: a share of the calls that could have been hedged, and money an hour. What a hedge costs is
the prompt, read twice: the loser is cancelled before it has written much.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from app.routing.load import Deployment

_QUANTILE = 0.95
_ENOUGH = 20
"""First tokens to know before one can tell the tail from the rest."""
_BURST = 10.0
_HOUR_S = 3600.0


class Hedging:
    """The budget and the delays; one event loop owns it."""

    def __init__(
        self,
        share: float,
        usd_per_hour: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_outcome: Callable[[str, int, float], None] | None = None,
    ) -> None:
        """Hedge at most ``share`` of the calls and spend at most ``usd_per_hour`` on it."""
        self._share, self._usd_per_hour, self._clock = share, usd_per_hour, clock
        self._tokens = 0.0
        self._usd = usd_per_hour
        self._at_s = clock()
        self._on_outcome = on_outcome

    def delay_s(self, asked: Deployment, backup: Deployment) -> float | None:
        """Count a call that could be hedged; how long to wait for its first token, None = without end.

        Where little is known of ``asked``, what is known of ``backup`` must do: they are of one tier.
        """
        self._tokens = min(_BURST, self._tokens + self._share)
        if self._tokens < 1:
            return None
        for deployment in (asked, backup):
            if len(deployment.first_tokens) >= _ENOUGH:
                return deployment.first_tokens.quantile(max(_QUANTILE, 1.0 - self._share))
        return None

    def take(self, usd: float) -> bool:
        """Ask for one second call that costs about ``usd``; False when a budget is spent."""
        now = self._clock()
        refill = (now - self._at_s) * self._usd_per_hour / _HOUR_S
        self._usd = min(self._usd_per_hour, self._usd + refill)
        self._at_s = now
        if self._tokens < 1 or self._usd < usd:
            return False
        self._tokens -= 1
        self._usd -= usd
        return True

    def settle(self, outcome: str, tokens: int, usd: float) -> None:
        """A hedge ended: the second call ``won``, ``lost`` or ``failed``; what the loser had cost."""
        if self._on_outcome is not None:
            self._on_outcome(outcome, tokens, usd)
