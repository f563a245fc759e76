"""Kept answers and running calls of all workers: the near cache's other half, in Redis.

Each worker keeps answers in its own memory (``ExactCache``, the near cache). What is not there is
looked for in Redis in one step, which also says who is already asking a model for it, or makes this
worker the one who does. Whatever Redis does (slow, full, gone, back, empty, evicting), a request pays
at most one small budget, and then goes on as if there were no Redis.

Answers are written to Redis after the response, in order, by one task; the queue is bounded, and what
does not fit is not kept there. Nothing is written that the cacheability gate has not judged first.
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
from app.domain.invalidation import Forget
from app.domain.seal import Seal
from app.errors import GatewayError, StoreError
from app.pipeline.shared_leading import Job, Leading, Leases
from app.pipeline.shared_stream import FollowedElsewhere, Form, Record, Said
from app.ports import Codec
from app.stores.event_bytes import events_from_bytes
from app.stores.redis import Redis
from app.stores.shared_flights import Kept, Led, Nothing, Place, Running, SharedFlights
from app.stores.workers import Workers

_MOST_WAITING: Final = 1_000
_MAX_ENTRY_BYTES: Final = 1 << 20
_WRITE_AT_END_S: Final = 0.5
_LOOK_AGAIN_S: Final = 0.25
_REJOIN_EVERY_S: Final = 1.0
_REDIS_MAY_BE_AWAY_S: Final = 5.0
_ID: Final = re.compile(r"[0-9a-f]{32}")


class LeaderLost(Exception):
    """Whoever made the call is gone, or its stream is."""


class SharedAnswers:
    """One worker's view on what all workers keep and do; one event loop owns it."""

    def __init__(  # noqa: PLR0913 - it stands between many
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
        """Nothing runs until ``start``. ``count`` is told, in one word, what became of each look-up."""
        self._redis, self._exact, self._flights = redis, exact, flights
        self._codecs, self._classify, self._count = codecs, classify, count
        self._coalesce, self._clock = coalesce, clock
        self._barriers = Barriers()
        self.on_forget: Callable[[Forget], None] = _nothing
        """Told what every other store of answers in this worker has to forget."""
        self.workers = Workers(
            redis, on_forget=self._forget, on_lost=self._lose, on_note=self._take_note
        )
        self.trusted = self.workers.trusted
        """Whether an entry of the near cache may be served now."""
        self._store = SharedFlights(redis, self.workers.id, seal)
        self._begun: dict[Flight, Leading] = {}
        self._leading = Leases(redis, self._store, start=self._run, land=self._queue, clock=clock)
        self._news: dict[bytes, asyncio.Event] = {}
        self._jobs: deque[Job] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Join the other workers."""
        await self.workers.start()
        self._run(self._write(), "shared answers")
        self._run(self._leading.renew(), "shared leases")

    async def aclose(self) -> None:
        """Write down what waits, for as long as a lease at most, and leave."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_WRITE_AT_END_S if self._redis.away is None else 0):
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

    def begin(self, key: bytes, flight: Flight) -> None:
        """A flight begins here: what it brings is of the epoch that is in force now."""
        place = Place(self.workers.incarnation, self.workers.epoch)
        self._begun[flight] = Leading(key, flight, place)

    async def look(self, key: bytes) -> CachedAnswer | None:
        """What is kept for ``key``, claiming nothing; None also where Redis cannot say in time."""
        found = await self._ask(key, b"", b"", look=True)
        return self._read(key[:16].hex(), found) if isinstance(found, Kept) else None

    async def find(self, entry_id: str) -> CachedAnswer | None:
        """What is kept under an operator's name for it."""
        if not _ID.fullmatch(entry_id):
            return None
        found = await self._ask(bytes.fromhex(entry_id), b"", b"", look=True)
        return self._read(entry_id, found) if isinstance(found, Kept) else None

    async def claim(
        self, key: bytes, flight: Flight, *, look: bool = True
    ) -> CachedAnswer | Running | None:
        """What is kept; or who is at it; or None: the call is this worker's to make."""
        led = self._begun[flight]
        led.id = secrets.token_hex(12).encode() if self._coalesce else b""
        form = Form(flight.dialect.value, flight.streamed, flight.usage_shown)
        led.since_s = self._clock()
        if led.id:
            self._leading.leases[led.id] = (
                led  # first: an answer that comes too late may still be a lease
            )
        found = await self._ask(key, led.id, msgspec.msgpack.encode(form), look=look)
        if found is not None:
            led.place = found.place
        match found:
            case Kept():
                self._unlease(led)
                entry = self._read(key[:16].hex(), found)
                entry = None if entry is None or entry.key != key else entry
                if entry is None:
                    return await self.claim(key, flight, look=False)
                return entry
            case Running():
                self._unlease(led)
                return found
            case _:
                return None

    def _unlease(self, led: Leading) -> None:
        self._leading.leases.pop(led.id, None)
        led.id = b""

    async def _ask(
        self, key: bytes, flight: bytes, form: bytes, *, look: bool
    ) -> Kept | Running | Led | None:
        """Ask Redis within the budget, and hear first what was forgotten up to its answer."""
        if self._redis.away is not None or self.workers.owes:
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

    async def _catch_up(self, place: Place) -> None:
        """Apply every invalidation up to ``place``; raises ``StoreError``, ``TimeoutError`` over budget."""
        workers = self.workers
        if not workers.trusted():  # Redis may be back with older data: only a renewal tells
            async with asyncio.timeout(self._redis.budget_s):
                await workers.renew()
        elif place.epoch != workers.epoch or place.incarnation != workers.incarnation:
            async with asyncio.timeout(self._redis.budget_s):
                await workers.catch_up(place.incarnation, place.epoch)

    def _counted(self, found: Kept | Running | Led | Nothing) -> Kept | Running | Led | None:
        if found.place.incarnation != self.workers.incarnation:
            self._count("invalidated")
            return None
        match found:
            case Running():
                self._count("running")
            case Led():
                self._count("absent")
            case Kept():
                return found
            case _:
                self._count("absent")
                return None
        return found

    def _read(self, entry_id: str, found: Kept) -> CachedAnswer | None:
        """The entry, put into the near cache; None where it may not be shown."""
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
        self, key: bytes, running: Running, hand_on: Callable[[Said, Event], Awaitable[None]]
    ) -> Said:
        """Hand on everything that another worker's call has said and will say; then how it ended.

        Raises the call's own failure, or ``LeaderLost``. ``Said.shown`` counts what was handed on.
        """
        following = FollowedElsewhere(running, key[:16].hex(), self._clock)
        self._news[running.flight] = following.news
        try:
            while True:
                following.news.clear()
                await self._read_on(following, hand_on)
                if following.said.done:
                    return following.said
                if self._clock() - following.joined_s > _REJOIN_EVERY_S:
                    following.joined_s = self._clock()
                    self._tell(running, b"join")
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AGAIN_S):
                        await following.news.wait()
        finally:
            self._news.pop(running.flight, None)
            if not following.said.done:
                self._tell(running, b"left")

    async def _read_on(
        self, it: FollowedElsewhere, hand_on: Callable[[Said, Event], Awaitable[None]]
    ) -> None:
        try:
            records, alive = await self._store.read(it.entry_id, it.running.flight, it.after)
        except StoreError as error:
            it.redis_lost_s = self._clock()
            if not it.said.shown or it.redis_lost_s - it.heard_s > _REDIS_MAY_BE_AWAY_S:
                raise LeaderLost from error
            it.after = b""  # a Redis that comes back empty is filled from the beginning
            return
        for number, data in records:
            it.after = number
            it.heard_s = self._clock()
            try:
                record = msgspec.msgpack.decode(data, type=Record)
                events = events_from_bytes(record.events)
            except (msgspec.DecodeError, ValueError) as error:  # another version's
                raise LeaderLost from error
            for event in it.take(record, events):
                await hand_on(it.said, event)
        if it.said.failure is not None:
            raise it.said.failure
        if not records and not alive and not it.redis_was_lost(_REDIS_MAY_BE_AWAY_S):
            raise LeaderLost

    def _tell(self, running: Running, kind: bytes) -> None:
        self.workers.send(running.worker, kind, b"%s:%s" % (running.flight, self.workers.id))

    # ---------------------------------------------------------------- after the answer

    def land(
        self,
        flight: Flight,
        entry: CachedAnswer | None,
        request: ChatRequest,
        classification: Classification | None,
    ) -> None:
        """A flight is over: keep what it brought, here now and in Redis later."""
        led = self._begun.pop(flight)
        if entry is not None and led.place.incarnation == self.workers.incarnation:
            if self._barred(led.place.epoch, entry):
                entry = None
            else:
                self._exact.put(led.key, entry)
        else:
            entry = None
        if not led.id and (entry is None or self._redis.away is not None):
            return
        job = Job(led, entry, request, classification)
        if led.copying is not None and not led.copying.done():
            led.job = job
        else:
            self._queue(job)

    async def give(self, entry: CachedAnswer) -> None:
        """Keep an answer that no call brought where every worker finds it; raises ``StoreError``."""
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
            await self._store.land(entry.id, b"", data, ttl_s)

    def _queue(self, job: Job) -> None:
        if len(self._jobs) >= _MOST_WAITING:
            self._leading.leases.pop(job.led.id, None)
            self._count("not_kept")
            return
        self._jobs.append(job)
        self._idle.clear()
        self._work.set()

    async def settled(self) -> None:
        """Wait until everything that landed so far has been written down."""
        await self._idle.wait()

    async def _write(self) -> None:
        while True:
            await self._work.wait()
            while self._jobs:
                job = self._jobs[0]
                try:
                    await self._keep(job)
                except Exception as error:  # noqa: BLE001 - the edge of a task that must outlive any one answer
                    self._count("not_kept")
                    if not isinstance(error, GatewayError):
                        name = type(error).__name__
                        structlog.get_logger().error("shared_answer_not_kept", error=name)
                finally:
                    self._leading.leases.pop(job.led.id, None)
                    self._jobs.popleft()
                await asyncio.sleep(0)
            self._work.clear()
            self._idle.set()

    async def _keep(self, job: Job) -> None:
        led, data, ttl_s = job.led, b"", 0.0
        if job.entry is not None and led.place.incarnation:
            ttl_s = self._ttl_s(job)
            if ttl_s > 0:
                data = self._bytes_of(job.entry, job, ttl_s)
        if data or led.id:
            await self._store.land(led.key[:16].hex(), led.id, data, ttl_s)
            self._count("kept" if data else "unfit")

    def _ttl_s(self, job: Job) -> float:
        """How long the gate lets an answer to this question live; 0 = not at all."""
        judged = job.classification
        if judged is None:
            judged = self._classify(self._codecs[job.request.dialect].view(job.request.body))
        ttl_s = self._exact.ttl_s
        return ttl_s if judged.ttl_s is None else min(ttl_s, judged.ttl_s)

    def _bytes_of(self, entry: CachedAnswer, job: Job, ttl_s: float) -> bytes:
        if not entry.pieces:
            if entry.answer is None:
                return b""
            body = self._codecs[entry.dialect].write_answer(entry.answer, job.request)
            entry = replace(entry, pieces=(body,), streamed=False)
        data = to_bytes(
            entry,
            incarnation=job.led.place.incarnation,
            epoch=job.led.place.epoch,
            stored_unix_s=time.time(),
            ttl_s=ttl_s,
        )
        return data if len(data) <= _MAX_ENTRY_BYTES else b""

    def _take_note(self, kind: bytes, content: bytes) -> None:
        if kind != b"news":
            self._leading.take_note(kind, content)
        elif (news := self._news.get(content)) is not None:
            news.set()

    # ---------------------------------------------------------------- forgetting

    async def forget(self, what: Forget) -> int:
        """Forget on every worker, in force when this returns; raises ``StoreError`` (see ``Workers``)."""
        had = await self.workers.forget(what)
        if what.entry_id:
            with suppress(StoreError):
                await self._store.forget(what.entry_id)
        return had

    def _forget(self, what: Forget, epoch: int) -> int:
        """Apply one invalidation to this worker's memory and to what is still being made."""
        self._barriers.add(what, epoch)
        self._flights.forget()
        self._exact.bar(what)  # what no flight brings: an agent's answer
        self.on_forget(what)
        if what.entry_id:
            return int(self._exact.remove(what.entry_id))
        return self._exact.invalidate(tenant=what.tenant, model=what.model or None, tags=what.tags)

    def _lose(self, floor: int) -> None:
        """What was forgotten meanwhile is not known: nothing from before may be shown."""
        self._barriers.clear(floor)
        self._flights.forget()
        self._exact.bar_all()
        self._exact.clear()


def _nothing(_: Forget) -> None:
    """Nothing else keeps answers."""
