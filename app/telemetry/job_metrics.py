"""Metrics of jobs: queue depth and lag, attempts, durations, webhooks and schedules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from app.telemetry.series import Counter, Gauge, Histogram

_WAIT_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600)
_RUN_BOUNDS_S = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600, 21_600, 86_400)


class _Declares(Protocol):
    """``Metrics.counter``."""

    def __call__(self, name: str, documentation: str, labels: tuple[str, ...]) -> Counter: ...


class _DeclaresGauge(Protocol):
    """``Metrics.gauge``."""

    def __call__(self, name: str, documentation: str, labels: tuple[str, ...]) -> Gauge: ...


class _DeclaresHistogram(Protocol):
    """``Metrics.histogram``."""

    def __call__(self, name: str, documentation: str, *, bounds: Iterable[float]) -> Histogram: ...


class JobMetrics:
    """Counted by the job engine. Gauges describe the store that all workers share."""

    def __init__(
        self, counter: _Declares, gauge: _DeclaresGauge, histogram: _DeclaresHistogram
    ) -> None:
        """Declare them."""
        self.jobs = gauge(
            "slipstream_jobs",
            "Jobs by state: queued (due), delayed (to be retried), running, dead; and webhooks that are"
            " not delivered yet (undelivered).",
            ("state",),
        )
        self.lag = gauge(
            "slipstream_job_lag_seconds",
            "Seconds for which the oldest due job has been waiting.",
            (),
        )
        self.ended = counter(
            "slipstream_job_attempts_total",
            "Finished attempts of jobs: finished, cancelled, dead, retried, or adopted from a worker"
            " that died.",
            ("outcome",),
        )
        self.waited = histogram(
            "slipstream_job_wait_seconds",
            "Time from a job's due time to its start.",
            bounds=_WAIT_BOUNDS_S,
        )
        self.took = histogram(
            "slipstream_job_seconds",
            "Time from a job's submission to its end.",
            bounds=_RUN_BOUNDS_S,
        )
        self.webhooks = counter(
            "slipstream_webhooks_total",
            "Webhook attempts: delivered, retried (to be tried again) or failed for good.",
            ("outcome",),
        )
        self.scheduled = counter(
            "slipstream_schedules_total",
            "Scheduled runs: job, warmed or failed.",
            ("outcome",),
        )
