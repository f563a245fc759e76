"""When the garbage collector runs: often and briefly, and never over what is there to stay.

Theory of operation. Requests leave no cycles of references behind (``tests/e2e/test_collecting.py``), so the
collector is a safety net; but it stops the loop while it walks, and by itself it walks over fifty thousand
young objects at a time, over what survived of twenty such walks, and at last over everything: 20 to 50 ms.
So a timer has it look through what is new four times a second, a millisecond's worth, and what survives (an
answer that is kept, say) is put out of its way for good (``gc.freeze``); it still goes with its last
reference.

What was alive at such a moment and became a cycle later is found by a walk over everything, which is done
once nobody has asked anything for a minute, or, on a server that never rests, after hours.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Final, Protocol

TICK_S: Final = 0.25
LEAST_YOUNG: Final = 2_000
"""Fewer new objects are not worth a walk."""
REST_S: Final = 60.0
"""For so long nothing must have happened before everything is walked over."""
LONGEST_S: Final = 6 * 3_600.0
"""So long that may be put off."""
_RESTING: Final = 0.05
"""Of the time between two ticks, the loop's thread used less than this: nobody asked anything."""


class Collector(Protocol):
    """What is needed of the module ``gc``."""

    def get_count(self) -> tuple[int, int, int]:
        """Objects made since the last walk, and walks since the last over the older ones."""

    def collect(self, generation: int = 2) -> int:
        """Walk over this generation and the younger ones."""

    def freeze(self) -> None:
        """Never walk over what there is."""

    def unfreeze(self) -> None:
        """Take that back."""


class Collecting:
    """See the module; of the process's one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        collector: Collector = gc,
        used: Callable[[], float] = time.thread_time,
    ) -> None:
        """``used`` says how many seconds of CPU the loop's thread has used."""
        self._loop, self._collector, self._used = loop, collector, used
        self._used_s = 0.0
        self._resting_s = self._since_s = 0.0
        """How long nobody has asked anything, and how long ago the last walk over everything is."""
        self._frozen = 0
        """Walks since then."""

    def start(self) -> None:
        """Begin; it ends with the loop."""
        self._used_s = self._used()
        self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self.look()
        self._loop.call_later(TICK_S, self._tick)

    def look(self) -> None:
        """Do what is due, a tick after the last look."""
        used_s, self._used_s = self._used_s, self._used()
        rests = self._used_s - used_s < TICK_S * _RESTING
        self._resting_s = self._resting_s + TICK_S if rests else 0.0
        self._since_s += TICK_S
        collector = self._collector
        if self._frozen and (self._resting_s >= REST_S or self._since_s >= LONGEST_S):
            collector.unfreeze()
            collector.collect()
            collector.freeze()
            self._frozen, self._since_s = 0, 0.0
        elif collector.get_count()[0] >= LEAST_YOUNG:
            collector.collect(0)
            collector.freeze()
            self._frozen += 1
        self._used_s = self._used()  # a walk is no request
