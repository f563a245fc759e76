"""Agents' runs as jobs: kept before they are accepted, run by whichever worker has room, taken up
again where their worker died.

One task looks for work: at once when a job comes in here, else each second, for other workers take
jobs in too, die, or are told to cancel. It also serves the schedules and has the ends told. A job's
run is an ordinary run of an agent over a gateway whose models and tools keep a journal
(``app.jobs.journal``). Its events are on disk before a reader sees them; an attempt tells again what
the one before it told, and that is left out.

The file is spoken to in one thread: an ordinary request never waits for it.
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
from app.jobs.deliveries import Deliveries
from app.jobs.door import JobLimits
from app.jobs.journal import Journal, journalled
from app.jobs.schedules import Schedules
from app.pipeline.agent_runs import LiveRun, Runs, Wanted
from app.pipeline.gateway import Gateway, Turn
from app.stores.event_log import EventLog
from app.stores.job_records import AttemptEnd, Delivery, Job
from app.stores.job_store import JobStore
from app.telemetry.job_metrics import JobMetrics
from app.telemetry.timeline import Timeline
from app.wire.ag_ui import read_input, to_json_object

T = TypeVar("T")
_Numbered = tuple[int, str, str]
"""An event's number, kind and JSON text."""
Charge = Callable[[Turn], None]
_log = logging.getLogger("slipstream.jobs")
_LOOK_S = 1.0
_MOST_CRASHES = 50
_MOST_CHARGES = 10_000
_LONGEST_BACKOFF_S = 3600.0
_SWEEP_EVERY_S = 600.0
_DAY_S = 86_400.0
_MAY_PASS = frozenset({408, 425, 429})
_SERVER_ERROR = 500
_ENDS = frozenset({"RUN_FINISHED", "RUN_ERROR"})
OVER = frozenset({"finished", "cancelled", "dead"})


@dataclass(slots=True)
class Jobs:
    """The jobs of this host, and those that run here. ``start`` before use, ``aclose`` after."""

    open_store: Callable[[], JobStore]
    gateway: Gateway
    on_end: Callable[[LiveRun], None]
    limits: JobLimits
    metrics: JobMetrics
    schedules: Schedules
    deliveries: Deliveries | None
    """None where nobody may be told."""
    on_store: Callable[[str | None], None]
    """Told why the store is away, and None when it is there."""
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="jobs")
    )
    _store: JobStore | None = None
    _charges: dict[str, Charge] = field(default_factory=dict)
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _live: dict[str, LiveRun] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: WeakValueDictionary[str, asyncio.Event] = field(default_factory=WeakValueDictionary)
    """By job, kept alive by those who wait: a job that runs elsewhere never has news here."""
    _looking: asyncio.Task[None] | None = None
    _fault: StoreError | None = None
    """The store failed somewhere: it is let go of and opened anew."""
    _stopping: bool = False
    _sweep_s: float = 0.0

    async def start(self) -> None:
        """Open the store, if it is there, and begin to look for work."""
        await self._open()
        self._looking = asyncio.get_running_loop().create_task(self._look(), name="jobs")

    async def _open(self) -> None:
        try:
            self._store = await self._do(self.open_store)
        except StoreError as error:
            self.on_store(error.message)
        else:
            self.on_store(None)

    async def aclose(self) -> None:
        """Stop what runs here, to be taken up again, and close the file."""
        self._stopping = True
        tasks = [*self._running.values()]
        if self._looking is not None:
            tasks.append(self._looking)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.schedules.aclose()
        if self.deliveries is not None:
            await self.deliveries.aclose()
        if self._store is not None:
            await self._do(self._store.close)
        self._thread.shutdown(wait=False)

    @property
    def store(self) -> JobStore:
        """Where the jobs are kept; raises ``Overloaded`` while that is away."""
        if self._store is None:
            raise _away()
        return self._store

    async def _do(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _answer(self, work: Callable[..., T], *args: object) -> T:
        """``_do`` for a request; raises ``Overloaded`` where the store fails."""
        try:
            return await self._do(work, *args)
        except StoreError as error:
            self._failed(error)
            raise _away() from error

    def _failed(self, error: StoreError) -> None:
        self._fault = error
        self._news.set()

    async def submit(
        self, job: Job, idempotency: str | None, charge: Charge | None = None, hook: str = ""
    ) -> tuple[Job, bool]:
        """Keep a job; on disk when this returns. False: one of that key is there already.

        ``charge`` is told what its turns used, as long as they run in this worker; ``hook`` names whom
        to tell of its end.
        """
        found, new = await self._answer(self.store.add, job, idempotency, hook)
        if new:
            if charge is not None:
                self._charges[job.id] = charge
                if len(self._charges) > _MOST_CHARGES:  # of jobs that run elsewhere
                    del self._charges[next(iter(self._charges))]
            self._news.set()
        return found, new

    async def find(self, tenant: str, job_id: str) -> Job | None:
        """A tenant's job."""
        return await self._answer(self.store.find, tenant, job_id)

    async def listed(self, tenant: str, state: str | None, before: float, most: int) -> list[Job]:
        """A tenant's jobs, newest first."""
        return await self._answer(self.store.listed, tenant, state, before, most)

    async def delivery(self, job_id: str) -> Delivery | None:
        """How the telling of a job's end stands."""
        return await self._answer(self.store.delivery, job_id)

    async def revive(self, tenant: str, job_id: str) -> bool:
        """Queue a dead job anew; its finished steps are not run again."""
        revived = await self._answer(self.store.revive, tenant, job_id)
        self._news.set()
        return revived

    async def cancel(self, tenant: str, job_id: str) -> None:
        """End a job: at once where it waits or runs here, within a second where it runs elsewhere."""
        await self._answer(self.store.cancel, tenant, job_id)
        live, task = self._live.get(job_id), self._running.get(job_id)
        if live is not None and live.turn.tenant == tenant:
            live.cancel()
            if task is not None:
                await asyncio.wait({task})
        self._wake(job_id)

    async def told(self, job_id: str, after: int) -> list[tuple[int, str, str]]:
        """A job's events behind number ``after``: number, kind, JSON text."""
        return await self._answer(self.store.told, job_id, after)

    async def news(self, job_id: str) -> None:
        """Wait until a job has more to tell; up to a second where it runs elsewhere."""
        event = self._changed.setdefault(job_id, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await event.wait()

    def _wake(self, job_id: str) -> None:
        if (event := self._changed.pop(job_id, None)) is not None:
            event.set()

    async def _look(self) -> None:
        while True:
            self._news.clear()
            try:
                if self._fault is not None:
                    await self._let_go(self._fault)
                if self._store is None:
                    await self._open()
                if self._store is not None:
                    await self._take()
            except StoreError as error:
                await self._let_go(error)
            except Exception:  # noqa: BLE001 - the process edge: a full disk must not end all jobs
                _log.exception("jobs_failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._news.wait()

    async def _let_go(self, error: StoreError) -> None:
        """The store was lost, and with it this worker's jobs: another takes them up, or this one anew."""
        self.on_store(error.message)
        lost, self._store, self._fault = self._store, None, None
        tasks = [*self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if lost is not None:
            with contextlib.suppress(StoreError):
                await self._do(lost.close)

    async def _take(self) -> None:
        if adopted := await self._do(self.store.adopt, _MOST_CRASHES):
            self.metrics.ended.child("adopted").inc(adopted)
        for job_id in await self._do(self.store.cancelled):
            if (live := self._live.get(job_id)) is not None:
                live.cancel()
        await self.schedules.look(self.store, self._do)
        await self._begin()
        if self.deliveries is not None:
            await self.deliveries.look(self.store, self._do)
        await self._measure()

    async def _begin(self) -> None:
        while len(self._running) < self.limits.concurrency:
            now = time.time()
            if not await self._do(self.store.waits, now):
                return
            job = await self._do(self.store.claim, now, self.limits.per_tenant)
            if job is None:
                return
            self.metrics.waited.child().observe(max(0.0, now - job.due))
            task = asyncio.get_running_loop().create_task(self._run(job), name=f"job {job.id}")
            self._running[job.id] = task

    async def _measure(self) -> None:
        now = time.time()
        depth = await self._do(self.store.depth, now)
        state = self.metrics.jobs
        state.child("queued").value = float(depth.queued)
        state.child("delayed").value = float(depth.delayed)
        state.child("running").value = float(depth.running)
        state.child("dead").value = float(depth.dead)
        state.child("undelivered").value = float(depth.undelivered)
        self.metrics.lag.child().value = depth.lag_s
        if now >= self._sweep_s:
            full = await self._do(self.store.sweep, now - self.limits.keep_days * _DAY_S)
            self._sweep_s = now if full else now + _SWEEP_EVERY_S

    async def _run(self, job: Job) -> None:
        try:
            await self._lived(job)
        except (StoreError, Overloaded) as error:
            _log.warning("job_let_go", extra={"job": job.id})  # the store is away; see _let_go
            if isinstance(error, StoreError):
                self._failed(error)
        except asyncio.CancelledError:
            if self._stopping and self._store is not None:
                await asyncio.shield(self._do(self._store.give_back, job.id))
            raise
        except Exception:  # noqa: BLE001 - the process edge: one job's task; the log has it all
            _log.exception("job_failed", extra={"job": job.id})
            with contextlib.suppress(StoreError, Overloaded):
                await self._settle(job, "failed", _SERVER_ERROR, "internal_error")
        finally:
            self._running.pop(job.id, None)
            self._live.pop(job.id, None)
            self._wake(job.id)
            self._news.set()

    async def _lived(self, job: Job) -> None:
        try:
            live, last = await self._attempt(job)
        except StoreError:
            raise
        except GatewayError as error:
            await self._settle(job, "failed", error.status, error.code)
        else:
            await self._settle(job, live.state, live.status, live.code, last)

    async def _attempt(self, job: Job) -> tuple[LiveRun, list[_Numbered]]:
        """Run a job as far as it comes; its run, and the last events, not yet on disk."""
        steps = await self._do(self.store.steps, job.id)
        told_before = await self._do(self.store.told, job.id)
        teller = _Teller(told_before, await self._do(self.store.last_told, job.id))
        journal = Journal(job.id, self.store, self._thread, steps)
        gateway = replace(self.gateway, journal=journal, tools=journalled(self.gateway, journal))
        given = read_input(job.body)
        agent = replace(self.gateway.agents[job.agent], speculate=False)
        now_s = asyncio.get_running_loop().time()
        turn = Turn(job.id, job.tenant, Timeline(), Deadline(None), time.time())
        turn.deadline = Deadline.after(now_s, agent.deadline_s)
        turn.tools_allowed = None if job.tools is None else frozenset(job.tools.split("\n"))
        turn.settle_limits = self._charges.get(job.id)
        runs = Runs(gateway, EventLog(), self.on_end)
        live = runs.start(Wanted(agent, job.id, given.thread_id, given.messages), turn)
        await asyncio.sleep(0)  # a task that is cancelled before its first step tells no end
        self._live[job.id] = live
        told: list[_Numbered] = []
        try:
            seq = 0
            while await live.log.more(seq):
                new = live.log.after(seq)
                seq = new[-1][0]
                told = teller.new([to_json_object(event, job.id) for _, event in new])
                if live.log.ended and seq == live.log.last:
                    break
                await self._do(self.store.tell, job.id, told)
                self._wake(job.id)
        finally:
            await runs.aclose()
        if journal.fault is not None:
            raise journal.fault
        if live.state == "failed" and self._again(job, live.status):
            told = [each for each in told if each[1] not in _ENDS]
        return live, told

    def _again(self, job: Job, status: int) -> bool:
        passes = status >= _SERVER_ERROR or status in _MAY_PASS
        return passes and job.attempts < self.limits.max_attempts

    async def _settle(
        self, job: Job, state: str, status: int, code: str, last: Sequence[_Numbered] = ()
    ) -> None:
        if self._stopping and state == "cancelled":
            await self._do(self.store.give_back, job.id)
            return
        due = time.time()
        if state == "failed":
            state = "dead"
            if self._again(job, status):
                state = "queued"
                due += min(_LONGEST_BACKOFF_S, self.limits.backoff_s * 2 ** (job.attempts - 1))
        message = "" if state == "finished" else f"attempt {job.attempts} ended with {code}"
        await self._do(self.store.settle, job.id, AttemptEnd(state, due, code, message), last)
        self.metrics.ended.child("retried" if state == "queued" else state).inc()
        if state in OVER:
            self.metrics.took.child().observe(max(0.0, time.time() - job.created))
            self._charges.pop(job.id, None)


def _away() -> Overloaded:
    message = "the store of jobs is away: come back"
    return Overloaded(message, code="store_away", retry_after_s=_LOOK_S)


class _Teller:
    """Numbers a job's events and leaves out what an earlier attempt told."""

    def __init__(self, told: list[tuple[int, str, str]], last: int) -> None:
        """``told``: what is on disk; ``last``: the last number that was given."""
        self._last = last
        self._told = Counter(_identity(msgspec.json.decode(data)) for _, _, data in told)

    def new(self, events: list[dict[str, object]]) -> list[tuple[int, str, str]]:
        """Those that were not told yet: number, kind, JSON text."""
        found: list[tuple[int, str, str]] = []
        for event in events:
            who = _identity(event)
            if self._told[who] > 0:
                self._told[who] -= 1
                continue
            self._last += 1
            text = msgspec.json.encode(event).decode()
            found.append((self._last, str(event["type"]), text))
        return found


def _identity(event: dict[str, object]) -> str:
    """What an event says, without what another attempt may say otherwise: how long it took."""
    if event["type"] in _ENDS:
        return str(event["type"])
    if event["type"] == "TOOL_CALL_RESULT":
        return f"result {event['toolCallId']}"
    return msgspec.json.encode(event, order="deterministic").decode()
