"""The part of the composition root that builds telemetry."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import structlog

from app import __version__
from app.api.context import Readiness
from app.domain.models import Model
from app.settings import Settings
from app.telemetry.ledger import TECHNIQUES, Ledger
from app.telemetry.ledger_file import LedgerFile
from app.telemetry.log import LogWriter, configure
from app.telemetry.metrics import Metrics
from app.telemetry.telemetry import Telemetry
from app.telemetry.traces import TraceRing


async def open_telemetry(
    settings: Settings, models: Mapping[str, Model], readiness: Readiness, stack: AsyncExitStack
) -> Telemetry:
    """Build metrics, traces, ledger, log and spans from the settings; closed with ``stack``."""
    wanted = settings.telemetry
    human = {"auto": None, "json": False, "text": True}[wanted.log_format]
    log = LogWriter(sys.stderr, human=human)
    log.start()
    stack.callback(log.close)
    level = {"debug": 10, "info": 20, "warning": 30, "error": 40}[wanted.log_level]
    configure(log, level)
    metrics = Metrics(models, (tool.name for tool in settings.tools))
    telemetry = Telemetry(
        metrics=metrics,
        traces=TraceRing(max(1, wanted.trace_ring)),
        ledger=Ledger(models.values(), metrics),
        log=log,
        min_level=level,
    )
    if wanted.otlp_endpoint:
        from app.telemetry.tracing import SpanSender  # OpenTelemetry's packages take half a second

        lost = metrics.spans_lost.child()
        telemetry.spans = spans = SpanSender(wanted.otlp_endpoint, __version__, on_lost=lost.inc)
        spans.start()
        stack.callback(spans.close)
    await _keep_ledger(settings, telemetry, readiness, stack)
    return telemetry


async def _keep_ledger(
    settings: Settings, telemetry: Telemetry, readiness: Readiness, stack: AsyncExitStack
) -> None:
    """Write the ledger to ``data_dir`` and continue from what it holds.

    Read in a thread: a day has millions of turns, and at a reload the gateway before serves meanwhile.
    """
    days = settings.telemetry.ledger_days
    if not days:
        return
    telemetry.ledger_file = file = LedgerFile(
        Path(settings.state.data_dir) / "ledger.sqlite",
        TECHNIQUES,
        keep_days=days,
        on_lost=telemetry.metrics.ledger_lost.child().inc,
        on_fault=partial(degrade, readiness, "ledger"),
    )
    telemetry.ledger.write_to(file, await asyncio.to_thread(file.start))
    stack.callback(file.close)


def degrade(readiness: Readiness, what: str, why: str | None) -> None:
    """Say once, on ``/readyz`` and in the log, what works less well than it should; None: it works again."""
    if why is None:
        readiness.degraded.pop(what, None)
    elif readiness.degraded.get(what) != why:
        readiness.degraded[what] = why
        structlog.get_logger().warning("degraded", what=what, reason=why)
