"""The metrics that are a state rather than a count: read from their owners at each scrape, so that a request
pays nothing for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from app.telemetry.series import Counter, Gauge


class _Declares(Protocol):
    def __call__(self, name: str, documentation: str, labels: tuple[str, ...]) -> Counter: ...


class _DeclaresGauge(Protocol):
    def __call__(self, name: str, documentation: str, labels: tuple[str, ...]) -> Gauge: ...


class StateMetrics:
    """Deployments, connections, tools, and the routes of hits by meaning."""

    def __init__(self, counter: _Declares, gauge: _DeclaresGauge) -> None:
        """Declare them."""
        self.in_flight = gauge(
            "slipstream_deployment_in_flight", "Calls of a model under way.", ("model",)
        )
        self.state = gauge(
            "slipstream_deployment_state",
            "Whether a model is asked: 0 yes, 1 on hold as its vendor said, 2 half open, 3 open.",
            ("model",),
        )
        self.first_token = gauge(
            "slipstream_deployment_first_token_seconds",
            "The present estimate of a model's time to first token; 0 while unknown.",
            ("model",),
        )
        self.connections = gauge(
            "slipstream_upstream_connections",
            "Connections to an upstream: open, those idle among them, calls waiting for one.",
            ("provider", "which"),
        )
        self.opened = counter(
            "slipstream_upstream_connections_opened_total",
            "Connections that were opened to an upstream.",
            ("provider",),
        )
        self.bound = gauge(
            "slipstream_semantic_bound_per_hit",
            "Highest proven chance of a wrong hit by meaning among a model's routes; 0 in shadow mode.",
            ("model",),
        )
        self.limit = gauge(
            "slipstream_semantic_limit_per_hit",
            "The chance of a wrong hit that the operator allows.",
            ("model",),
        )
        self.audited = gauge(
            "slipstream_semantic_audited_hits",
            "Hits by meaning that were checked against a fresh answer, by what it said.",
            ("model", "verdict"),
        )
        self.alarms = gauge(
            "slipstream_semantic_alarms",
            "Times that a route closed itself because its hits were worse than proven.",
            ("model",),
        )
        self.tool_waiting = gauge(
            "slipstream_tool_waiting", "Calls of a tool that wait for a place.", ("tool",)
        )
        self.tool_waited = counter(
            "slipstream_tool_wait_seconds_total",
            "Seconds for which calls of a tool waited for a place (its max_concurrency).",
            ("tool",),
        )
        self.speculated = counter(
            "slipstream_speculated_calls_total",
            "Calls of a tool that were begun before the model asked, by what became of them.",
            ("tool", "outcome"),
        )
        self.speculation_saved = counter(
            "slipstream_speculation_saved_seconds_total",
            "Seconds that a tool had already run when the model asked for it.",
            ("tool",),
        )
        self.speculation_wasted = counter(
            "slipstream_speculation_wasted_usd_total",
            "What calls of a tool cost that nobody asked for, in USD.",
            ("tool",),
        )
        self._readers: list[Callable[[StateMetrics], None]] = []

    def follow(self, read: Callable[[StateMetrics], None]) -> None:
        """Have ``read`` set what it knows at each scrape; must be quick and not raise."""
        self._readers.append(read)

    def refresh(self) -> None:
        """Read every owner."""
        for read in self._readers:
            read(self)
