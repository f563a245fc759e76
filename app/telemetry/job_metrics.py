"""The metrics of jobs: how much waits and for how long, what ended, who was told."""

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
    """Counted by the engine of jobs. Gauges are of the store that all its workers share."""

    def __init__(
        self, counter: _Declares, gauge: _DeclaresGauge, histogram: _DeclaresHistogram
    ) -> None:
        """Declare them."""
        self.jobs = gauge(
            "slipstream_jobs",
            "Jobs by state: queued (due), delayed (to be tried again), running, dead; and the webhooks"
            " that were not taken yet (undelivered).",
            ("state",),
        )
        self.lag = gauge(
            "slipstream_job_lag_seconds",
            "How long the job that waits longest has been due.",
            (),
        )
        self.ended = counter(
            "slipstream_job_attempts_total",
            "Attempts at jobs that are over: finished, cancelled, dead, retried, or adopted from a"
            " worker that died.",
            ("outcome",),
        )
        self.waited = histogram(
            "slipstream_job_wait_seconds",
            "From a job's being due to its being begun.",
            bounds=_WAIT_BOUNDS_S,
        )
        self.took = histogram(
            "slipstream_job_seconds",
            "From a job's being asked for to its end.",
            bounds=_RUN_BOUNDS_S,
        )
        self.webhooks = counter(
            "slipstream_webhooks_total",
            "Tries to tell a job's end: delivered, retried (to be tried again) or failed for good.",
            ("outcome",),
        )
        self.scheduled = counter(
            "slipstream_schedules_total",
            "Moments of schedules that were served: job, warmed or failed.",
            ("outcome",),
        )
