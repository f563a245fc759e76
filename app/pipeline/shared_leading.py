"""The calls that this worker makes and others may follow: their leases, and the copies of what they say.

A call says nothing to Redis until another worker wants it. Then a task copies what was and will be
said into a stream, until the call and the copy are over; each worker that reads it counts as one
follower of the flight, until it leaves or is not heard of for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

from app.cache.coalesce import Flight
from app.cache.exact import CachedAnswer
from app.domain.chat import ChatRequest
from app.domain.decisions import Classification
from app.domain.events import Event
from app.errors import StoreError, UpstreamError
from app.pipeline.shared_stream import Record, Said
from app.stores.event_bytes import events_to_bytes
from app.stores.redis import Redis
from app.stores.shared_flights import Place, SharedFlights

_RENEW_EVERY_S: Final = 0.5
"""A quarter of a lease: calls that are shorter are never renewed."""
_SAY_AGAIN_S: Final = 0.05
_READER_LIVES_S: Final = 3.0
_REDIS_MAY_BE_AWAY_S: Final = 5.0


@dataclass(slots=True, eq=False)
class Leading:
    """A call that this worker makes."""

    key: bytes
    flight: Flight
    place: Place
    id: bytes = b""
    """Names the call in Redis; empty while it has no lease there."""
    since_s: float = 0.0
    readers: dict[bytes, float] = field(default_factory=dict)
    """Workers that follow, and when each was last heard of."""
    copying: asyncio.Task[None] | None = None
    poked: bool = False
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A call that is over, to be written down."""

    led: Leading
    entry: CachedAnswer | None
    request: ChatRequest
    classification: Classification | None


class Leases:
    """The calls of this worker that may be followed, by their names in Redis."""

    def __init__(
        self,
        redis: Redis,
        store: SharedFlights,
        *,
        start: Callable[[Coroutine[None, None, None], str], asyncio.Task[None]],
        land: Callable[[Job], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``start`` runs work beside the requests; ``land`` takes a job whose copy is over."""
        self._redis, self._store, self._start, self._land = redis, store, start, land
        self._clock = clock
        self.leases: dict[bytes, Leading] = {}

    async def renew(self) -> None:
        """Keep the leases of calls that take long, and find out who wants them."""
        while True:
            await asyncio.sleep(_RENEW_EVERY_S)
            now_s = self._clock()
            due = [led for led in self.leases.values() if now_s - led.since_s > _RENEW_EVERY_S / 2]
            if not due or self._redis.away is not None:
                continue
            with suppress(StoreError):
                for wanted in await self._store.renew([(d.key[:16].hex(), d.id) for d in due]):
                    self._copy(self.leases.get(wanted))

    def take_note(self, kind: bytes, content: bytes) -> None:
        """Another worker joins or leaves one of our calls."""
        flight, _, worker = content.partition(b":")
        led = self.leases.get(flight)
        if led is None:
            return
        if kind == b"join":
            if worker not in led.readers:
                led.flight.followers += 1
            led.readers[worker] = self._clock()
            led.poked = True
            self._copy(led)
            led.flight.wake()
        elif kind == b"left":
            self._part(led, worker)

    def _copy(self, led: Leading | None) -> None:
        if led is not None and led.copying is None:
            led.copying = self._start(self._copying(led), "shared flight")

    def _part(self, led: Leading, worker: bytes) -> None:
        """A worker follows no more; the last to leave a call whose own client left ends it."""
        flight = led.flight
        if led.readers.pop(worker, None) is None:
            return
        flight.followers -= 1
        if flight.followers == 0 and flight.leader_gone and not flight.done:
            flight.cancel()

    async def _copying(self, led: Leading) -> None:
        """Copy what the flight says into its stream, until both are over."""
        sent, first, over = 0, True, False
        given_up_s = 0.0
        try:
            while not over:
                news = led.flight.news()
                done, events = led.flight.done, led.flight.events[sent:]
                if events or done or first or led.poked:
                    led.poked = False
                    try:
                        record = record_of(led.flight, sent, events, done=done)
                        readers = list(led.readers)
                        there = await self._store.say(led.id, record, readers, first=first)
                    except StoreError:
                        given_up_s = given_up_s or self._clock() + _REDIS_MAY_BE_AWAY_S
                        over = done and self._clock() > given_up_s
                        led.poked = True
                        await asyncio.sleep(_SAY_AGAIN_S)
                        continue
                    given_up_s = 0.0
                    sent, first = (sent + len(events), False) if there else (0, True)
                    over = done and there
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RENEW_EVERY_S):
                        await news
                for worker, heard_s in list(led.readers.items()):
                    if self._clock() - heard_s > _READER_LIVES_S:
                        self._part(led, worker)
        finally:
            for worker in list(led.readers):
                self._part(led, worker)
            if led.job is not None:
                self._land(led.job)


def record_of(flight: Flight, start: int, events: list[Event], *, done: bool) -> bytes:
    """What the flight says from its event number ``start`` on, as bytes."""
    leader = flight.leader
    record = Record(start=start, events=events_to_bytes(events), done=done)
    if isinstance(leader, Said):
        record.model, record.tier = leader.model, leader.tier
    else:
        record.describe(leader)
    if done and flight.error is not None:
        error = flight.error
        record.failure = (
            error.status,
            error.code,
            error.message,
            error.retry_after_s,
            isinstance(error, UpstreamError) and error.already_reported,
        )
    return msgspec.msgpack.encode(record)
