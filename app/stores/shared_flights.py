"""Cached answers and calls in flight in Redis: one script each to look up, claim and complete.

A call in flight is a lease: a hash that expires after ``LEASE_S`` unless its worker renews it. Its events
are written to a stream only once a request on another worker wants them, so a call that nobody joins
costs one round trip before and one after. A claim that finds a lease requests the stream in the same
script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from app.domain.seal import Seal
from app.errors import StoreError
from app.stores.redis import Argument, Redis, Script

LEASE_S: Final = 2.0
"""A dead worker is noticed within this time."""
_BACKGROUND_BUDGET_S: Final = 0.5
"""The budget of commands that no request waits for."""
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
_COMPLETE = Script.of("""
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
_APPEND = Script.of("""
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
class StoreEpoch:
    """The incarnation of the store and its invalidation epoch at one moment."""

    incarnation: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """A cached answer's bytes."""

    place: StoreEpoch
    data: bytes


@dataclass(frozen=True, slots=True)
class RemoteFlight:
    """An identical call in flight on another worker, or for another request."""

    place: StoreEpoch
    flight: bytes
    worker: bytes
    form: bytes


@dataclass(frozen=True, slots=True)
class LeaseTaken:
    """The claimer has the lease and makes the call."""

    place: StoreEpoch


@dataclass(frozen=True, slots=True)
class Absent:
    """Nothing is kept, and nothing was claimed."""

    place: StoreEpoch


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
    ) -> StoredEntry | RemoteFlight | LeaseTaken | Absent:
        """Atomically: the cached answer, else the call in flight, else a lease.

        With an empty ``flight`` nothing is claimed; with ``look`` False a cached answer is ignored.
        """
        keys = [self._entry(entry_id), self._lease(entry_id), self._epoch]
        lease_ms = int(LEASE_S * 1000)
        words = (flight, self._worker, form, lease_ms, int(look), self._inbox)
        match await self._redis.run(_CLAIM, keys, words):
            case [0, bytes(incarnation), int(epoch)]:
                return LeaseTaken(StoreEpoch(incarnation, epoch))
            case [1, bytes(incarnation), int(epoch), bytes(data)]:
                return StoredEntry(
                    StoreEpoch(incarnation, epoch), self._unsealed(data, entry_id.encode())
                )
            case [2, bytes(incarnation), int(epoch), bytes(led), bytes(worker), bytes(its_form)]:
                return RemoteFlight(StoreEpoch(incarnation, epoch), led, worker, its_form)
            case [3, bytes(incarnation), int(epoch)]:
                return Absent(StoreEpoch(incarnation, epoch))
            case _:
                raise _unexpected_reply()

    async def complete(self, entry_id: str, flight: bytes, data: bytes, ttl_s: float) -> None:
        """Release the lease and store ``data``, if there is any, atomically."""
        if data and self._seal is not None:
            data = self._seal.seal(data, entry_id.encode())
        keys = [self._entry(entry_id), self._lease(entry_id)]
        words = (flight, data, max(1, int(ttl_s * 1000)))
        await self._redis.run(_COMPLETE, keys, words, budget_s=_BACKGROUND_BUDGET_S)

    async def delete(self, entry_id: str) -> None:
        """Delete an entry."""
        await self._redis.command("DEL", self._entry(entry_id), budget_s=_BACKGROUND_BUDGET_S)

    async def renew(self, leases: Sequence[tuple[str, bytes]]) -> list[bytes]:
        """Renew these leases (entry id, flight); returns the flights that other workers want."""
        keys = [self._lease(entry_id) for entry_id, _ in leases]
        words: list[Argument] = [int(LEASE_S * 1000), *(flight for _, flight in leases)]
        wanted = await self._redis.run(_RENEW, keys, words, budget_s=_BACKGROUND_BUDGET_S)
        return [each for each in wanted if isinstance(each, bytes)]

    async def append(
        self, flight: bytes, record: bytes, readers: Sequence[bytes], *, first: bool
    ) -> bool:
        """Append one record to a flight's stream and notify its readers.

        False: Redis lost the stream and nothing was written; start again with ``first``.
        """
        if self._seal is not None:
            record = self._seal.seal(record, flight)
        words: list[Argument] = [int(not first), record, _STREAM_MS, self._inbox, flight, *readers]
        reply = await self._redis.run(
            _APPEND, [self._stream(flight)], words, budget_s=_BACKGROUND_BUDGET_S
        )
        return reply == [1]

    async def read(
        self, entry_id: str, flight: bytes, after: bytes
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        """The records after id ``after`` with their ids, and whether the leader holds its lease."""
        keys = [self._stream(flight), self._lease(entry_id)]
        words = (b"(" + after if after else b"-", flight)
        match await self._redis.run(_READ, keys, words, budget_s=_BACKGROUND_BUDGET_S):
            case [list(said), int(alive)]:
                records = [_record(each) for each in said]
                return [(at, self._unsealed(data, flight)) for at, data in records], alive == 1
            case _:
                raise _unexpected_reply()

    def _unsealed(self, data: bytes, about: bytes) -> bytes:
        """The decrypted data; empty, and so unreadable, where it cannot be decrypted."""
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
            raise _unexpected_reply()


def _unexpected_reply() -> StoreError:
    return StoreError("Redis gave an unexpected reply", code="store_refused")
