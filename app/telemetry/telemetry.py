"""All telemetry of one process behind one call: what the pipeline has to know of metrics, traces,
ledger and log.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus

from app.domain.turn_record import TurnRecord
from app.telemetry.ledger import Ledger
from app.telemetry.log import LogWriter
from app.telemetry.metrics import LoopLag, Metrics
from app.telemetry.traces import TraceRing


@dataclass(slots=True)
class Telemetry:
    """Made in ``bootstrap``; ``settle`` is called exactly once for each turn, also for one that
    failed.
    """

    metrics: Metrics
    traces: TraceRing
    ledger: Ledger
    log: LogWriter | None = None
    """None: no turn lines (tests)."""
    lag: LoopLag | None = None
    least_level: int = logging.INFO
    """Severity below which nothing is logged: a turn that went well is INFO, one that failed WARNING."""

    def settle(self, record: TurnRecord) -> None:
        """Count, keep, book and log a finished turn; never waits, about 8 us in all."""
        self.metrics.record(record)
        self.traces.add(record)
        self.ledger.record(record)
        if self.log is not None and (self.least_level <= logging.INFO or self._noteworthy(record)):
            self.log.put(record)

    def _noteworthy(self, record: TurnRecord) -> bool:
        """Whether a turn's line, a warning where it failed, passes the configured least level."""
        failed = record.status >= HTTPStatus.INTERNAL_SERVER_ERROR or bool(record.code)
        return failed and self.least_level <= logging.WARNING

    def start(self) -> None:
        """Begin to sample the running event loop's lag; call inside the loop."""
        if self.lag is None:
            self.lag = LoopLag(self.metrics)
        self.lag.start(asyncio.get_running_loop())

    def stop(self) -> None:
        """End the sampling; the log's thread is closed by its owner, after everything else."""
        if self.lag is not None:
            self.lag.stop()
