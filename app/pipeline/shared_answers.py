"""Answers and flights that all workers share in Redis, behind each worker's own memory cache.

Each worker keeps answers in its own memory (``ExactCache``, the near cache). On a miss, one Redis step
returns the stored answer, or the worker that is already making the call, or makes this worker the leader.
Whatever Redis does (slow, full, down, back, empty, evicting), a request pays at most one small budget, and
then proceeds as without Redis.

Answers are written to Redis after the response, in order, by one task; the queue is bounded, and what does
not fit is not written. Only answers that the cacheability classifier admits are written.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

import msgspec
import structlog

from app.cache.barriers import Barriers
from app.cache.coalesce import Flight, Flights
from app.cache.entry_bytes import UnreadableEntryError, from_bytes, to_bytes
from app.cache.exact import CachedAnswer, ExactCache
from app.domain.chat import ChatRequest, Dialect
from app.domain.decisions import Classification, PromptView
from app.domain.events import Event
from app.domain.invalidation import InvalidationFilter
from app.domain.seal import Seal
from app.errors import GatewayError, StoreError
from app.pipeline.shared_leases import FinishedCall, LeasedCall, Leases
from app.pipeline.shared_stream import RemoteProgress, RemoteStream, StreamForm, StreamRecord
from app.ports import Codec
from app.stores.event_bytes import events_from_bytes
from app.stores.redis import Redis
from app.stores.shared_flights import (
    Absent,
    LeaseTaken,
    RemoteFlight,
    SharedFlights,
    StoredEntry,
    StoreEpoch,
)
from app.stores.worker_group import WorkerGroup

_MAX_QUEUED: Final = 1_000
_MAX_ENTRY_BYTES: Final = 1 << 20
_WRITE_AT_END_S: Final = 0.5
_POLL_S: Final = 0.25
_REJOIN_EVERY_S: Final = 1.0
_REDIS_MAY_BE_AWAY_S: Final = 5.0
_ID: Final = re.compile(r"[0-9a-f]{32}")


class LeaderLost(Exception):
    """The worker that made the call, or its stream, is gone."""


class SharedAnswers:
    """One worker's access to the shared answers and flights; one event loop owns it."""

    def __init__(  # noqa: PLR0913 - it connects many collaborators
        self,
        redis: Redis,
        *,
        exact: ExactCache,
        flights: Flights,
        codecs: Mapping[Dialect, Codec],
        classify: Callable[[PromptView], Classification],
        count: Callable[[str], None],
        coalesce: bool = True,
        seal: Seal | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing runs until ``start``. ``count`` is called with the outcome of each look-up."""
        self._redis, self._exact, self._flights = redis, exact, flights
        self._codecs, self._classify, self._count = codecs, classify, count
        self._coalesce, self._clock = coalesce, clock
        self._barriers = Barriers()
        self.on_forget: Callable[[InvalidationFilter], None] = _ignore
        """Called with each invalidation, for the worker's other stores of answers."""
        self.workers = WorkerGroup(
            redis,
            on_invalidate=self._forget,
            drop_before=self._reset,
            on_message=self._on_message,
        )
        self.trusted = self.workers.trusted
        """Whether an entry of the near cache may be served now."""
        self._store = SharedFlights(redis, self.workers.id, seal)
        self._open_calls: dict[Flight, LeasedCall] = {}
        self._leases = Leases(redis, self._store, start=self._run, land=self._enqueue, clock=clock)
        self._wakeups: dict[bytes, asyncio.Event] = {}
        self._to_write: deque[FinishedCall] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Join the other workers."""
        await self.workers.start()
        self._run(self._write_queued(), "shared answers")
        self._run(self._leases.renew(), "shared leases")

    async def aclose(self) -> None:
        """Write what is queued, for half a second at most, and leave the other workers."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_WRITE_AT_END_S if self._redis.unavailable is None else 0):
                await self._idle.wait()
        for task in list(self._tasks):
            task.cancel()
        for task in list(self._tasks):
            with suppress(asyncio.CancelledError):
                await task
        await self.workers.aclose()

    def _run(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ---------------------------------------------------------------- on the request's path

    def register(self, key: bytes, flight: Flight) -> None:
        """Register a flight that starts here; its answer belongs to the current invalidation epoch."""
        place = StoreEpoch(self.workers.incarnation, self.workers.epoch)
        self._open_calls[flight] = LeasedCall(key, flight, place)

    async def look_up(self, key: bytes) -> CachedAnswer | None:
        """The stored answer of ``key``, without claiming the call; None also where Redis is late or down."""
        found = await self._claim_in_redis(key, b"", b"", look=True)
        return self._admit_entry(key[:16].hex(), found) if isinstance(found, StoredEntry) else None

    async def find_entry(self, entry_id: str) -> CachedAnswer | None:
        """The stored answer with the id ``entry_id`` (32 hex digits)."""
        if not _ID.fullmatch(entry_id):
            return None
        found = await self._claim_in_redis(bytes.fromhex(entry_id), b"", b"", look=True)
        return self._admit_entry(entry_id, found) if isinstance(found, StoredEntry) else None

    async def claim(
        self, key: bytes, flight: Flight, *, look: bool = True
    ) -> CachedAnswer | RemoteFlight | None:
        """The stored answer, or the worker that is making the call, or None: this worker is to make it."""
        call = self._open_calls[flight]
        call.id = secrets.token_hex(12).encode() if self._coalesce else b""
        form = StreamForm(flight.dialect.value, flight.streamed, flight.usage_shown)
        call.since_s = self._clock()
        if call.id:
            # Before asking: a late reply may still grant the lease.
            self._leases.leases[call.id] = call
        found = await self._claim_in_redis(key, call.id, msgspec.msgpack.encode(form), look=look)
        if found is not None:
            call.place = found.place
        match found:
            case StoredEntry():
                self._drop_lease(call)
                entry = self._admit_entry(key[:16].hex(), found)
                entry = None if entry is None or entry.key != key else entry
                if entry is None:
                    return await self.claim(key, flight, look=False)
                return entry
            case RemoteFlight():
                self._drop_lease(call)
                return found
            case _:
                return None

    def _drop_lease(self, call: LeasedCall) -> None:
        self._leases.leases.pop(call.id, None)
        call.id = b""

    async def _claim_in_redis(
        self, key: bytes, flight: bytes, form: bytes, *, look: bool
    ) -> StoredEntry | RemoteFlight | LeaseTaken | None:
        """Ask Redis within the budget, and apply invalidations up to its reply first."""
        if self._redis.unavailable is not None or self.workers.has_unsent_invalidations:
            self._count("away")
            return None
        try:
            found = await self._store.claim(key[:16].hex(), flight, form, look=look)
            await self._catch_up(found.place)
        except StoreError as error:
            self._count("late" if error.code == "store_slow" else "away")
            return None
        except TimeoutError:
            self._count("late")
            return None
        return self._counted(found)

    async def _catch_up(self, place: StoreEpoch) -> None:
        """Apply every invalidation up to ``place``; raises ``StoreError``, ``TimeoutError`` over budget."""
        workers = self.workers
        if not workers.trusted():  # Redis may be back with older data: only a renewal tells
            async with asyncio.timeout(self._redis.budget_s):
                await workers.renew()
        elif place.epoch != workers.epoch or place.incarnation != workers.incarnation:
            async with asyncio.timeout(self._redis.budget_s):
                await workers.catch_up(place.incarnation, place.epoch)

    def _counted(
        self, found: StoredEntry | RemoteFlight | LeaseTaken | Absent
    ) -> StoredEntry | RemoteFlight | LeaseTaken | None:
        if found.place.incarnation != self.workers.incarnation:
            self._count("invalidated")
            return None
        match found:
            case RemoteFlight():
                self._count("running")
            case LeaseTaken():
                self._count("absent")
            case StoredEntry():
                return found
            case _:
                self._count("absent")
                return None
        return found

    def _admit_entry(self, entry_id: str, found: StoredEntry) -> CachedAnswer | None:
        """The entry, put into the near cache; None where it is unreadable, expired or invalidated."""
        try:
            stored = from_bytes(found.data, entry_id)
        except UnreadableEntryError as why:
            self._count(f"unreadable_{why}")
            return None
        entry = stored.entry
        left_s = stored.expires_unix_s - time.time()
        if left_s <= 0:
            self._count("absent")
            return None
        if stored.incarnation != self.workers.incarnation or self._barred(stored.epoch, entry):
            self._count("invalidated")
            return None
        self._count("hit")
        self._exact.put(entry.key, entry)
        self._exact.shorten(entry.key, left_s)
        return entry

    def _barred(self, epoch: int, entry: CachedAnswer) -> bool:
        return self._barriers.blocks(epoch, entry.tenant, entry.model, entry.tags, entry.id)

    async def follow(
        self,
        key: bytes,
        running: RemoteFlight,
        forward: Callable[[RemoteProgress, Event], Awaitable[None]],
    ) -> RemoteProgress:
        """Forward all past and future events of another worker's call; returns its final state.

        Raises the call's own failure, or ``LeaderLost``. ``RemoteProgress.forwarded`` counts the events.
        """
        following = RemoteStream(running, key[:16].hex(), self._clock)
        self._wakeups[running.flight] = following.wakeup
        try:
            while True:
                following.wakeup.clear()
                await self._read_records(following, forward)
                if following.progress.done:
                    return following.progress
                if self._clock() - following.joined_s > _REJOIN_EVERY_S:
                    following.joined_s = self._clock()
                    self._notify_leader(running, b"join")
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_S):
                        await following.wakeup.wait()
        finally:
            self._wakeups.pop(running.flight, None)
            if not following.progress.done:
                self._notify_leader(running, b"left")

    async def _read_records(
        self, it: RemoteStream, forward: Callable[[RemoteProgress, Event], Awaitable[None]]
    ) -> None:
        try:
            records, alive = await self._store.read(it.entry_id, it.running.flight, it.last_id)
        except StoreError as error:
            it.redis_lost_s = self._clock()
            if (
                not it.progress.forwarded
                or it.redis_lost_s - it.last_record_s > _REDIS_MAY_BE_AWAY_S
            ):
                raise LeaderLost from error
            it.last_id = b""  # a Redis that restarts empty is refilled from the start
            return
        for number, data in records:
            it.last_id = number
            it.last_record_s = self._clock()
            try:
                record = msgspec.msgpack.decode(data, type=StreamRecord)
                events = events_from_bytes(record.events)
            except (msgspec.DecodeError, ValueError) as error:  # of another version
                raise LeaderLost from error
            for event in it.new_events(record, events):
                await forward(it.progress, event)
        if it.progress.failure is not None:
            raise it.progress.failure
        if not records and not alive and not it.redis_was_lost(_REDIS_MAY_BE_AWAY_S):
            raise LeaderLost

    def _notify_leader(self, running: RemoteFlight, kind: bytes) -> None:
        self.workers.send(running.worker, kind, b"%s:%s" % (running.flight, self.workers.id))

    # ---------------------------------------------------------------- after the answer

    def land(
        self,
        flight: Flight,
        entry: CachedAnswer | None,
        request: ChatRequest,
        classification: Classification | None,
    ) -> None:
        """A flight has ended: store its answer here now, and queue it for Redis."""
        call = self._open_calls.pop(flight)
        if entry is not None and call.place.incarnation == self.workers.incarnation:
            if self._barred(call.place.epoch, entry):
                entry = None
            else:
                self._exact.put(call.key, entry)
        else:
            entry = None
        if not call.id and (entry is None or self._redis.unavailable is not None):
            return
        job = FinishedCall(call, entry, request, classification)
        if call.copy_task is not None and not call.copy_task.done():
            call.finished = job
        else:
            self._enqueue(job)

    async def store_answer(self, entry: CachedAnswer) -> None:
        """Store an imported answer for every worker; raises ``StoreError``."""
        place = self.workers
        if not place.incarnation:
            raise StoreError("Redis is away: answers cannot reach the other gateways")
        ttl_s = self._exact.ttl_s
        data = to_bytes(
            entry,
            incarnation=place.incarnation,
            epoch=place.epoch,
            stored_unix_s=time.time(),
            ttl_s=ttl_s,
        )
        if len(data) <= _MAX_ENTRY_BYTES:
            await self._store.complete(entry.id, b"", data, ttl_s)

    def _enqueue(self, job: FinishedCall) -> None:
        if len(self._to_write) >= _MAX_QUEUED:
            self._leases.leases.pop(job.call.id, None)
            self._count("not_kept")
            return
        self._to_write.append(job)
        self._idle.clear()
        self._work.set()

    async def drained(self) -> None:
        """Wait until everything queued so far has been written."""
        await self._idle.wait()

    async def _write_queued(self) -> None:
        while True:
            await self._work.wait()
            while self._to_write:
                job = self._to_write[0]
                try:
                    await self._write_one(job)
                except Exception as error:  # noqa: BLE001 - the edge of a task that must outlive any one answer
                    self._count("not_kept")
                    if not isinstance(error, GatewayError):
                        name = type(error).__name__
                        structlog.get_logger().error("shared_answer_not_kept", error=name)
                finally:
                    self._leases.leases.pop(job.call.id, None)
                    self._to_write.popleft()
                await asyncio.sleep(0)
            self._work.clear()
            self._idle.set()

    async def _write_one(self, job: FinishedCall) -> None:
        call, data, ttl_s = job.call, b"", 0.0
        if job.entry is not None and call.place.incarnation:
            ttl_s = self._ttl_s(job)
            if ttl_s > 0:
                data = self._serialised(job.entry, job, ttl_s)
        if data or call.id:
            await self._store.complete(call.key[:16].hex(), call.id, data, ttl_s)
            self._count("kept" if data else "unfit")

    def _ttl_s(self, job: FinishedCall) -> float:
        """The answer's time to live by its cacheability; 0 = not to be stored."""
        judged = job.classification
        if judged is None:
            judged = self._classify(self._codecs[job.request.dialect].view(job.request.body))
        ttl_s = self._exact.ttl_s
        return ttl_s if judged.ttl_s is None else min(ttl_s, judged.ttl_s)

    def _serialised(self, entry: CachedAnswer, job: FinishedCall, ttl_s: float) -> bytes:
        if not entry.pieces:
            if entry.answer is None:
                return b""
            body = self._codecs[entry.dialect].write_answer(entry.answer, job.request)
            entry = replace(entry, pieces=(body,), streamed=False)
        data = to_bytes(
            entry,
            incarnation=job.call.place.incarnation,
            epoch=job.call.place.epoch,
            stored_unix_s=time.time(),
            ttl_s=ttl_s,
        )
        return data if len(data) <= _MAX_ENTRY_BYTES else b""

    def _on_message(self, kind: bytes, content: bytes) -> None:
        if kind != b"news":
            self._leases.on_message(kind, content)
        elif (news := self._wakeups.get(content)) is not None:
            news.set()

    # ---------------------------------------------------------------- forgetting

    async def forget(self, what: InvalidationFilter) -> int:
        """Invalidate on every worker before returning; raises ``StoreError`` (see ``WorkerGroup``)."""
        had = await self.workers.invalidate(what)
        if what.entry_id:
            with suppress(StoreError):
                await self._store.delete(what.entry_id)
        return had

    def _forget(self, what: InvalidationFilter, epoch: int) -> int:
        """Apply one invalidation to this worker's memory and to its flights."""
        self._barriers.add(what, epoch)
        self._flights.forget()
        self._exact.block(what)  # also answers without a flight: an agent's
        self.on_forget(what)
        if what.entry_id:
            return int(self._exact.remove(what.entry_id))
        return self._exact.invalidate(tenant=what.tenant, model=what.model or None, tags=what.tags)

    def _reset(self, floor: int) -> None:
        """Invalidations were missed: drop everything stored before."""
        self._barriers.clear(floor)
        self._flights.forget()
        self._exact.block_all()
        self._exact.clear()


def _ignore(_: InvalidationFilter) -> None:
    """Do nothing: no other store."""
