"""All telemetry of one process behind one call: what the pipeline has to know of metrics, traces,
ledger and log.

Theory of operation. Nobody waits for a turn's account, so ``settle`` only appends the record. Many are
then counted at once, by kind, which costs a fifth of counting them one by one: every ``WITHIN_S``, when
``MOST_PENDING`` have come (a fifth of a millisecond of work), and before anybody reads: ``metrics``,
``traces`` and ``ledger`` bring the account up to date before they give it. Outside of ``start`` and
``stop`` each record is counted at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Protocol

from app.domain.turn_record import TurnRecord
from app.telemetry.alike import by_kind
from app.telemetry.ledger import Ledger
from app.telemetry.ledger_book import LedgerBook
from app.telemetry.log import LogWriter
from app.telemetry.loop_watch import LoopWatch
from app.telemetry.metrics import LoopLag, Metrics
from app.telemetry.traces import TraceRing

MOST_PENDING = 128
WITHIN_S = 0.1


def _nothing() -> None:
    """Owe nothing."""


class Spans(Protocol):
    """Who makes spans of finished turns."""

    def extend(self, records: Sequence[TurnRecord]) -> None:
        """Take them; never waits."""
        ...


class Telemetry:
    """Made in ``bootstrap``; ``settle`` is called exactly once for each turn, also for one that
    failed. One event loop owns it.
    """

    def __init__(
        self,
        metrics: Metrics,
        traces: TraceRing,
        ledger: Ledger,
        log: LogWriter | None = None,
        *,
        least_level: int = logging.INFO,
    ) -> None:
        """``log`` None: no turn lines (tests). ``least_level`` is the severity below which nothing is
        logged: a turn that went well is INFO, one that failed WARNING.
        """
        self._metrics, self._traces, self._ledger = metrics, traces, ledger
        self.log = log
        self._least_level = least_level
        self._owed: Callable[[], None] = _nothing
        self.spans: Spans | None = None
        """Where finished turns are exported as spans; None: nowhere."""
        self.book: LedgerBook | None = None
        """Where the ledger is kept; None: in memory alone."""
        self._lag = LoopLag(metrics)
        self._watch = LoopWatch(self._lag, metrics.loop_stalls.child().inc)
        self._pending: list[TurnRecord] = []
        self._most = 1
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
        """Take a finished turn, to be counted, kept, booked and logged shortly; never waits."""
        pending = self._pending
        pending.append(record)
        if len(pending) >= self._most:
            self.flush()

    def bring_up_to_date(self) -> None:
        """Have turns settled that wait for it, and count all."""
        self._owed()
        self.flush()

    def flush(self) -> None:
        """Count every turn that is settled."""
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

    def start(self, owed: Callable[[], None] = _nothing) -> None:
        """Begin to sample the loop's lag, and to count many turns at once; call inside the running loop.

        ``owed`` settles the turns that are over and wait for a lull.
        """
        self._owed = owed
        loop = asyncio.get_running_loop()
        self._lag.start(loop)
        self._watch.start()
        self._most = MOST_PENDING
        self._again(loop)

    def stop(self) -> None:
        """Count what is pending and end; the log's thread is closed by its owner, after everything else."""
        self._watch.stop()
        self._lag.stop()
        self._most = 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.bring_up_to_date()

    def _again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(WITHIN_S, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._again(loop)
        self.flush()
