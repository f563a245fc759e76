"""Telling the ends of jobs to those who are waiting for them, until they have heard.

Whom to tell is on disk with the job itself, before it is accepted; so a job that is over and untold
is found by any worker, after any crash. A try is counted before it is made, and one whose worker
dies is made again a minute later: a receiver may hear twice, under the same ``webhook-id``, and
never not at all while it can be reached within the tries that are configured.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from app.jobs.schedules import Do
from app.jobs.told import state_of
from app.stores.job_records import Delivery, Job
from app.stores.job_store import JobStore
from app.telemetry.job_metrics import JobMetrics
from app.tools.webhook import Receiver, Webhooks

_log = logging.getLogger("slipstream.jobs")
_AT_ONCE = 8
_AGAIN_AFTER_DEATH_S = 60.0
_LONGEST_BACKOFF_S = 3_600.0


@dataclass(slots=True)
class Deliveries:
    """The tries that are under way in this worker."""

    way: Webhooks
    receivers: Mapping[str, Receiver]
    metrics: JobMetrics
    most_tries: int
    backoff_s: float
    clock: Callable[[], float] = time.time
    jitter: Callable[[], float] = random.random
    _trying: set[asyncio.Task[None]] = field(default_factory=set)

    async def look(self, store: JobStore, do: Do) -> None:
        """Begin to tell what is due, as far as there is room."""
        while len(self._trying) < _AT_ONCE:
            found = await do(store.claim_delivery, self.clock(), _AGAIN_AFTER_DEATH_S)
            if found is None:
                return
            work = self._try(*found, store, do)
            task = asyncio.get_running_loop().create_task(work, name="webhook")
            self._trying.add(task)
            task.add_done_callback(self._tried)

    def _tried(self, task: asyncio.Task[None]) -> None:
        self._trying.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("webhook_failed", exc_info=error)  # the store: it is tried again in a minute

    async def aclose(self) -> None:
        """Stop the tries; they are made again by another worker or the next start."""
        tasks = [*self._trying]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.way.aclose()

    async def _try(self, delivery: Delivery, job: Job, store: JobStore, do: Do) -> None:
        receiver = self.receivers.get(delivery.hook)
        if receiver is None:
            await self._over(delivery, "failed", "not_configured", store, do)
            return
        body = msgspec.json.encode({"type": f"job.{job.state}", "data": state_of(job)})
        ended = 0.0 if job.ended is None else job.ended
        webhook_id = f"{job.id}.{ended * 1000:.0f}"  # of this end: a job begun again has another
        heard = await self.way.tell(receiver, webhook_id, body)
        if heard.delivered:
            await self._over(delivery, "delivered", "", store, do)
        elif heard.gone or delivery.tries >= self.most_tries:
            await self._over(delivery, "failed", heard.code, store, do)
        else:
            await self._over(delivery, "waiting", heard.code, store, do)

    async def _over(
        self, delivery: Delivery, state: str, code: str, store: JobStore, do: Do
    ) -> None:
        self.metrics.webhooks.child("retried" if state == "waiting" else state).inc()
        wait_s = min(_LONGEST_BACKOFF_S, self.backoff_s * 2 ** (delivery.tries - 1))
        due = self.clock() + wait_s * (0.75 + self.jitter() / 2)
        await do(store.delivered, delivery.job, state, due, code)
