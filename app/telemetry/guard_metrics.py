"""Metrics of limits, load shedding, hedging, shadow runs, prompt caches and batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from app.telemetry.series import Counter, Gauge

GateState = Callable[[], tuple[float, int, int]]
"""Returns a gate's limit, the places in use and the calls that wait."""


class _Declares(Protocol):
    """``Metrics.counter``."""

    def __call__(self, name: str, documentation: str, labels: tuple[str, ...]) -> Counter: ...


class _DeclaresGauge(Protocol):
    """``Metrics.gauge``."""

    def __call__(self, name: str, documentation: str, labels: tuple[str, ...]) -> Gauge: ...


class GuardMetrics:
    """Counters and gauges of these; counted where the decision is made."""

    def __init__(self, counter: _Declares, gauge: _DeclaresGauge) -> None:
        """Declare them."""
        self.shed = counter(
            "slipstream_shed_total",
            "Calls shed before a busy upstream, by reason.",
            ("provider", "why"),
        )
        self.limited = counter(
            "slipstream_limited_total",
            "Requests refused by a limit of a key or tenant, by limit.",
            ("limit",),
        )
        self.places = gauge(
            "slipstream_upstream_places",
            "Concurrency at an upstream: the current limit, calls in use, calls that wait.",
            ("provider", "which"),
        )
        self.shadows = counter(
            "slipstream_shadow_runs_total",
            "Shadow runs on both tiers: judged, unjudged, failed or dropped.",
            ("outcome",),
        )
        self.shadow_cost = counter(
            "slipstream_shadow_cost_usd_total",
            "Cost of shadow runs in USD, without the judge.",
            (),
        )
        self.prompt_misses = counter(
            "slipstream_prompt_cache_misses_total",
            "Requests that missed the prompt cache of their conversation's last request, by cause.",
            ("model", "cause"),
        )
        self.prompt_diagnoses = counter(
            "slipstream_prompt_cache_diagnoses_total",
            "Vendors' diagnoses of a prompt-cache miss, compared with the cause found here.",
            ("model", "vendor", "ours", "verdict"),
        )
        self.prompt_saved_seconds = counter(
            "slipstream_prompt_cache_saved_seconds_total",
            "Seconds of time to first token saved by the vendor's prompt cache, as measured.",
            ("model",),
        )
        self.prompt_saved_cost = counter(
            "slipstream_prompt_cache_saved_usd_total",
            "USD saved by reading from the vendor's prompt cache.",
            ("model",),
        )
        self.batch_calls = counter(
            "slipstream_batch_calls_total",
            "Micro-batches: calls with several small tasks.",
            ("model",),
        )
        self.batched_tasks = counter(
            "slipstream_batched_tasks_total",
            "Tasks of micro-batches: together, or sent alone after all (failed, unanswered).",
            ("model", "outcome"),
        )
        self.hedges = counter(
            "slipstream_hedges_total",
            "Second calls beside a slow first one: won, lost or failed.",
            ("outcome",),
        )
        self.hedge_cost = counter(
            "slipstream_hedge_cost_usd_total",
            "Estimated cost of the losing calls of hedges in USD: the prompt was processed twice.",
            (),
        )
        self.gates: dict[str, GateState] = {}

    def follow_gate(self, provider: str, now: GateState) -> None:
        """Read ``slipstream_upstream_places`` from a gate at each scrape."""
        self.gates[provider] = now

    def refresh(self) -> None:
        """Read the gates."""
        for provider, now in self.gates.items():
            for which, value in zip(("limit", "in_use", "waiting"), now(), strict=True):
                self.places.child(provider, which).value = float(value)
