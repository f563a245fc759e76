"""Metrics that are a state rather than a count: read at each scrape, so that they cost a request nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from app.telemetry.series import Counter, Gauge


class _Declares(Protocol):
    def __call__(self, name: str, documentation: str, labels: tuple[str, ...]) -> Counter: ...


class _DeclaresGauge(Protocol):
    def __call__(self, name: str, documentation: str, labels: tuple[str, ...]) -> Gauge: ...


class StateMetrics:
    """Gauges of deployments, connections, tools, speculation and the semantic cache's routes."""

    def __init__(self, counter: _Declares, gauge: _DeclaresGauge) -> None:
        """Declare them."""
        self.in_flight = gauge(
            "slipstream_deployment_in_flight", "Calls of a model in flight.", ("model",)
        )
        self.state = gauge(
            "slipstream_deployment_state",
            "State of a deployment: 0 in use, 1 on hold by its vendor, 2 breaker half open, 3 open.",
            ("model",),
        )
        self.first_token = gauge(
            "slipstream_deployment_first_token_seconds",
            "Current estimate of a model's time to first token; 0 while unknown.",
            ("model",),
        )
        self.connections = gauge(
            "slipstream_upstream_connections",
            "Connections to an upstream: open, of these idle, and calls waiting for one.",
            ("provider", "which"),
        )
        self.opened = counter(
            "slipstream_upstream_connections_opened_total",
            "Connections opened to an upstream.",
            ("provider",),
        )
        self.bound = gauge(
            "slipstream_semantic_bound_per_hit",
            "Highest error bound of a semantic hit among a model's routes; 0 in shadow mode.",
            ("model",),
        )
        self.limit = gauge(
            "slipstream_semantic_limit_per_hit",
            "The error bound per hit that is allowed.",
            ("model",),
        )
        self.audited = gauge(
            "slipstream_semantic_audited_hits",
            "Semantic hits that were compared with a fresh answer, by verdict.",
            ("model", "verdict"),
        )
        self.alarms = gauge(
            "slipstream_semantic_alarms",
            "Times that a route closed itself because its hits were worse than its bound.",
            ("model",),
        )
        self.tool_waiting = gauge(
            "slipstream_tool_waiting", "Calls of a tool that wait (its max_concurrency).", ("tool",)
        )
        self.tool_waited = counter(
            "slipstream_tool_wait_seconds_total",
            "Seconds for which calls of a tool waited (its max_concurrency).",
            ("tool",),
        )
        self.speculated = counter(
            "slipstream_speculated_calls_total",
            "Speculative calls of a tool, by outcome.",
            ("tool", "outcome"),
        )
        self.speculation_saved = counter(
            "slipstream_speculation_saved_seconds_total",
            "Seconds that a tool had already run when the model called it.",
            ("tool",),
        )
        self.speculation_wasted = counter(
            "slipstream_speculation_wasted_usd_total",
            "Cost in USD of speculative calls of a tool that the model did not make.",
            ("tool",),
        )
        self._readers: list[Callable[[StateMetrics], None]] = []

    def follow(self, read: Callable[[StateMetrics], None]) -> None:
        """Call ``read`` at each scrape; it sets values, must be quick and must not raise."""
        self._readers.append(read)

    def refresh(self) -> None:
        """Call every reader."""
        for read in self._readers:
            read(self)
