"""Durable runs of agents: stored before they are accepted, run by any worker with room, continued by another
where their worker dies.

One task polls the store: at once when a job is submitted here, else each second, since other workers
accept jobs, die, or cancel too. It also runs the schedules and starts webhooks. A job is an ordinary run
of an agent over a gateway whose models and tools write a journal (``app.jobs.journal``). Events are on
disk before a reader sees them; those that an earlier attempt stored already are left out.

All access to the store is in one thread, so that no ordinary request waits for it. Where the store fails,
its jobs are released and it is opened again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar
from weakref import WeakValueDictionary

import msgspec

from app.domain.deadline import Deadline
from app.errors import GatewayError, Overloaded, StoreError
from app.jobs.deliveries import WebhookDeliveries
from app.jobs.journal import Journal, journalled
from app.jobs.lazy_engine import JobLimits
from app.jobs.schedules import Schedules
from app.pipeline.agent_runs import LiveRun, RunRequest, Runs
from app.pipeline.gateway import Gateway, Turn
from app.stores.event_log import EventLog
from app.stores.job_records import AttemptEnd, Delivery, Job
from app.stores.job_store import JobStore
from app.telemetry.job_metrics import JobMetrics
from app.telemetry.timeline import Timeline
from app.wire.ag_ui import read_input, to_json_object

T = TypeVar("T")
_StoredEvent = tuple[int, str, str]
"""An event's number, kind and JSON text."""
Charge = Callable[[Turn], None]
_log = logging.getLogger("slipstream.jobs")
_POLL_INTERVAL_S = 1.0
_MAX_CRASHES = 50
_MAX_CHARGES = 10_000
_LONGEST_BACKOFF_S = 3600.0
_SWEEP_EVERY_S = 600.0
_DAY_S = 86_400.0
_RETRYABLE_STATUSES = frozenset({408, 425, 429})
_SERVER_ERROR = 500
_TERMINAL_EVENTS = frozenset({"RUN_FINISHED", "RUN_ERROR"})
TERMINAL_STATES = frozenset({"finished", "cancelled", "dead"})


@dataclass(slots=True)
class JobEngine:
    """Accepts jobs and runs them in this worker. ``start`` before use, ``aclose`` after."""

    open_store: Callable[[], JobStore]
    gateway: Gateway
    on_end: Callable[[LiveRun], None]
    limits: JobLimits
    metrics: JobMetrics
    schedules: Schedules
    deliveries: WebhookDeliveries | None
    """None where no webhook is configured."""
    on_store_state: Callable[[str | None], None]
    """Called with the reason when the store fails, and with None when it works."""
    _store_thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="jobs")
    )
    _store: JobStore | None = None
    _charges: dict[str, Charge] = field(default_factory=dict)
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _live_runs: dict[str, LiveRun] = field(default_factory=dict)
    _wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    _waiting_readers: WeakValueDictionary[str, asyncio.Event] = field(
        default_factory=WeakValueDictionary
    )
    """By job; weak, since a job that runs on another host never notifies readers here."""
    _poller: asyncio.Task[None] | None = None
    _fault: StoreError | None = None
    """Why the store failed: the poller closes and reopens it."""
    _stopping: bool = False
    _next_sweep_unix_s: float = 0.0

    async def start(self) -> None:
        """Open the store, if it is there, and start polling."""
        await self._open()
        self._poller = asyncio.get_running_loop().create_task(self._poll(), name="jobs")

    async def _open(self) -> None:
        try:
            self._store = await self._in_store_thread(self.open_store)
        except StoreError as error:
            self.on_store_state(error.message)
        else:
            self.on_store_state(None)

    async def aclose(self) -> None:
        """Stop this worker's jobs, to be continued elsewhere, and close the store."""
        self._stopping = True
        tasks = [*self._running.values()]
        if self._poller is not None:
            tasks.append(self._poller)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.schedules.aclose()
        if self.deliveries is not None:
            await self.deliveries.aclose()
        if self._store is not None:
            await self._in_store_thread(self._store.close)
        self._store_thread.shutdown(wait=False)

    @property
    def store(self) -> JobStore:
        """The open store; raises ``Overloaded`` while there is none."""
        if self._store is None:
            raise _store_away()
        return self._store

    async def _in_store_thread(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._store_thread, work, *args)

    async def _for_request(self, work: Callable[..., T], *args: object) -> T:
        """``_do`` for a request; raises ``Overloaded`` where the store fails."""
        try:
            return await self._in_store_thread(work, *args)
        except StoreError as error:
            self._report_fault(error)
            raise _store_away() from error

    def _report_fault(self, error: StoreError) -> None:
        self._fault = error
        self._wakeup.set()

    async def submit(
        self, job: Job, idempotency: str | None, charge: Charge | None = None, webhook: str = ""
    ) -> tuple[Job, bool]:
        """Store a job; it is on disk when this returns. False: there was one with that idempotency key.

        ``charge`` is called with the turns that run in this worker; ``webhook`` names the receiver that is
        told of its end.
        """
        found, new = await self._for_request(self.store.add, job, idempotency, webhook)
        if new:
            if charge is not None:
                self._charges[job.id] = charge
                if len(self._charges) > _MAX_CHARGES:  # jobs that run elsewhere never remove theirs
                    del self._charges[next(iter(self._charges))]
            self._wakeup.set()
        return found, new

    async def find(self, tenant: str, job_id: str) -> Job | None:
        """A tenant's job."""
        return await self._for_request(self.store.find, tenant, job_id)

    async def list_jobs(
        self, tenant: str, state: str | None, before: float, most: int
    ) -> list[Job]:
        """A tenant's jobs, newest first."""
        return await self._for_request(self.store.list_jobs, tenant, state, before, most)

    async def delivery(self, job_id: str) -> Delivery | None:
        """The state of a job's webhook."""
        return await self._for_request(self.store.delivery, job_id)

    async def revive(self, tenant: str, job_id: str) -> bool:
        """Queue a dead job again; its finished steps are not run again."""
        revived = await self._for_request(self.store.revive, tenant, job_id)
        self._wakeup.set()
        return revived

    async def cancel(self, tenant: str, job_id: str) -> None:
        """End a job: at once where it is queued or runs here, within a second where it runs elsewhere."""
        await self._for_request(self.store.cancel, tenant, job_id)
        live, task = self._live_runs.get(job_id), self._running.get(job_id)
        if live is not None and live.turn.tenant == tenant:
            live.cancel()
            if task is not None:
                await asyncio.wait({task})
        self._notify_readers(job_id)

    async def events_after(self, job_id: str, after: int) -> list[tuple[int, str, str]]:
        """A job's events after number ``after``: number, kind, JSON text."""
        return await self._for_request(self.store.events_after, job_id, after)

    async def wait_for_events(self, job_id: str) -> None:
        """Wait until a job has more events; returns after a second at most."""
        event = self._waiting_readers.setdefault(job_id, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_POLL_INTERVAL_S):
                await event.wait()

    def _notify_readers(self, job_id: str) -> None:
        if (event := self._waiting_readers.pop(job_id, None)) is not None:
            event.set()

    async def _poll(self) -> None:
        while True:
            self._wakeup.clear()
            try:
                if self._fault is not None:
                    await self._release_store(self._fault)
                if self._store is None:
                    await self._open()
                if self._store is not None:
                    await self._poll_once()
            except StoreError as error:
                await self._release_store(error)
            except Exception:  # noqa: BLE001 - the process edge: a full disk must not end all jobs
                _log.exception("jobs_failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_INTERVAL_S):
                    await self._wakeup.wait()

    async def _release_store(self, error: StoreError) -> None:
        """Close a failed store and cancel the jobs that run here: any worker continues them."""
        self.on_store_state(error.message)
        lost, self._store, self._fault = self._store, None, None
        tasks = [*self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if lost is not None:
            with contextlib.suppress(StoreError):
                await self._in_store_thread(lost.close)

    async def _poll_once(self) -> None:
        if adopted := await self._in_store_thread(self.store.requeue_orphans, _MAX_CRASHES):
            self.metrics.ended.child("adopted").inc(adopted)
        for job_id in await self._in_store_thread(self.store.cancel_requested):
            if (live := self._live_runs.get(job_id)) is not None:
                live.cancel()
        await self.schedules.run_due(self.store, self._in_store_thread)
        await self._start_due()
        if self.deliveries is not None:
            await self.deliveries.start_due(self.store, self._in_store_thread)
        await self._update_metrics()

    async def _start_due(self) -> None:
        while len(self._running) < self.limits.concurrency:
            now = time.time()
            if not await self._in_store_thread(self.store.has_due, now):
                return
            job = await self._in_store_thread(self.store.claim, now, self.limits.per_tenant)
            if job is None:
                return
            self.metrics.waited.child().observe(max(0.0, now - job.due))
            task = asyncio.get_running_loop().create_task(self._run(job), name=f"job {job.id}")
            self._running[job.id] = task

    async def _update_metrics(self) -> None:
        now = time.time()
        depth = await self._in_store_thread(self.store.depth, now)
        state = self.metrics.jobs
        state.child("queued").value = float(depth.queued)
        state.child("delayed").value = float(depth.delayed)
        state.child("running").value = float(depth.running)
        state.child("dead").value = float(depth.dead)
        state.child("undelivered").value = float(depth.undelivered)
        self.metrics.lag.child().value = depth.lag_s
        if now >= self._next_sweep_unix_s:
            full = await self._in_store_thread(
                self.store.sweep, now - self.limits.keep_days * _DAY_S
            )
            self._next_sweep_unix_s = now if full else now + _SWEEP_EVERY_S

    async def _run(self, job: Job) -> None:
        try:
            await self._run_and_settle(job)
        except (StoreError, Overloaded) as error:
            _log.warning("job_let_go", extra={"job": job.id})  # the store is away; see _let_go
            if isinstance(error, StoreError):
                self._report_fault(error)
        except asyncio.CancelledError:
            if self._stopping and self._store is not None:
                await asyncio.shield(self._in_store_thread(self._store.requeue, job.id))
            raise
        except Exception:  # noqa: BLE001 - the process edge: one job's task; the log has it all
            _log.exception("job_failed", extra={"job": job.id})
            with contextlib.suppress(StoreError, Overloaded):
                await self._settle(job, "failed", _SERVER_ERROR, "internal_error")
        finally:
            self._running.pop(job.id, None)
            self._live_runs.pop(job.id, None)
            self._notify_readers(job.id)
            self._wakeup.set()

    async def _run_and_settle(self, job: Job) -> None:
        try:
            live, last = await self._attempt(job)
        except StoreError:
            raise
        except GatewayError as error:
            await self._settle(job, "failed", error.status, error.code)
        else:
            await self._settle(job, live.state, live.status, live.code, last)

    async def _attempt(self, job: Job) -> tuple[LiveRun, list[_StoredEvent]]:
        """Run a job; returns its run and its last events, which are not on disk yet."""
        steps = await self._in_store_thread(self.store.steps, job.id)
        stored = await self._in_store_thread(self.store.events_after, job.id)
        last_number = await self._in_store_thread(self.store.last_event_number, job.id)
        numbering = _EventNumbering(stored, last_number)
        journal = Journal(job.id, self.store, self._store_thread, steps)
        gateway = replace(self.gateway, journal=journal, tools=journalled(self.gateway, journal))
        given = read_input(job.body)
        agent = replace(self.gateway.agents[job.agent], speculate=False)
        now_s = asyncio.get_running_loop().time()
        turn = Turn(job.id, job.tenant, Timeline(), Deadline(None), time.time())
        turn.deadline = Deadline.after(now_s, agent.deadline_s)
        turn.tools_allowed = None if job.tools is None else frozenset(job.tools.split("\n"))
        turn.settle_limits = self._charges.get(job.id)
        runs = Runs(gateway, EventLog(), self.on_end)
        live = runs.start(RunRequest(agent, job.id, given.thread_id, given.messages), turn)
        await asyncio.sleep(
            0
        )  # a task that is cancelled before its first step appends no final event
        self._live_runs[job.id] = live
        unseen: list[_StoredEvent] = []
        try:
            seq = 0
            while await live.log.more(seq):
                new = live.log.after(seq)
                seq = new[-1][0]
                unseen = numbering.unseen([to_json_object(event, job.id) for _, event in new])
                if live.log.ended and seq == live.log.last:
                    break
                await self._in_store_thread(self.store.append_events, job.id, unseen)
                self._notify_readers(job.id)
        finally:
            await runs.aclose()
        if journal.fault is not None:
            raise journal.fault
        if live.state == "failed" and self._should_retry(job, live.status):
            unseen = [each for each in unseen if each[1] not in _TERMINAL_EVENTS]
        return live, unseen

    def _should_retry(self, job: Job, status: int) -> bool:
        passes = status >= _SERVER_ERROR or status in _RETRYABLE_STATUSES
        return passes and job.attempts < self.limits.max_attempts

    async def _settle(
        self, job: Job, state: str, status: int, code: str, last: Sequence[_StoredEvent] = ()
    ) -> None:
        if self._stopping and state == "cancelled":
            await self._in_store_thread(self.store.requeue, job.id)
            return
        due = time.time()
        if state == "failed":
            state = "dead"
            if self._should_retry(job, status):
                state = "queued"
                due += min(_LONGEST_BACKOFF_S, self.limits.backoff_s * 2 ** (job.attempts - 1))
        message = "" if state == "finished" else f"attempt {job.attempts} ended with {code}"
        await self._in_store_thread(
            self.store.settle, job.id, AttemptEnd(state, due, code, message), last
        )
        self.metrics.ended.child("retried" if state == "queued" else state).inc()
        if state in TERMINAL_STATES:
            self.metrics.took.child().observe(max(0.0, time.time() - job.created))
            self._charges.pop(job.id, None)


def _store_away() -> Overloaded:
    message = "the store of jobs is away: try again later"
    return Overloaded(message, code="store_away", retry_after_s=_POLL_INTERVAL_S)


class _EventNumbering:
    """Numbers a job's events and leaves out those that an earlier attempt stored."""

    def __init__(self, stored: list[tuple[int, str, str]], last: int) -> None:
        """``stored``: what is on disk; ``last``: the last number in use."""
        self._last = last
        self._seen = Counter(_identity(msgspec.json.decode(data)) for _, _, data in stored)

    def unseen(self, events: list[dict[str, object]]) -> list[tuple[int, str, str]]:
        """Those that are not stored yet: number, kind, JSON text."""
        found: list[tuple[int, str, str]] = []
        for event in events:
            who = _identity(event)
            if self._seen[who] > 0:
                self._seen[who] -= 1
                continue
            self._last += 1
            text = msgspec.json.encode(event).decode()
            found.append((self._last, str(event["type"]), text))
        return found


def _identity(event: dict[str, object]) -> str:
    """The event without what differs between attempts, such as durations."""
    if event["type"] in _TERMINAL_EVENTS:
        return str(event["type"])
    if event["type"] == "TOOL_CALL_RESULT":
        return f"result {event['toolCallId']}"
    return msgspec.json.encode(event, order="deterministic").decode()
