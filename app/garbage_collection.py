"""When the garbage collector runs: often and briefly, and never over long-lived objects.

Theory of operation. Requests leave no reference cycles behind (``tests/e2e/test_garbage_collection.py``), so
the collector is a safety net. But it stops the event loop, and by itself it collects fifty thousand young
objects at a time, then older generations, and finally everything: 20 to 50 ms. So a timer collects the young
generation four times a second, about a millisecond each, and freezes what survives (``gc.freeze``), such as a
cached answer; frozen objects are still freed with their last reference.

Objects that became part of a cycle after they were frozen are found by a full collection, which runs after a
minute without requests, or after hours on a server that is never idle.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Final, Protocol

TICK_S: Final = 0.25
MIN_YOUNG_OBJECTS: Final = 2_000
"""Fewer new objects are not worth a collection."""
IDLE_S: Final = 60.0
"""Idle time before a full collection."""
MAX_POSTPONED_S: Final = 6 * 3_600.0
"""A full collection is postponed for at most so long."""
_IDLE_CPU_SHARE: Final = 0.05
"""The server counts as idle if the loop's thread used less than this share of the CPU since the last tick."""


class Collector(Protocol):
    """The part of the module ``gc`` that is used."""

    def get_count(self) -> tuple[int, int, int]:
        """Objects created since the last collection, and collections since the last of each older
        generation.
        """

    def collect(self, generation: int = 2) -> int:
        """Collect this generation and the younger ones."""

    def freeze(self) -> None:
        """Exclude all present objects from collections."""

    def unfreeze(self) -> None:
        """Include them again."""


class GarbageSchedule:
    """Runs the collections of the module docstring on the process's one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        collector: Collector = gc,
        used: Callable[[], float] = time.thread_time,
    ) -> None:
        """``used`` returns the CPU seconds that the loop's thread has used."""
        self._loop, self._collector, self._used = loop, collector, used
        self._used_s = 0.0
        self._idle_s = self._since_full_s = 0.0
        """Seconds that the server has been idle, and seconds since the last full collection."""
        self._freezes = 0
        """Freezes since the last full collection."""

    def start(self) -> None:
        """Start the timer, which ends with the loop."""
        self._used_s = self._used()
        self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self.run_due()
        self._loop.call_later(TICK_S, self._tick)

    def run_due(self) -> None:
        """Run the collection that is due; called once a tick."""
        used_s, self._used_s = self._used_s, self._used()
        idle = self._used_s - used_s < TICK_S * _IDLE_CPU_SHARE
        self._idle_s = self._idle_s + TICK_S if idle else 0.0
        self._since_full_s += TICK_S
        collector = self._collector
        if self._freezes and (self._idle_s >= IDLE_S or self._since_full_s >= MAX_POSTPONED_S):
            collector.unfreeze()
            collector.collect()
            collector.freeze()
            self._freezes, self._since_full_s = 0, 0.0
        elif collector.get_count()[0] >= MIN_YOUNG_OBJECTS:
            collector.collect(0)
            collector.freeze()
            self._freezes += 1
        self._used_s = self._used()  # a collection is no request
