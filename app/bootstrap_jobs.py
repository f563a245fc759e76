"""The part of the composition root for jobs: store, schedules and webhooks."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from app.api.context import Readiness
from app.bootstrap_telemetry import degrade
from app.errors import ToolError
from app.jobs.lazy_engine import JobLimits, LazyJobEngine
from app.operator_prompts import prompt_of
from app.pipeline.agent_runs import LiveRun
from app.pipeline.gateway import Gateway
from app.pipeline.prompt_priming import PromptPriming
from app.settings import Settings
from app.telemetry.job_metrics import JobMetrics

if TYPE_CHECKING:
    from app.jobs.deliveries import WebhookDeliveries
    from app.jobs.engine import JobEngine
    from app.jobs.schedules import Schedule
    from app.stores.job_store import JobStore

OnEnd = Callable[[LiveRun], None]


async def open_jobs(
    settings: Settings,
    gateway: Gateway,
    to: tuple[OnEnd, JobMetrics, Readiness],
    priming: PromptPriming,
    stack: AsyncExitStack,
) -> LazyJobEngine | None:
    """The engine of jobs, opened lazily; None where there are no jobs. Raises ``SettingsError``."""
    wanted = settings.jobs
    if not wanted.enabled or not (settings.agents or wanted.schedules):
        return None
    folder = Path(settings.state.data_dir) / "jobs"
    schedules = _schedules(settings, gateway, priming)
    engine = LazyJobEngine(
        partial(_engine, settings, gateway, to, schedules),
        start_eagerly=bool(wanted.schedules or wanted.postgres_url)
        or (folder / "jobs.sqlite").exists(),
        webhooks={each.name: each.tenant for each in wanted.webhooks},
    )
    stack.push_async_callback(engine.aclose)
    await engine.start()
    return engine


def _engine(
    settings: Settings,
    gateway: Gateway,
    to: tuple[OnEnd, JobMetrics, Readiness],
    schedules: Callable[[], list[Schedule]],
) -> JobEngine:
    from app.jobs.engine import JobEngine  # nothing of it before there is a job
    from app.jobs.schedules import Schedules

    wanted, (on_end, metrics, readiness) = settings.jobs, to
    return JobEngine(
        partial(_store, settings),
        gateway,
        on_end,
        JobLimits(
            wanted.concurrency,
            wanted.per_tenant,
            wanted.max_attempts,
            wanted.backoff_s,
            wanted.keep_days,
        ),
        metrics,
        Schedules(schedules(), metrics),
        _deliveries(settings, metrics),
        partial(degrade, readiness, "jobs"),
    )


def _store(settings: Settings) -> JobStore:
    from app.stores.job_store import JobStore

    url = settings.jobs.postgres_url
    if url is not None:
        from app.stores.job_postgres import PostgresJobDatabase

        return JobStore(PostgresJobDatabase(url.get_secret_value()))
    from app.stores.job_sqlite import SqliteJobDatabase

    return JobStore(SqliteJobDatabase(Path(settings.state.data_dir) / "jobs"))


def _deliveries(settings: Settings, metrics: JobMetrics) -> WebhookDeliveries | None:
    """The delivery of webhooks; None where none is configured."""
    wanted = settings.jobs
    if not wanted.webhooks:
        return None
    from app.jobs.deliveries import WebhookDeliveries
    from app.tools.addresses import Addresses
    from app.tools.egress import origin_of
    from app.tools.webhook import Webhooks, WebhookTarget

    addresses = Addresses(settings.egress.private)
    for each in wanted.webhooks:
        with suppress(ToolError):  # reported when the configuration is read
            addresses.declare(origin_of(each.url).host)
    receivers = {
        each.name: WebhookTarget(each.url, each.secret.get_secret_value(), each.timeout_s)
        for each in wanted.webhooks
    }
    way = Webhooks(addresses, time.time)
    return WebhookDeliveries(
        way, receivers, metrics, wanted.webhook_attempts, wanted.webhook_backoff_s
    )


def _schedules(
    settings: Settings, gateway: Gateway, priming: PromptPriming
) -> Callable[[], list[Schedule]]:
    """A factory of the schedules; prompts are read now, so that a bad file ends the start."""
    prompts = {
        each.name: prompt_of(each.warm, gateway.models)
        for each in settings.jobs.schedules
        if each.warm is not None
    }

    def factory() -> list[Schedule]:
        from app.domain.cron import parse
        from app.jobs.schedules import Schedule

        return [
            Schedule(
                name=each.name,
                cron=parse(each.cron, each.timezone),
                late_s=each.late_s,
                tenant=each.tenant,
                priority=each.priority,
                webhook=each.webhook or "",
                agent=each.agent or "",
                input=each.input,
                warm=None
                if each.warm is None
                else partial(priming.prime, *prompts[each.name], each.tenant, "schedule"),
            )
            for each in settings.jobs.schedules
        ]

    return factory
