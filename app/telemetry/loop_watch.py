"""Notices that the event loop stands still, while it does, and says in whose code.

The lag histogram tells of a block once it is over, and of a lasting one never. A thread looks every quarter
of a second at when the loop last ran its timer; is that over a second late, it counts the stall and logs the
functions on the loop's stack: names and lines of code, no values. Once a stall, so that a loop that hangs
for an hour is one line.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

from app.telemetry.metrics import LoopLag

STALLED_S = 1.0
_LOOK_EVERY_S = 0.25
_FRAMES = 12
_log = logging.getLogger("slipstream.telemetry")


class LoopWatch:
    """Detects a blocked event loop from a thread of its own."""

    def __init__(
        self,
        lag: LoopLag,
        on_stall: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_stall`` is called in the watching thread, once for each stall."""
        self._lag, self._on_stall, self._clock = lag, on_stall, clock
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop_thread = 0
        self._told_s = 0.0

    def start(self) -> None:
        """Start watching the loop that runs in the calling thread."""
        self._loop_thread = threading.get_ident()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="slipstream-loop-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; idempotent."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def check(self) -> None:
        """Check once."""
        ran_s = self._lag.ran_s
        late_s = self._clock() - ran_s - LoopLag.INTERVAL_S
        if ran_s == self._told_s or late_s < STALLED_S:
            return
        self._told_s = ran_s
        self._on_stall()
        _log.warning(
            "event_loop_blocked",
            extra={"blocked_s": round(late_s, 2), "where": where(self._loop_thread)},
        )

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            self.check()


def where(thread: int) -> list[str]:
    """The innermost functions on a thread's stack, innermost first."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - the interpreter's documented way
    if frame is None:
        return []
    found = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
    return [f"{each.name} ({each.filename}:{each.lineno})" for each in list(found)[:_FRAMES]]
