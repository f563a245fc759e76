"""Kept answers and running calls in Redis: one step to look, to claim, to land.

A call that is under way is a lease: a hash that lives for ``LEASE_S`` unless its worker renews it. What
the call says is written to a stream only once somebody on another worker wants it, so that a call that
nobody joins costs one question before it and one after it. A claim that finds a lease asks its holder
for the stream in the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from app.domain.seal import Seal
from app.errors import StoreError
from app.stores.redis import Redis, Script, Word

LEASE_S: Final = 2.0
"""A worker that dies is noticed within this time."""
_LONG_S: Final = 0.5
"""The budget of what no request waits for."""
_STREAM_MS: Final = 60_000

_CLAIM = Script.of("""
local s = redis.call('HMGET', KEYS[3], 'inc', 'epoch')
local inc, epoch = s[1] or '', tonumber(s[2] or '0')
if ARGV[5] == '1' then
  local kept = redis.call('GET', KEYS[1])
  if kept then return {1, inc, epoch, kept} end
end
if ARGV[1] == '' then return {3, inc, epoch} end
local l = redis.call('HMGET', KEYS[2], 'flight', 'worker', 'form', 'inc', 'epoch')
if l[1] and l[4] == inc and tonumber(l[5]) == epoch then
  redis.call('HSET', KEYS[2], 'wanted', 1)
  redis.call('PUBLISH', ARGV[6] .. l[2], 'join:' .. l[1] .. ':' .. ARGV[2])
  return {2, inc, epoch, l[1], l[2], l[3]}
end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'flight', ARGV[1], 'worker', ARGV[2], 'form', ARGV[3],
  'inc', inc, 'epoch', epoch)
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return {0, inc, epoch}
""")
_LAND = Script.of("""
if redis.call('HGET', KEYS[2], 'flight') == ARGV[1] then redis.call('DEL', KEYS[2]) end
if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return {}
""")
_RENEW = Script.of("""
local wanted = {}
for i, key in ipairs(KEYS) do
  local l = redis.call('HMGET', key, 'flight', 'wanted')
  if l[1] == ARGV[i + 1] then
    redis.call('PEXPIRE', key, ARGV[1])
    if l[2] then table.insert(wanted, l[1]) end
  end
end
return wanted
""")
_SAY = Script.of("""
if ARGV[1] ~= '0' and redis.call('EXISTS', KEYS[1]) == 0 then return {0} end
redis.call('XADD', KEYS[1], '*', 's', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
for i = 6, #ARGV do redis.call('PUBLISH', ARGV[4] .. ARGV[i], 'news:' .. ARGV[5]) end
return {1}
""")
_READ = Script.of("""
local said = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', 256)
local alive = 0
if redis.call('HGET', KEYS[2], 'flight') == ARGV[2] then alive = 1 end
return {said, alive}
""")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the store stood in one step: its incarnation and its invalidation epoch."""

    incarnation: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept answer's bytes."""

    place: Place
    data: bytes


@dataclass(frozen=True, slots=True)
class Running:
    """An identical call that another request leads."""

    place: Place
    flight: bytes
    worker: bytes
    form: bytes


@dataclass(frozen=True, slots=True)
class Led:
    """The call is the claimer's to make."""

    place: Place


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing is kept, and nothing was claimed."""

    place: Place


class SharedFlights:
    """Entries, leases and streams in Redis; raises ``StoreError`` as ``Redis`` does."""

    def __init__(self, redis: Redis, worker: bytes, seal: Seal | None = None) -> None:
        """Act for ``worker``; answers are sealed by ``seal`` where there is one."""
        self._seal = seal
        self._redis, self._worker = redis, worker
        self._inbox = redis.key(b"to")
        self._epoch = redis.key(b"epoch")

    async def claim(
        self, entry_id: str, flight: bytes, form: bytes, *, look: bool
    ) -> Kept | Running | Led | Nothing:
        """In one step: what is kept, else who is at it, else the lease.

        With an empty ``flight`` nothing is claimed; ``look`` False passes over what is kept.
        """
        keys = [self._entry(entry_id), self._lease(entry_id), self._epoch]
        lease_ms = int(LEASE_S * 1000)
        words = (flight, self._worker, form, lease_ms, int(look), self._inbox)
        match await self._redis.run(_CLAIM, keys, words):
            case [0, bytes(incarnation), int(epoch)]:
                return Led(Place(incarnation, epoch))
            case [1, bytes(incarnation), int(epoch), bytes(data)]:
                return Kept(Place(incarnation, epoch), self._opened(data, entry_id.encode()))
            case [2, bytes(incarnation), int(epoch), bytes(led), bytes(worker), bytes(its_form)]:
                return Running(Place(incarnation, epoch), led, worker, its_form)
            case [3, bytes(incarnation), int(epoch)]:
                return Nothing(Place(incarnation, epoch))
            case _:
                raise _other_form()

    async def land(self, entry_id: str, flight: bytes, data: bytes, ttl_s: float) -> None:
        """The call is over: give the lease back and keep ``data``, if there is any, in one step."""
        if data and self._seal is not None:
            data = self._seal.seal(data, entry_id.encode())
        keys = [self._entry(entry_id), self._lease(entry_id)]
        words = (flight, data, max(1, int(ttl_s * 1000)))
        await self._redis.run(_LAND, keys, words, budget_s=_LONG_S)

    async def forget(self, entry_id: str) -> None:
        """Drop an entry that nobody may be shown."""
        await self._redis.ask("DEL", self._entry(entry_id), budget_s=_LONG_S)

    async def renew(self, leases: Sequence[tuple[str, bytes]]) -> list[bytes]:
        """Keep these leases (entry id, flight); the flights among them that somebody else wants."""
        keys = [self._lease(entry_id) for entry_id, _ in leases]
        words: list[Word] = [int(LEASE_S * 1000), *(flight for _, flight in leases)]
        wanted = await self._redis.run(_RENEW, keys, words, budget_s=_LONG_S)
        return [each for each in wanted if isinstance(each, bytes)]

    async def say(
        self, flight: bytes, record: bytes, readers: Sequence[bytes], *, first: bool
    ) -> bool:
        """Write one record to a flight's stream and wake its readers.

        False: the stream is gone (Redis lost it) and nothing was written; begin again with ``first``.
        """
        if self._seal is not None:
            record = self._seal.seal(record, flight)
        words: list[Word] = [int(not first), record, _STREAM_MS, self._inbox, flight, *readers]
        reply = await self._redis.run(_SAY, [self._stream(flight)], words, budget_s=_LONG_S)
        return reply == [1]

    async def read(
        self, entry_id: str, flight: bytes, after: bytes
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        """The records behind ``after`` with their ids, and whether the leader holds its lease."""
        keys = [self._stream(flight), self._lease(entry_id)]
        words = (b"(" + after if after else b"-", flight)
        match await self._redis.run(_READ, keys, words, budget_s=_LONG_S):
            case [list(said), int(alive)]:
                records = [_record(each) for each in said]
                return [(at, self._opened(data, flight)) for at, data in records], alive == 1
            case _:
                raise _other_form()

    def _opened(self, data: bytes, about: bytes) -> bytes:
        """What was sealed; as it came where nothing is, so that the reader finds it unreadable."""
        if self._seal is None:
            return data
        try:
            return self._seal.open(data, about)
        except StoreError:
            return b""

    def _entry(self, entry_id: str) -> bytes:
        return self._redis.key(b"answer", entry_id.encode())

    def _lease(self, entry_id: str) -> bytes:
        return self._redis.key(b"lease", entry_id.encode())

    def _stream(self, flight: bytes) -> bytes:
        return self._redis.key(b"stream", flight)


def _record(line: object) -> tuple[bytes, bytes]:
    match line:
        case [bytes(number), [bytes(), bytes(record)]]:
            return number, record
        case _:
            raise _other_form()


def _other_form() -> StoreError:
    return StoreError("Redis gave an answer of another form", code="store_refused")
