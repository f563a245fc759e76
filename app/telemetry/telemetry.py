"""The process's telemetry behind one call: metrics, traces, ledger, spans and log.

Theory of operation. Nothing waits for a turn's accounting, so ``settle`` only appends the record. Records are
counted in batches by kind, which costs a fifth of counting each: every ``FLUSH_INTERVAL_S``, whenever
``MAX_PENDING`` are pending (a fifth of a millisecond of work), and before every read: ``metrics``, ``traces``
and ``ledger`` flush first. Outside of ``start`` and ``stop`` each record is counted at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Protocol

from app.domain.turn_record import TurnRecord
from app.telemetry.ledger import Ledger
from app.telemetry.ledger_file import LedgerFile
from app.telemetry.log import LogWriter
from app.telemetry.loop_watch import LoopWatch
from app.telemetry.metrics import LoopLag, Metrics
from app.telemetry.traces import TraceRing
from app.telemetry.turn_batch import by_kind

MAX_PENDING = 128
FLUSH_INTERVAL_S = 0.1


def _nothing() -> None:
    """Settle nothing."""


class Spans(Protocol):
    """Exports finished turns as spans."""

    def extend(self, records: Sequence[TurnRecord]) -> None:
        """Queue the records; never waits."""
        ...


class Telemetry:
    """Records finished turns; ``settle`` is called exactly once per turn. Owned by one event loop."""

    def __init__(
        self,
        metrics: Metrics,
        traces: TraceRing,
        ledger: Ledger,
        log: LogWriter | None = None,
        *,
        min_level: int = logging.INFO,
    ) -> None:
        """``log`` None: no turn lines. ``min_level``: lowest severity logged; a failed turn is a WARNING,
        others INFO.
        """
        self._metrics, self._traces, self._ledger = metrics, traces, ledger
        self.log = log
        self._least_level = min_level
        self._settle_deferred: Callable[[], None] = _nothing
        self.spans: Spans | None = None
        """The exporter of spans; None: none."""
        self.ledger_file: LedgerFile | None = None
        """The ledger's file; None: the ledger is in memory alone."""
        self._lag = LoopLag(metrics)
        self._watch = LoopWatch(self._lag, metrics.loop_stalls.child().inc)
        self._pending: list[TurnRecord] = []
        self._batch_size = 1
        self._timer: asyncio.TimerHandle | None = None

    @property
    def metrics(self) -> Metrics:
        """The metrics, every settled turn counted."""
        self.bring_up_to_date()
        return self._metrics

    @property
    def traces(self) -> TraceRing:
        """The newest turns, every settled one included."""
        self.bring_up_to_date()
        return self._traces

    @property
    def ledger(self) -> Ledger:
        """The ledger, every settled turn booked."""
        self.bring_up_to_date()
        return self._ledger

    def settle(self, record: TurnRecord) -> None:
        """Queue a finished turn for metrics, traces, ledger and log; never waits."""
        pending = self._pending
        pending.append(record)
        if len(pending) >= self._batch_size:
            self.flush()

    def bring_up_to_date(self) -> None:
        """Settle deferred turns and flush."""
        self._settle_deferred()
        self.flush()

    def flush(self) -> None:
        """Record every queued turn."""
        pending = self._pending
        if not pending:
            return
        self._pending = []
        self._traces.extend(pending)
        if self.spans is not None:
            self.spans.extend(pending)
        for turns in by_kind(pending):
            self._metrics.record_all(turns)
            self._ledger.record_all(turns)
            if self.log is not None and self._level(turns[0]) >= self._least_level:
                self.log.put_turns(turns)

    def _level(self, record: TurnRecord) -> int:
        """The severity of a turn's line; the same for all of its kind."""
        failed = record.status >= HTTPStatus.INTERNAL_SERVER_ERROR or bool(record.code)
        return logging.WARNING if failed else logging.INFO

    def start(self, settle_deferred: Callable[[], None] = _nothing) -> None:
        """Start sampling the loop's lag and batching turns; call inside the running loop.

        ``settle_deferred`` settles turns whose accounting was deferred until after their response.
        """
        self._settle_deferred = settle_deferred
        loop = asyncio.get_running_loop()
        self._lag.start(loop)
        self._watch.start()
        self._batch_size = MAX_PENDING
        self._schedule(loop)

    def stop(self) -> None:
        """Flush and stop; the log's thread is closed by its owner, last."""
        self._watch.stop()
        self._lag.stop()
        self._batch_size = 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.bring_up_to_date()

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(FLUSH_INTERVAL_S, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._schedule(loop)
        self.flush()
