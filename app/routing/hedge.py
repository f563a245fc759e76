"""Hedged requests: after which delay a second call is sent, and the budget that limits them.

A call without a first token after the 95th percentile is probably in the tail, and another deployment
probably is not (Dean and Barroso, "The Tail at Scale"). The delay is the learned 95th percentile of the
deployment that was called, or 1 - the budget's share where that is later (the 97th for 3 % of the calls), so
that the budget is spent on the longest waits.

Two budgets hold: a share of the calls that could be hedged, and money per hour. A hedge costs about the
prompt, billed twice: the loser is cancelled early.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from app.routing.load import Deployment

_QUANTILE = 0.95
_MIN_FIRST_TOKENS = 20
"""First tokens to observe before a tail can be told from the rest."""
_BURST = 10.0
_HOUR_S = 3600.0


class Hedging:
    """Hedging delays and budgets; owned by one event loop."""

    def __init__(
        self,
        share: float,
        usd_per_hour: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_outcome: Callable[[str, int, float], None] | None = None,
    ) -> None:
        """Hedge at most ``share`` of the calls for at most ``usd_per_hour``."""
        self._share, self._usd_per_hour, self._clock = share, usd_per_hour, clock
        self._tokens = 0.0
        self._usd = usd_per_hour
        self._at_s = clock()
        self._on_outcome = on_outcome

    def delay_s(self, primary: Deployment, backup: Deployment) -> float | None:
        """Count a call that could be hedged; how long to wait for its first token, None = do not hedge.

        While too little is known of ``primary``, ``backup`` of the same tier stands in for it.
        """
        self._tokens = min(_BURST, self._tokens + self._share)
        if self._tokens < 1:
            return None
        for deployment in (primary, backup):
            if len(deployment.first_tokens) >= _MIN_FIRST_TOKENS:
                return deployment.first_tokens.quantile(max(_QUANTILE, 1.0 - self._share))
        return None

    def try_take(self, usd: float) -> bool:
        """Take the budget for one second call of about ``usd``; False when it is spent."""
        now = self._clock()
        refill = (now - self._at_s) * self._usd_per_hour / _HOUR_S
        self._usd = min(self._usd_per_hour, self._usd + refill)
        self._at_s = now
        if self._tokens < 1 or self._usd < usd:
            return False
        self._tokens -= 1
        self._usd -= usd
        return True

    def record_outcome(self, outcome: str, tokens: int, usd: float) -> None:
        """Report a hedge: the second call ``won``, ``lost`` or ``failed``; tokens and cost of the loser."""
        if self._on_outcome is not None:
            self._on_outcome(outcome, tokens, usd)
