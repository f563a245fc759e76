"""The gateway with a watchdog on its event loop: `python -m bench.conditions.watched REPORT serve ...`.

A callback comes back to the loop every millisecond and reads how much CPU the loop's thread has used since
it last did: what one turn of the loop took, whatever else the machine did meanwhile. While a turn goes on
for over 2 ms a thread notes the stacks, so that a long one has a name. The longest are written to REPORT as
JSON on SIGUSR2, and begin anew.

Reading is to within a millisecond, upwards: a turn is counted together with what came since the last look.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Generator
from pathlib import Path
from typing import Any, TypeVar

from app.api import acceptor
from app.cli import main
from app.telemetry.loop_watch import where

Result = TypeVar("Result")
_BEAT_S = 0.001
_NOTED_MS = 2.0
_LOOK_S = 0.0007
_KEPT, _MOST_STACKS = 12, 100
_SWITCH_S = 0.0005
"""The interpreter's own 5 ms would let the watchdog see the end of a long turn only."""


class _Watch:
    """Beats in one loop; looked at by one thread."""

    def __init__(self, loop: acceptor.GatewayLoop, report: Path) -> None:
        self._loop, self._report = loop, report
        self._thread = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._thread)
        self._beat_ns, self._number = time.thread_time_ns(), 0
        self._stacks: list[tuple[float, list[str]]] = []
        self._longest: list[tuple[float, list[tuple[float, list[str]]]]] = []
        self._beats = 0

    def begin(self) -> None:
        """Beat and watch."""
        sys.setswitchinterval(_SWITCH_S)
        threading.Thread(target=self._look, name="watchdog", daemon=True).start()
        self._loop.add_signal_handler(signal.SIGUSR2, self._tell)
        self._beat()

    def _beat(self) -> None:
        now_ns = time.thread_time_ns()
        took_ms = (now_ns - self._beat_ns) / 1e6
        if took_ms >= _NOTED_MS:
            self._longest.append((took_ms, self._stacks))
            self._longest.sort(key=lambda each: -each[0])
            del self._longest[_KEPT:]
            self._stacks = []
        self._beats += 1
        self._number += 1
        self._beat_ns = time.thread_time_ns()
        self._loop.call_later(_BEAT_S, self._beat)

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            number, stacks = self._number, self._stacks
            used_ms = (time.clock_gettime_ns(self._clock) - self._beat_ns) / 1e6
            if used_ms >= _NOTED_MS and number == self._number and len(stacks) < _MOST_STACKS:
                stacks.append((used_ms, where(self._thread)))

    def _tell(self) -> None:
        told = {"beats": self._beats, "longest": self._longest}
        beside = self._report.with_suffix(".new")
        beside.write_text(json.dumps(told))
        beside.replace(self._report)
        self._longest, self._beats = [], 0


class _WatchedLoop(acceptor.GatewayLoop):
    """The gateway's loop, watched from its first turn on."""

    watched = False

    def run_until_complete(
        self, future: Generator[Any, None, Result] | Awaitable[Result]
    ) -> Result:
        """As the loop's own."""
        if not self.watched:
            self.watched = True
            self.call_soon(_Watch(self, Path(sys.argv[1])).begin)
        return super().run_until_complete(future)


if __name__ == "__main__":
    acceptor.GatewayLoop = _WatchedLoop  # type: ignore[misc]
    sys.exit(main(sys.argv[2:]))
