"""The composition root: the only file that names concrete classes.

``open_gateway`` builds everything from the settings, in the order in which it depends on each other,
and takes it down in reverse. Nothing else in the program constructs a collaborator.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING

import structlog

from app import __version__
from app.api.agent import record_of
from app.api.body_memory import BodyMemory
from app.api.context import Context, Readiness
from app.api.inference import Edge, InFlight
from app.api.json_memory import json_memory_bytes
from app.api.response import Heartbeat
from app.bootstrap_access import RunInBackground, authenticator_of
from app.bootstrap_jobs import open_jobs
from app.bootstrap_redis import open_redis, share, share_health, share_outputs, share_runs
from app.bootstrap_router import open_router
from app.bootstrap_semantic import open_semantic_cache
from app.bootstrap_state import connections_of_all, open_lessons, show_state
from app.bootstrap_telemetry import degrade, open_telemetry
from app.cache.coalesce import Flights
from app.cache.exact import ExactCache
from app.cache.sharing import Sharing
from app.classify.classifier import Classifier
from app.domain.agents import Agent
from app.domain.chat import DEFAULT_ANTHROPIC_VERSION, Dialect
from app.domain.decisions import PromptView, Tier
from app.domain.model_call import Headers
from app.domain.models import Model
from app.domain.usage import Price
from app.lanes.builtin import built_in_rules
from app.lanes.rules import Lanes
from app.lanes.templates import Skeletons
from app.operator_contracts import contracts_of
from app.operator_lanes import rule_of, skeleton_of
from app.operator_prompts import (
    batching_of,
    layouts_of,
    priming_of,
    prompts_of,
    show_batching,
    show_prompts,
)
from app.operator_workflows import workflow_of
from app.pipeline.agent_runs import LiveRun, Runs
from app.pipeline.gateway import Gateway
from app.pipeline.limited import LimitedProvider
from app.pipeline.router_training import RouterTrainer
from app.pipeline.tool_use_learning import ToolUseLearner
from app.pipeline.turn import serve
from app.ports import Provider
from app.providers.profiles import abilities
from app.providers.wire import WireOptions, WireProvider
from app.routing.concurrency_limiter import ConcurrencyBounds, ConcurrencyLimiter
from app.routing.load import LoadBalancer
from app.routing.router_settings import router_from_settings
from app.settings import AgentSettings, ModelSettings, ProviderSettings, Settings
from app.stores.event_log import EventLog
from app.telemetry.metrics import Metrics
from app.upstream import Origin, Pool, PoolLimits, Timeouts
from app.wire.ag_ui import preload_models as warm_ag_ui
from app.wire.codecs import CODECS

if TYPE_CHECKING:
    from app.stores.sidecar_start import StartedProcess

_NO_KEY = "none"


@asynccontextmanager
async def open_gateway(
    settings: Settings, *, simulated: bool = False, encoder: StartedProcess | None = None
) -> AsyncIterator[Context]:
    """Build the gateway, start what runs beside requests, and close it all at the end."""
    async with AsyncExitStack() as stack:
        models = {model.name: _model(model, settings) for model in settings.models}
        readiness = Readiness(simulated=simulated)
        beside = partial(run_in_background, stack, readiness)
        telemetry = await open_telemetry(settings, models, readiness, stack)
        providers = {
            name: _gated(name, provider, telemetry.metrics)
            for name, provider in settings.providers.items()
        }
        for provider in providers.values():
            stack.push_async_callback(provider.aclose)
        gateway = await _gateway_in_steps(settings, models, providers)
        redis = await open_redis(settings, telemetry.metrics, readiness.degraded, stack)
        gateway.tracing = telemetry.spans is not None
        gateway.on_failure = telemetry.metrics.upstream_failed
        await _agents(settings, gateway, stack, beside)
        if redis is not None and gateway.tools is not None:
            share_outputs(redis, gateway.tools)
        pulse = Heartbeat(settings.server.sse_comment_s)
        in_flight = InFlight(settings.server.max_inflight_requests)
        bodies = BodyMemory(
            settings.server.max_bodies_bytes, settings.server.max_body_bytes, json_memory_bytes
        )
        telemetry.metrics.follow_in_flight(lambda: in_flight.now, lambda: bodies.held_bytes)
        edge = Edge(
            gateway=gateway,
            authenticator=await authenticator_of(
                settings,
                telemetry.metrics,
                redis,
                stack,
                beside=beside,
                degrade=partial(degrade, readiness),
            ),
            recorder=telemetry,
            heartbeat=pulse,
            in_flight=in_flight,
            max_body_bytes=settings.server.max_body_bytes,
            bodies=bodies,
            answer=serve,
        )
        shadow = open_router(settings, gateway, telemetry.metrics, stack)
        if shadow is not None:
            await beside(shadow.run(), "shadow")
        await beside(pulse.run(), "pulse")
        telemetry.start(edge.deferred.drain)
        stack.callback(telemetry.stop)
        for provider in providers.values():
            await provider.start()

        def on_ended(live: LiveRun) -> None:
            telemetry.settle(record_of(live))
            if live.turn.settle_limits is not None:
                live.turn.settle_limits(live.turn)

        runs = Runs(gateway, EventLog(), on_ended)
        if redis is not None and settings.agents:
            await share_runs(redis, runs, stack)
        stack.push_async_callback(runs.aclose)
        readiness.ready = True
        degraded = readiness.degraded
        for work, name in await open_semantic_cache(
            settings, gateway, telemetry.metrics, degraded, stack, begun=encoder
        ):
            await beside(work, name)
        if redis is not None:
            await share(redis, settings, gateway, telemetry.metrics, stack)
            await beside(share_health(redis, gateway).run(), "health")
        agents = tuple(agent.name for agent in settings.agents)
        show_prompts(gateway.prompts, telemetry)
        show_batching(gateway.batching, telemetry)
        priming = priming_of(settings, gateway, telemetry.traces.add)
        await beside(priming.run(), "priming")
        to = (on_ended, telemetry.metrics.jobs, readiness)
        door = await open_jobs(settings, gateway, to, priming, stack)
        show_state(gateway, telemetry.metrics.state)
        yield Context(
            edge, telemetry, readiness, runs, agents, priming, door,
            show_text=settings.cache.show_text, connections=partial(connections_of_all, gateway),
        )  # fmt: skip


async def _agents(
    settings: Settings, gateway: Gateway, stack: AsyncExitStack, beside: RunInBackground
) -> None:
    """Set up agents and their tools; their modules are loaded only if any is configured."""
    gateway.agents = {each.name: _agent(each, settings) for each in settings.agents}
    if not settings.agents and not settings.tools:
        return
    from app.tools.registry_from_settings import (
        build_registry,  # HTTP client and schema validator: 0.2 s
    )

    warm_ag_ui()
    gateway.tools = build_registry(settings)
    stack.push_async_callback(gateway.tools.aclose)
    stack.push_async_callback(gateway.speculation.aclose)
    if settings.agents:
        lessons = open_lessons(settings, gateway)
        stack.push_async_callback(lessons.aclose)
        await beside(lessons.run(), "lessons")
    await gateway.tools.start()


def _agent(agent: AgentSettings, settings: Settings) -> Agent:
    return Agent(
        name=agent.name,
        system=agent.system,
        tools=agent.tools,
        agents=agent.agents,
        workflow=workflow_of(agent, settings),
        model=agent.model,
        max_turns=agent.max_turns,
        max_parallel_tools=agent.max_parallel_tools,
        max_calls=agent.max_tool_calls,
        max_tokens=agent.max_tokens,
        max_cost_usd=agent.max_cost_usd,
        deadline_s=agent.deadline_s,
        answer_model=agent.answer_model or "",
        plans=agent.planning == "written",
        quorum=agent.synthesis.quorum,
        patience_s=agent.synthesis.patience_s,
        summarise_over_chars=agent.synthesis.summarise_over_chars,
        speculate=agent.speculation.enabled,
        value_usd_per_s=agent.speculation.value_usd_per_s,
        max_waste_share=agent.speculation.max_waste_share,
        remember=agent.speculation.remember,
    )


async def _yield_to_loop() -> None:
    """Let the event loop run: at a reload the older gateway serves meanwhile."""
    await asyncio.sleep(0)


async def run_in_background(
    stack: AsyncExitStack, readiness: Readiness, work: Coroutine[None, None, None], name: str
) -> None:
    """Run ``work`` until shutdown; if it fails, ``/readyz`` and the log say so at once."""

    async def run() -> None:
        try:
            await work
        except Exception as exc:  # noqa: BLE001 - the edge of what nobody waits for
            structlog.get_logger().exception("beside_failed", what=name)
            why = f"{type(exc).__name__}; its log line says where, and a restart brings it back"
            degrade(readiness, name, f"what runs beside the requests ended: {why}")

    task = asyncio.get_running_loop().create_task(run(), name=name)

    async def stop() -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(stop)
    await asyncio.sleep(0)  # its first run sets the coarse clock


async def _gateway_in_steps(
    settings: Settings, models: dict[str, Model], providers: dict[str, Provider]
) -> Gateway:
    """Build the gateway in several turns of the event loop."""
    await _yield_to_loop()
    classifier = Classifier()
    await _yield_to_loop()
    classifier.classify(PromptView("warm up"))  # its first call compiles patterns: 10 ms
    await _yield_to_loop()
    lanes = _lanes(settings)
    await _yield_to_loop()
    return _gateway(settings, models, providers, (classifier, lanes))


def _gateway(
    settings: Settings,
    models: dict[str, Model],
    providers: dict[str, Provider],
    made: tuple[Classifier, Lanes | None] | None = None,
) -> Gateway:
    """Build the gateway; ``made``: its classifier and lanes, if they exist already."""
    exact = settings.cache.exact
    fast = (each for each in models.values() if each.tier is Tier.FAST)
    classifier, lanes = made or (Classifier(), _lanes(settings))
    return Gateway(
        models=models,
        tiers={tier: [m for m in models.values() if m.tier is tier] for tier in Tier},
        providers=providers,
        codecs=CODECS,
        lanes=lanes,
        skeletons=_skeletons(settings),
        exact=ExactCache(ttl_s=exact.ttl_s, max_bytes=exact.max_bytes) if exact.enabled else None,
        classifier=classifier,
        router=router_from_settings(
            settings.routing, [(each.context_tokens, each.abilities.images) for each in fast]
        ),
        router_trainer=RouterTrainer(classifier),
        tool_use_learner=ToolUseLearner(classifier.tools, CODECS),
        load=LoadBalancer(models),
        flights=Flights(),
        retries={name: each.retries for name, each in settings.providers.items()},
        coalesce=settings.cache.coalesce,
        sharing=_sharing(settings),
        escalate=settings.routing.escalate,
        prompts=prompts_of(settings, models),
        layouts=layouts_of(settings),
        contracts=contracts_of(settings, models),
        batching=batching_of(settings, models),
    )


def _sharing(settings: Settings) -> Sharing | None:
    """The sharing rules; None if they are the default."""
    wanted = settings.cache.sharing
    if wanted.scope == "user" and not wanted.hit_jitter_ms:
        return None
    return Sharing(
        share_users=wanted.scope == "tenant",
        least_askers=wanted.least_askers,
        most_of_one_user=wanted.most_of_one_user,
        hit_jitter_s=wanted.hit_jitter_ms / 1000,
        rng=SystemRandom(),
    )


def _lanes(settings: Settings) -> Lanes | None:
    if not settings.lanes.enabled:
        return None
    own = map(rule_of, settings.lanes.rules)
    return Lanes([*own, *(built_in_rules() if settings.lanes.built_in else ())])


def _skeletons(settings: Settings) -> Skeletons | None:
    if not settings.lanes.enabled or not settings.lanes.skeletons:
        return None
    return Skeletons([skeleton_of(each) for each in settings.lanes.skeletons])


def _model(model: ModelSettings, settings: Settings) -> Model:
    price = model.price
    corrections = model.abilities.model_dump(exclude_none=True)
    return Model(
        name=model.name,
        provider=model.provider,
        upstream_model=model.model,
        tier=model.tier,
        price=Price(price.input, price.output, price.cached_input, price.cache_write),
        abilities=abilities(settings.providers[model.provider].kind, model.model, corrections),
        context_tokens=model.context_tokens,
    )


def _gated(name: str, provider: ProviderSettings, metrics: Metrics) -> Provider:
    """The provider of one upstream behind its concurrency gate."""
    limits = ConcurrencyBounds(
        max_concurrent=provider.max_connections,
        adaptive=provider.adaptive_concurrency,
        max_waiting=provider.max_queued,
        max_wait_s=provider.queue_timeout_s,
    )
    gate = ConcurrencyLimiter(
        name, limits, on_shed=lambda why: metrics.guards.shed.child(name, why).inc()
    )
    metrics.guards.follow_gate(name, lambda: (gate.limit, gate.in_use, gate.waiting))
    return LimitedProvider(_provider(name, provider), gate)


def _provider(name: str, provider: ProviderSettings) -> Provider:
    """The provider of one upstream."""
    if provider.transport == "sdk":
        from app.providers.sdk import SdkProvider  # the vendors' packages take seconds to load

        return SdkProvider(name, provider, CODECS)
    origin, path = Origin.parse(provider.base_url)
    timeouts = Timeouts(
        connect_s=provider.connect_timeout_s,
        tls_s=provider.connect_timeout_s,
        first_byte_s=provider.first_byte_timeout_s,
        between_bytes_s=provider.between_bytes_timeout_s,
        total_s=provider.total_timeout_s,
    )
    limits = PoolLimits(
        max_connections=provider.max_connections,
        max_idle=provider.max_connections,
        warm=min(provider.warm_connections, provider.max_connections),
    )
    return WireProvider(
        _wire_options(name, provider, path), Pool(origin, limits, timeouts), timeouts, CODECS
    )


def _wire_options(name: str, provider: ProviderSettings, path: bytes) -> WireOptions:
    key = provider.api_key.get_secret_value()
    headers = [(b"user-agent", b"slipstream/" + __version__.encode())]
    headers += [(k.lower().encode(), v.encode("latin-1")) for k, v in provider.headers.items()]
    if provider.kind == "anthropic":
        headers.append((b"anthropic-version", DEFAULT_ANTHROPIC_VERSION))
        if key != _NO_KEY:
            headers.append((b"x-api-key", key.encode()))
        path = path if path.endswith(b"/v1") else path + b"/v1"
        dialects, fallback = frozenset({Dialect.MESSAGES}), Dialect.MESSAGES
    else:
        if key != _NO_KEY:
            headers.append((b"authorization", b"Bearer " + key.encode()))
        native = {Dialect.CHAT} | (
            {Dialect.RESPONSES} if provider.responses != "translate" else set()
        )
        dialects, fallback = frozenset(native), Dialect.CHAT
    return WireOptions(
        name=name,
        dialects=dialects,
        fallback=fallback,
        base_path=path,
        headers=_unique(headers),
        responses_optional=provider.responses == "auto",
    )


def _unique(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The last of each name: the operator's own replace ours, keys excepted (they come last)."""
    return tuple(dict(headers).items())
