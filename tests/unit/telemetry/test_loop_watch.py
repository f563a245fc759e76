"""A loop that stands still is noticed while it does, once, and the code is named."""

from __future__ import annotations

import logging
import threading

import pytest

from app.telemetry.loop_watch import STALLED_S, LoopWatch, where
from app.telemetry.metrics import LoopLag, Metrics


def test_a_stall_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    lag, now = LoopLag(metrics), [100.0]
    stalls = metrics.loop_stalls.child()
    watch = LoopWatch(lag, stalls.inc, clock=lambda: now[0])
    watch.check()
    assert stalls.value == 0, "nothing runs yet"
    lag.ran_s = 100.0
    now[0] = 100.0 + LoopLag.INTERVAL_S + STALLED_S - 0.01
    watch.check()
    assert stalls.value == 0
    with caplog.at_level(logging.WARNING, "slipstream.telemetry"):
        for late_s in (0.1, 1.0, 3600.0):
            now[0] = 100.0 + LoopLag.INTERVAL_S + STALLED_S + late_s
            watch.check()
    assert stalls.value == 1
    assert [record.message for record in caplog.records] == ["event_loop_blocked"]
    lag.ran_s = now[0]
    now[0] += LoopLag.INTERVAL_S + STALLED_S + 1
    watch.check()
    assert stalls.value == 2, "the next stall is another"


def test_the_innermost_function_comes_first() -> None:
    entered, leave = threading.Event(), threading.Event()

    def blocks_here() -> None:
        entered.set()
        leave.wait()

    thread = threading.Thread(target=blocks_here)
    thread.start()
    entered.wait()
    names = [each.partition(" ")[0] for each in where(thread.ident or 0)]
    leave.set()
    thread.join()
    assert names.index("wait") < names.index("blocks_here")
    assert where(-1) == []
