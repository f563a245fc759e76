"""A retry budget: retries may add at most a fifth to the load, plus a few a second, so no storm can
grow.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_SHARE = 0.2
_FLOOR_PER_S = 10.0
_MOST = 100.0


class RetryBudget:
    """Tokens for retries: each call deposits a share of one, each retry takes one."""

    def __init__(
        self,
        *,
        share: float = _SHARE,
        floor_per_s: float = _FLOOR_PER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with one second's floor; ``clock`` gives seconds."""
        self._share, self._floor_per_s, self._clock = share, floor_per_s, clock
        self._tokens = floor_per_s
        self._at_s = clock()

    def deposit(self) -> None:
        """A first call was made."""
        tokens = self._tokens + self._share
        self._tokens = tokens if tokens < _MOST else _MOST  # noqa: FURB136 - min() costs four times as much

    def take(self) -> bool:
        """Ask for one retry; False when the budget is spent."""
        now = self._clock()
        self._tokens = min(_MOST, self._tokens + (now - self._at_s) * self._floor_per_s)
        self._at_s = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
