"""The metrics of what turns requests away: limits of keys and tenants, busy upstreams;
and of second calls to slow ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from app.telemetry.series import Counter, Gauge

Places = Callable[[], tuple[float, int, int]]
"""Says of a gate: its limit, the places in use, the calls that wait."""


class _Declares(Protocol):
    """``Metrics.counter``."""

    def __call__(self, name: str, documentation: str, labels: tuple[str, ...]) -> Counter: ...


class _DeclaresGauge(Protocol):
    """``Metrics.gauge``."""

    def __call__(self, name: str, documentation: str, labels: tuple[str, ...]) -> Gauge: ...


class GuardMetrics:
    """Counted by whoever turns a request away, or asks another."""

    def __init__(self, counter: _Declares, gauge: _DeclaresGauge) -> None:
        """Declare them."""
        self.shed = counter(
            "slipstream_shed_total",
            "Calls turned away before a busy upstream, by why.",
            ("provider", "why"),
        )
        self.limited = counter(
            "slipstream_limited_total",
            "Requests refused by a limit of a key or tenant, by limit.",
            ("limit",),
        )
        self.places = gauge(
            "slipstream_upstream_places",
            "Places at an upstream: the limit that was found, those in use, calls that wait for one.",
            ("provider", "which"),
        )
        self.shadows = counter(
            "slipstream_shadow_runs_total",
            "Requests run on both tiers to learn from: judged, unjudged, failed or dropped.",
            ("outcome",),
        )
        self.shadow_cost = counter(
            "slipstream_shadow_cost_usd_total",
            "What shadow runs cost, in USD, without the judge.",
            (),
        )
        self.prompt_misses = counter(
            "slipstream_prompt_cache_misses_total",
            "Conversations that did not read what their last request had left, by cause.",
            ("model", "cause"),
        )
        self.prompt_diagnoses = counter(
            "slipstream_prompt_cache_diagnoses_total",
            "Vendors' own diagnoses of a changed prompt, held against the cause found here.",
            ("model", "vendor", "ours", "verdict"),
        )
        self.prompt_saved_seconds = counter(
            "slipstream_prompt_cache_saved_seconds_total",
            "Time to first token that the vendor's prompt cache saved, in seconds, as measured.",
            ("model",),
        )
        self.prompt_saved_cost = counter(
            "slipstream_prompt_cache_saved_usd_total",
            "What reading the vendor's prompt cache saved, in USD.",
            ("model",),
        )
        self.batch_calls = counter(
            "slipstream_batch_calls_total",
            "Calls that asked for several small tasks at once.",
            ("model",),
        )
        self.batched_tasks = counter(
            "slipstream_batched_tasks_total",
            "Tasks of such calls: together, or asked alone after all (failed, unanswered).",
            ("model", "outcome"),
        )
        self.hedges = counter(
            "slipstream_hedges_total",
            "Second calls beside a slow first one: won, lost or failed.",
            ("outcome",),
        )
        self.hedge_cost = counter(
            "slipstream_hedge_cost_usd_total",
            "About what the losers of hedges cost, in USD: the prompt that was read twice.",
            (),
        )
        self.gates: dict[str, Places] = {}

    def follow_gate(self, provider: str, now: Places) -> None:
        """Read ``slipstream_upstream_places`` from a gate; asked at each scrape."""
        self.gates[provider] = now

    def refresh(self) -> None:
        """Read the gates."""
        for provider, now in self.gates.items():
            for which, value in zip(("limit", "in_use", "waiting"), now(), strict=True):
                self.places.child(provider, which).value = float(value)
