"""What each worker knows of its upstreams' health, for the others to know sooner than by failing.

Once a second a worker says which deployments it leaves alone, and for how long, and hears what the
others say; no request ever waits for it. Two things are told apart. A vendor's own word (429 and
``retry-after``, a rate header at zero) is about the vendor's account, which all workers share: it is
taken as it is. A breaker that is open is what one worker saw, and may be that worker's own network: it
is taken as a short hint, and the others go on finding out for themselves.

What was heard is never said on, so a hint dies with whoever had it.
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
HINT_MOST_S: Final = 2.0
"""For which another worker's open breaker is believed: two of these rounds."""


class Board(Protocol):
    """Where hints are written for other workers."""

    async def exchange(self, own: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
        """Write for how many seconds each of ``own`` is left alone; give the same of ``names``, as any
        worker said last. Raises ``StoreError``.
        """
        ...


class SharedHealth:
    """One worker's part; ``run`` until cancelled."""

    def __init__(
        self,
        board: Board,
        load: LoadBalancer,
        names: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Share what ``load`` knows of the deployments ``names``; both count by ``clock``."""
        self._board, self._load, self._names, self._clock = board, load, list(names), clock
        self._heard: dict[str, float] = {}
        """Until when a deployment is left alone because of others."""

    async def run(self) -> None:
        """Exchange hints once a second."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.exchange()

    async def exchange(self) -> None:
        """Say and hear once; a Redis that is away costs nothing but what it would have said."""
        try:
            found = await self._board.exchange(self._own(), self._names)
        except StoreError:
            return
        now_s = self._clock()
        for name, left_s in found.items():
            breaker = self._load.deployment(name).breaker
            if now_s + left_s > breaker.held_until_s + EVERY_S / 10:
                breaker.hold(now_s, left_s)
                self._heard[name] = breaker.held_until_s

    def _own(self) -> dict[str, float]:
        now_s, own = self._clock(), dict[str, float]()
        for name in self._names:
            breaker = self._load.deployment(name).breaker
            held_s = breaker.held_until_s - now_s
            if breaker.held_until_s <= self._heard.get(name, -math.inf):
                held_s = 0.0
            if breaker.tripped:
                held_s = max(held_s, min(HINT_MOST_S, breaker.open_until_s - now_s))
            if held_s > 0:
                own[name] = min(held_s, MAX_HOLD_S)
        return own
