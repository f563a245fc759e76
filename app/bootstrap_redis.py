"""The part of the composition root for Redis; loaded only where Redis is configured."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import structlog

from app.api.admission import SpendCounters
from app.api.runs import state_of
from app.domain.limits import Counters
from app.operator_access import seal_of
from app.pipeline.agent_runs import Runs
from app.pipeline.gateway import Gateway
from app.settings import Settings
from app.stores.memory import MemoryCounters
from app.stores.spent_file import SpentFile
from app.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from app.pipeline.shared_health import SharedHealth
    from app.stores.redis import Redis
    from app.tools.registry import Registry


async def open_redis(
    settings: Settings,
    metrics: Metrics,
    degraded: dict[str, str],
    stack: AsyncExitStack,
) -> Redis | None:
    """The Redis client, where one is configured; ``/readyz`` shows its state."""
    url = settings.state.redis_url
    if not url:
        return None
    from app.stores.redis import Redis  # the client takes a tenth of a second

    def redis_is(why: str | None) -> None:
        log = structlog.get_logger()
        if why is None:
            if degraded.pop("redis", None) is not None:
                log.info("redis_back")
            return
        degraded["redis"] = f"shared state is left alone: Redis {why}"
        log.warning("degraded", what="redis", reason=why)
        metrics.redis_losses.child().inc()

    state = settings.state
    redis = Redis(
        url, budget_s=state.redis_budget_ms / 1000, prefix=state.redis_prefix, on_state=redis_is
    )
    metrics.follow_redis(lambda: int(redis.unavailable is None))
    stack.push_async_callback(redis.aclose)
    await redis.start()
    return redis


async def share(
    redis: Redis, settings: Settings, gateway: Gateway, metrics: Metrics, stack: AsyncExitStack
) -> None:
    """Share cached answers and calls in flight with the other workers."""
    if gateway.exact is None:
        return
    from app.pipeline.invalidation import SemanticInvalidation
    from app.pipeline.shared_answers import SharedAnswers

    shared = SharedAnswers(
        redis,
        exact=gateway.exact,
        flights=gateway.flights,
        codecs=gateway.codecs,
        classify=gateway.classifier.classify,
        count=lambda word: metrics.shared_looks.child(word).inc(),
        coalesce=settings.cache.coalesce,
        seal=seal_of(settings),
    )
    if gateway.semantic is not None:
        forgetting = SemanticInvalidation(gateway.semantic.cache)
        stack.push_async_callback(forgetting.aclose)
        shared.on_forget = forgetting
    stack.push_async_callback(shared.aclose)
    await shared.start()
    gateway.shared = shared


def share_health(redis: Redis, gateway: Gateway) -> SharedHealth:
    """The exchange of upstreams' health between workers."""
    from app.pipeline.shared_health import SharedHealth
    from app.stores.redis_health import RedisHealth

    return SharedHealth(RedisHealth(redis), gateway.load, [*gateway.models], gateway.clock)


async def share_runs(redis: Redis, runs: Runs, stack: AsyncExitStack) -> None:
    """Share runs with the other workers, both ways."""
    from app.stores.redis_runs import SharedRuns

    runs.shared, runs.describe = SharedRuns(redis), state_of
    stack.push_async_callback(runs.shared.aclose)
    await runs.shared.start()


def share_outputs(redis: Redis, tools: Registry) -> None:
    """Share cached tool results with the other workers."""
    from app.stores.redis import RedisKeyValue
    from app.tools.shared_outputs import SharedOutputs

    tools.shared = SharedOutputs(RedisKeyValue(redis, b"tool"))


def counters_of(redis: Redis | None, spent: SpentFile) -> tuple[Counters, SpendCounters]:
    """Counters and sums: shared through Redis, and local without it or while it is unavailable."""
    own = MemoryCounters(clock=time.time)
    if redis is None:
        return own, spent
    from app.stores.redis_counters import CountersWithFallback, RedisCounters, SumsWithLocalCopy

    shared = RedisCounters(redis)
    return CountersWithFallback(shared, own), SumsWithLocalCopy(shared, spent)
