"""Work deferred until answers are sent: accounting of a turn, storing its answer, learning from it.

Theory of operation. Streams start together and end together, so work at one's end delays another's first
token. Nobody waits for that work, so it is queued here and done in the next lull: when no request has come
for ``LULL_NS``, in slices of ``SLICE_NS``. The queue is bounded in length (beyond ``MAX_PENDING`` each new
item runs the oldest at once) and in delay (after ``MAX_DELAY_NS`` it runs beside the requests). Whoever reads
its results (cached answers, metrics, traces, the ledger) drains it first.

One event loop owns it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final

MAX_PENDING: Final = 256
LULL_NS: Final = 2_000_000
MAX_DELAY_NS: Final = 50_000_000
SLICE_NS: Final = 300_000
_FIRST_LOOK_S: Final = 0.005
_NEXT_LOOK_S: Final = 0.001
_log = logging.getLogger("slipstream.turn")


class DeferredWork:
    """A queue of work that waits for a lull, first in, first out."""

    def __init__(self, clock: Callable[[], int] = perf_counter_ns) -> None:
        """Start empty; ``clock`` gives nanoseconds."""
        self.pending: deque[Callable[[], None]] = deque()
        self.last_request_ns = 0
        """Arrival of the last request, on ``clock``."""
        self._clock = clock
        self._since_ns = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, work: Callable[[], None]) -> None:
        """Queue ``work``; exceptions that it raises are logged. Call it inside the running loop."""
        self.pending.append(work)
        if self._timer is None:
            self._since_ns = self._clock()
            self._schedule(_FIRST_LOOK_S)
        elif len(self.pending) > MAX_PENDING:
            self._run_next()

    def drain(self) -> None:
        """Run everything that is queued, now."""
        while self.pending:
            self._run_next()

    async def drained(self) -> None:
        """Run everything that is queued now, in slices that let other tasks run."""
        waiting = len(self.pending)
        while waiting > 0 and self.pending:
            until_ns = self._clock() + SLICE_NS
            while waiting > 0 and self.pending:
                self._run_next()
                waiting -= 1
                if self._clock() >= until_ns:
                    break
            if waiting > 0 and self.pending:
                await asyncio.sleep(0)

    def _run_next(self) -> None:
        work = self.pending.popleft()
        try:
            work()
        except Exception as raised:  # noqa: BLE001 - the process's edge: the answer is out, and others wait
            _log.error("turn_failed", exc_info=raised)

    def _schedule(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._run_if_quiet)

    def _run_if_quiet(self) -> None:
        """Run one slice if there is a lull or the queue has waited too long."""
        self._timer = None
        now_ns = self._clock()
        if now_ns - self.last_request_ns >= LULL_NS or now_ns - self._since_ns >= MAX_DELAY_NS:
            until_ns = now_ns + SLICE_NS
            while self.pending:
                self._run_next()
                if self._clock() >= until_ns:
                    break
        if self.pending:
            self._schedule(_NEXT_LOOK_S)
