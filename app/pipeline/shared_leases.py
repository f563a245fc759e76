"""The calls that this worker leads and others may follow: their leases in Redis, and copies of their events.

A call writes no events to Redis until another worker wants them. Then a task copies past and new events into
a stream until the call has ended; each worker that reads it counts as one follower of the flight, until it
leaves or is silent for three seconds.
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
from app.pipeline.shared_stream import RemoteProgress, StreamRecord
from app.stores.event_bytes import events_to_bytes
from app.stores.redis import Redis
from app.stores.shared_flights import SharedFlights, StoreEpoch

_RENEW_EVERY_S: Final = 0.5
"""A quarter of a lease: shorter calls are never renewed."""
_RETRY_S: Final = 0.05
_READER_TIMEOUT_S: Final = 3.0
_REDIS_MAY_BE_AWAY_S: Final = 5.0


@dataclass(slots=True, eq=False)
class LeasedCall:
    """A call that this worker leads."""

    key: bytes
    flight: Flight
    place: StoreEpoch
    id: bytes = b""
    """The call's id in Redis; empty while it has no lease."""
    since_s: float = 0.0
    readers: dict[bytes, float] = field(default_factory=dict)
    """Following workers, and when each last reported."""
    copy_task: asyncio.Task[None] | None = None
    copy_now: bool = False
    finished: FinishedCall | None = None


@dataclass(frozen=True, slots=True)
class FinishedCall:
    """An ended call whose answer is to be written."""

    call: LeasedCall
    entry: CachedAnswer | None
    request: ChatRequest
    classification: Classification | None


class Leases:
    """This worker's leased calls by their ids in Redis."""

    def __init__(
        self,
        redis: Redis,
        store: SharedFlights,
        *,
        start: Callable[[Coroutine[None, None, None], str], asyncio.Task[None]],
        land: Callable[[FinishedCall], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``start`` runs background work; ``land`` takes an ended call whose copy is complete."""
        self._redis, self._store, self._start, self._land = redis, store, start, land
        self._clock = clock
        self.leases: dict[bytes, LeasedCall] = {}

    async def renew(self) -> None:
        """Renew the leases of long calls, and start copying those that another worker wants."""
        while True:
            await asyncio.sleep(_RENEW_EVERY_S)
            now_s = self._clock()
            due = [
                call for call in self.leases.values() if now_s - call.since_s > _RENEW_EVERY_S / 2
            ]
            if not due or self._redis.unavailable is not None:
                continue
            with suppress(StoreError):
                for wanted in await self._store.renew([(d.key[:16].hex(), d.id) for d in due]):
                    self._start_copy(self.leases.get(wanted))

    def on_message(self, kind: bytes, content: bytes) -> None:
        """Handle another worker's joining or leaving one of our calls."""
        flight, _, worker = content.partition(b":")
        call = self.leases.get(flight)
        if call is None:
            return
        if kind == b"join":
            if worker not in call.readers:
                call.flight.followers += 1
            call.readers[worker] = self._clock()
            call.copy_now = True
            self._start_copy(call)
            call.flight.notify_followers()
        elif kind == b"left":
            self._remove_reader(call, worker)

    def _start_copy(self, call: LeasedCall | None) -> None:
        if call is not None and call.copy_task is None:
            call.copy_task = self._start(self._copy_events(call), "shared flight")

    def _remove_reader(self, call: LeasedCall, worker: bytes) -> None:
        """Remove a following worker; the last one ends a call whose own client has left."""
        flight = call.flight
        if call.readers.pop(worker, None) is None:
            return
        flight.followers -= 1
        if flight.followers == 0 and flight.leader_gone and not flight.done:
            flight.cancel()

    async def _copy_events(self, call: LeasedCall) -> None:
        """Copy the flight's events into its stream, until all are written."""
        sent, first, over = 0, True, False
        given_up_s = 0.0
        try:
            while not over:
                news = call.flight.next_event()
                done, events = call.flight.done, call.flight.events[sent:]
                if events or done or first or call.copy_now:
                    call.copy_now = False
                    try:
                        record = record_of(call.flight, sent, events, done=done)
                        readers = list(call.readers)
                        there = await self._store.append(call.id, record, readers, first=first)
                    except StoreError:
                        given_up_s = given_up_s or self._clock() + _REDIS_MAY_BE_AWAY_S
                        over = done and self._clock() > given_up_s
                        call.copy_now = True
                        await asyncio.sleep(_RETRY_S)
                        continue
                    given_up_s = 0.0
                    sent, first = (sent + len(events), False) if there else (0, True)
                    over = done and there
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RENEW_EVERY_S):
                        await news
                for worker, heard_s in list(call.readers.items()):
                    if self._clock() - heard_s > _READER_TIMEOUT_S:
                        self._remove_reader(call, worker)
        finally:
            for worker in list(call.readers):
                self._remove_reader(call, worker)
            if call.finished is not None:
                self._land(call.finished)


def record_of(flight: Flight, start: int, events: list[Event], *, done: bool) -> bytes:
    """A serialised record of ``events``, which begin at the flight's event number ``start``."""
    leader = flight.leader
    record = StreamRecord(start=start, events=events_to_bytes(events), done=done)
    if isinstance(leader, RemoteProgress):
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
