"""Schedules: jobs and prompt priming by cron expression, once over all workers that share the store.

A due moment becomes a job whose idempotency key is that moment, so that several workers create one job of
it, whichever dies; or a prompt is primed by the worker that marks the moment as served first. Of moments
missed while nothing ran, only the last is served, late.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import msgspec

from app.domain.cron import Cron
from app.errors import GatewayError
from app.stores.job_records import Job
from app.stores.job_store import JobStore
from app.telemetry.job_metrics import JobMetrics

T = TypeVar("T")
Warm = Callable[[], Awaitable[object]]
_log = logging.getLogger("slipstream.jobs")


class InStoreThread(Protocol):
    """Runs a function in the store's thread."""

    async def __call__(self, work: Callable[..., T], *args: object) -> T:
        """Run it and return its result."""
        ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """One entry of ``jobs.schedules``."""

    name: str
    cron: Cron
    late_s: float
    tenant: str = "default"
    priority: int = 0
    webhook: str = ""
    agent: str = ""
    input: str = ""
    warm: Warm | None = None
    """Primes a prompt; None: the agent runs as a job."""

    def job(self, due_unix_s: float) -> Job:
        """The job of one moment."""
        job_id = f"job-{uuid.uuid4().hex}"
        text = {"id": "m1", "role": "user", "content": self.input}
        asked = {
            "threadId": f"schedule-{self.name}",
            "runId": job_id,
            "messages": [text],
            "forwardedProps": {"agent": self.agent},
        }
        return Job.queued(
            id=job_id,
            tenant=self.tenant,
            body=msgspec.json.encode(asked),
            agent=self.agent,
            priority=self.priority,
            due=due_unix_s,
            created=time.time(),
        )

    def idempotency_key(self, due_unix_s: float) -> str:
        """The idempotency key of a moment; no request header can hold its line ends."""
        moment = datetime.fromtimestamp(due_unix_s, UTC).isoformat()
        return f"schedule\n{self.name}\n{moment}"


@dataclass(slots=True)
class Schedules:
    """All schedules, and when each is due next."""

    schedules: Sequence[Schedule]
    metrics: JobMetrics
    clock: Callable[[], float] = time.time
    _next_due: dict[str, float] = field(default_factory=dict)
    _priming: set[asyncio.Task[None]] = field(default_factory=set)

    async def run_due(self, store: JobStore, do: InStoreThread) -> None:
        """Run the schedules that are due."""
        for each in self.schedules:
            now = self.clock()
            if each.name not in self._next_due:
                last = max(await do(store.last_served, each.name, now), now - each.late_s)
                missed = each.cron.latest(last, now)
                self._next_due[each.name] = each.cron.next(now) if missed is None else missed
            due = self._next_due[each.name]
            if now < due:
                continue
            await self._run(each, due, store, do)
            self._next_due[each.name] = each.cron.next(max(due, now - each.late_s))

    async def _run(self, each: Schedule, due: float, store: JobStore, do: InStoreThread) -> None:
        if each.warm is None:
            _, new = await do(store.add, each.job(due), each.idempotency_key(due), each.webhook)
            await do(store.mark_served, each.name, due)
            if new:
                self.metrics.scheduled.child("job").inc()
        elif await do(store.mark_served, each.name, due):
            work = self._prime(each.name, each.warm)
            task = asyncio.get_running_loop().create_task(work, name=f"schedule {each.name}")
            self._priming.add(task)
            task.add_done_callback(self._priming.discard)

    async def _prime(self, name: str, warm: Warm) -> None:
        try:
            await warm()
        except (GatewayError, ValueError) as error:
            reason = error.code if isinstance(error, GatewayError) else "unreadable"
            _log.warning("schedule_failed", extra={"schedule": name, "reason": reason})
            self.metrics.scheduled.child("failed").inc()
        else:
            self.metrics.scheduled.child("warmed").inc()

    async def aclose(self) -> None:
        """Stop what is being primed."""
        tasks = [*self._priming]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
