"""All telemetry of one process behind one call: what the pipeline has to know of metrics, traces,
ledger and log.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

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

    def settle(self, record: TurnRecord) -> None:
        """Count, keep, book and log a finished turn; never waits, about 8 us in all."""
        self.metrics.record(record)
        self.traces.add(record)
        self.ledger.record(record)
        if self.log is not None:
            self.log.put(record)

    def start(self) -> None:
        """Begin to sample the running event loop's lag; call inside the loop."""
        if self.lag is None:
            self.lag = LoopLag(self.metrics)
        self.lag.start(asyncio.get_running_loop())

    def stop(self) -> None:
        """End the sampling; the log's thread is closed by its owner, after everything else."""
        if self.lag is not None:
            self.lag.stop()
