"""Share upstream health between workers, so that each learns of trouble before failing itself.

Once a second a worker publishes which deployments it avoids and for how long, and reads the others' hints;
no request waits for it. A vendor's own statement (429 with ``retry-after``, a rate-limit header at zero)
concerns the account that all workers share, and is adopted as it is. An open breaker is what one worker
observed, perhaps of its own network: it is adopted as a short hint, and the others keep finding out for
themselves. Received hints are never republished, so a hint ends with the worker that observed it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from app.errors import StoreError
from app.routing.breaker import MAX_HOLD_S
from app.routing.load import LoadBalancer

EVERY_S: Final = 1.0
MAX_HINT_S: Final = 2.0
"""How long another worker's open breaker is adopted: two rounds."""


class HintBoard(Protocol):
    """Where workers exchange hints."""

    async def exchange(self, own: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
        """Publish for how many seconds each of ``own`` is avoided; return the same of ``names``, as last
        published by any worker. Raises ``StoreError``.
        """
        ...


class SharedHealth:
    """One worker's exchange of hints."""

    def __init__(
        self,
        board: HintBoard,
        load: LoadBalancer,
        names: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Share the health of the deployments ``names`` in ``load``; both use ``clock``."""
        self._board, self._load, self._names, self._clock = board, load, list(names), clock
        self._held_by_others: dict[str, float] = {}
        """Until when a deployment is avoided because of others' hints."""

    async def run(self) -> None:
        """Exchange hints once a second, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.exchange()

    async def exchange(self) -> None:
        """Publish and read once; without Redis nothing happens."""
        try:
            found = await self._board.exchange(self._own_hints(), self._names)
        except StoreError:
            return
        now_s = self._clock()
        for name, left_s in found.items():
            breaker = self._load.deployment(name).breaker
            if now_s + left_s > breaker.held_until_s + EVERY_S / 10:
                breaker.hold(now_s, left_s)
                self._held_by_others[name] = breaker.held_until_s

    def _own_hints(self) -> dict[str, float]:
        now_s, own = self._clock(), dict[str, float]()
        for name in self._names:
            breaker = self._load.deployment(name).breaker
            held_s = breaker.held_until_s - now_s
            if breaker.held_until_s <= self._held_by_others.get(name, -math.inf):
                held_s = 0.0
            if breaker.tripped:
                held_s = max(held_s, min(MAX_HINT_S, breaker.open_until_s - now_s))
            if held_s > 0:
                own[name] = min(held_s, MAX_HOLD_S)
        return own
