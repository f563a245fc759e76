"""The part of the composition root for state metrics, read at scrapes only, and for agents' lessons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from app.domain.models import AUTO
from app.operator_access import seal_of
from app.pipeline.gateway import Gateway
from app.pipeline.lesson_exchange import LessonExchange
from app.pipeline.limited import LimitedProvider
from app.pipeline.speculation import ToolStatistics
from app.ports import Provider
from app.providers.wire import WireProvider
from app.routing.breaker import STATES
from app.settings import Settings
from app.stores.lesson_file import LessonFile
from app.telemetry.state_metrics import StateMetrics
from app.upstream.origin import PoolStats

if TYPE_CHECKING:
    from app.cache.routes import Route  # loads learners


def show_state(gateway: Gateway, metrics: StateMetrics) -> None:
    """Let each scrape read deployments, connections, tools and the routes of hits by meaning."""
    metrics.follow(lambda found: _deployments(gateway, found))
    metrics.follow(lambda found: _connections(gateway, found))
    metrics.follow(lambda found: _routes(gateway, found))
    metrics.follow(lambda found: _tools(gateway, found))


def open_lessons(settings: Settings, gateway: Gateway) -> LessonExchange:
    """What runs teach speculation, kept under the data directory and shared by a host's workers."""
    file = LessonFile(
        Path(settings.state.data_dir) / "speculation",
        lambda why: structlog.get_logger().warning("speculation_lessons", reason=why),
        seal_of(settings),
    )
    return LessonExchange(gateway.speculation, file)


def connections_of(provider: Provider) -> PoolStats | None:
    """The provider's connections; None where a vendor's package keeps them."""
    behind = provider.inner if isinstance(provider, LimitedProvider) else provider
    return behind.pool.stats if isinstance(behind, WireProvider) else None


def connections_of_all(gateway: Gateway) -> dict[str, PoolStats | None]:
    """The connections to each upstream."""
    return {name: connections_of(provider) for name, provider in gateway.providers.items()}


def _deployments(gateway: Gateway, metrics: StateMetrics) -> None:
    now_s = gateway.load.now_s()
    for name in gateway.models:
        known = gateway.load.deployment(name)
        metrics.in_flight.child(name).value = float(known.in_flight)
        metrics.state.child(name).value = float(STATES.index(known.breaker.state(now_s)))
        metrics.first_token.child(name).value = known.ttft_s


def _connections(gateway: Gateway, metrics: StateMetrics) -> None:
    for name, provider in gateway.providers.items():
        stats = connections_of(provider)
        if stats is None:
            continue
        for which, value in (
            ("open", stats.open),
            ("idle", stats.idle),
            ("waiting", stats.waiting),
        ):
            metrics.connections.child(name, which).value = float(value)
        metrics.opened.child(name).value = float(stats.opened_total)


def _tools(gateway: Gateway, metrics: StateMetrics) -> None:
    configured = {} if gateway.tools is None else gateway.tools.tools
    for name, registered in configured.items():
        metrics.tool_waiting.child(name).value = float(registered.waiting)
        metrics.tool_waited.child(name).value = registered.waited_s
    known = gateway.speculation.tools
    for name in dict.fromkeys((*configured, *known)):
        each = known.get(name) or ToolStatistics()
        metrics.speculated.child(name, "hit").value = float(each.hits)
        metrics.speculated.child(name, "wasted").value = float(each.wasted)
        metrics.speculation_saved.child(name).value = each.saved_s
        metrics.speculation_wasted.child(name).value = each.wasted_usd


def _routes(gateway: Gateway, metrics: StateMetrics) -> None:
    """By model: tenants are not labels, so the worst bound and the sums of their routes are metrics."""
    if gateway.semantic is None:
        return
    routes = gateway.semantic.cache.routes
    found: dict[str, list[Route]] = {name: [] for name in (*gateway.models, AUTO)}
    for route in routes.by_name.values():
        found.get(route.name.partition("\x00")[2], found[AUTO]).append(route)
    for model, those in found.items():
        states = [route.state for route in those]
        proven = [state.threshold.upper_per_hit for state in states if state.threshold is not None]
        wrong = sum(state.audited_wrong for state in states)
        metrics.bound.child(model).value = max(proven, default=0.0)
        metrics.limit.child(model).value = routes.limits.per_hit
        metrics.audited.child(model, "wrong").value = float(wrong)
        metrics.audited.child(model, "agreed").value = float(sum(s.audited for s in states) - wrong)
        metrics.alarms.child(model).value = float(sum(state.alarms for state in states))
