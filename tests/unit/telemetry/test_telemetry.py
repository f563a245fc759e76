"""What is settled reaches every part, and the log only from its least level on."""

from __future__ import annotations

import io
import json
import logging

import pytest

from app.api.deferred_work import DeferredWork
from app.telemetry.ledger import Ledger
from app.telemetry.log import LogWriter
from app.telemetry.metrics import Metrics
from app.telemetry.telemetry import Telemetry
from app.telemetry.traces import TraceRing
from tests.unit.telemetry.records import a_turn


@pytest.mark.parametrize(
    ("level", "logged"),
    [(logging.INFO, ["fine", "failed"]), (logging.WARNING, ["failed"]), (logging.ERROR, [])],
)
def test_turns_below_the_least_level_are_kept_but_not_logged(level: int, logged: list[str]) -> None:
    """A turn that went well is INFO, one that failed WARNING."""
    sink = io.StringIO()
    telemetry = Telemetry(
        Metrics(), TraceRing(), Ledger([]), LogWriter(sink, human=False), min_level=level
    )
    telemetry.settle(a_turn(request_id="fine"))
    telemetry.settle(a_turn(request_id="failed", status=502, code="upstream_error"))
    assert telemetry.log is not None
    telemetry.log.flush()
    assert [json.loads(line)["request_id"] for line in sink.getvalue().splitlines()] == logged
    assert len(telemetry.traces) == 2


@pytest.mark.anyio
async def test_what_waits_for_a_lull_is_settled_before_anybody_reads_and_at_the_end() -> None:
    """Metrics, traces and the ledger never lack a turn that is over; nor does the log, once all has ended."""
    sink = io.StringIO()
    telemetry = Telemetry(Metrics(), TraceRing(), Ledger([]), LogWriter(sink, human=False))
    after = DeferredWork()

    def end(request_id: str) -> None:
        turn = a_turn(request_id=request_id)
        after.add(lambda: telemetry.settle(turn))

    telemetry.start(after.drain)
    end("first")
    assert len(telemetry.traces) == 1
    end("second")
    assert telemetry.ledger.savings()["turns"] == 2
    end("third")
    assert await telemetry.metrics.render()
    assert not after.pending
    end("last")
    telemetry.stop()
    assert telemetry.log is not None
    telemetry.log.flush()
    told = [json.loads(line)["request_id"] for line in sink.getvalue().splitlines()]
    assert told == ["first", "second", "third", "last"]
