"""Delivery of webhooks at the end of jobs, with retries.

The receiver's name is stored with the job before it is accepted, so any worker finds an undelivered
webhook after any crash. A try is counted before it is made; one whose worker dies is made again a minute
later. So delivery is at least once within the configured tries, and each try has the same ``webhook-id``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from app.jobs.job_json import job_json
from app.jobs.schedules import InStoreThread
from app.stores.job_records import Delivery, Job
from app.stores.job_store import JobStore
from app.telemetry.job_metrics import JobMetrics
from app.tools.webhook import Webhooks, WebhookTarget

_log = logging.getLogger("slipstream.jobs")
_MAX_CONCURRENT = 8
_CLAIM_TTL_S = 60.0
_LONGEST_BACKOFF_S = 3_600.0


@dataclass(slots=True)
class WebhookDeliveries:
    """The deliveries that this worker makes."""

    sender: Webhooks
    receivers: Mapping[str, WebhookTarget]
    metrics: JobMetrics
    max_tries: int
    backoff_s: float
    clock: Callable[[], float] = time.time
    jitter: Callable[[], float] = random.random
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start_due(self, store: JobStore, do: InStoreThread) -> None:
        """Start the deliveries that are due, up to the limit of concurrent ones."""
        while len(self._tasks) < _MAX_CONCURRENT:
            found = await do(store.claim_delivery, self.clock(), _CLAIM_TTL_S)
            if found is None:
                return
            work = self._deliver(*found, store, do)
            task = asyncio.get_running_loop().create_task(work, name="webhook")
            self._tasks.add(task)
            task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error(
                "webhook_failed", exc_info=error
            )  # the store failed: the claim expires in a minute

    async def aclose(self) -> None:
        """Cancel the tries; another worker, or the next start, makes them again."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.sender.aclose()

    async def _deliver(
        self, delivery: Delivery, job: Job, store: JobStore, do: InStoreThread
    ) -> None:
        receiver = self.receivers.get(delivery.webhook)
        if receiver is None:
            await self._record(delivery, "failed", "not_configured", store, do)
            return
        body = msgspec.json.encode({"type": f"job.{job.state}", "data": job_json(job)})
        ended = 0.0 if job.ended is None else job.ended
        webhook_id = f"{job.id}.{ended * 1000:.0f}"  # of this end: a job begun again has another
        result = await self.sender.deliver(receiver, webhook_id, body)
        if result.delivered:
            await self._record(delivery, "delivered", "", store, do)
        elif result.gone or delivery.tries >= self.max_tries:
            await self._record(delivery, "failed", result.code, store, do)
        else:
            await self._record(delivery, "waiting", result.code, store, do)

    async def _record(
        self, delivery: Delivery, state: str, code: str, store: JobStore, do: InStoreThread
    ) -> None:
        self.metrics.webhooks.child("retried" if state == "waiting" else state).inc()
        wait_s = min(_LONGEST_BACKOFF_S, self.backoff_s * 2 ** (delivery.tries - 1))
        due = self.clock() + wait_s * (0.75 + self.jitter() / 2)
        await do(store.record_delivery, delivery.job, state, due, code)
