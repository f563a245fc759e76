"""A retry budget: retries may add at most a fifth to the load, plus ten a second, so that no retry storm
grows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_SHARE = 0.2
_FLOOR_PER_S = 10.0
_MAX_TOKENS = 100.0


class RetryBudget:
    """A token bucket for retries: each first call deposits a share of a token, each retry takes one."""

    def __init__(
        self,
        *,
        share: float = _SHARE,
        floor_per_s: float = _FLOOR_PER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with one second's refill; ``clock`` gives seconds."""
        self._share, self._floor_per_s, self._clock = share, floor_per_s, clock
        self._tokens = floor_per_s
        self._at_s = clock()

    def deposit(self) -> None:
        """Record a first call."""
        tokens = self._tokens + self._share
        self._tokens = tokens if tokens < _MAX_TOKENS else _MAX_TOKENS  # noqa: FURB136 - min() costs 4x

    def try_take(self) -> bool:
        """Take a token for one retry; False when the budget is spent."""
        now = self._clock()
        self._tokens = min(_MAX_TOKENS, self._tokens + (now - self._at_s) * self._floor_per_s)
        self._at_s = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
