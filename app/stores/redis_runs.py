"""The event logs of runs in Redis, readable on every worker.

The worker of a run (its owner) keeps the log in memory and copies it in the background, in batches, under
the events' own numbers; a copy that Redis lost, or whose newest events it lost, is written again from the
oldest event in memory. During a run its owner keeps a short-lived key alive. A reader that finds that key
gone before the run's end writes the end itself, once for all readers: the worker was lost.

Only readers of another worker's run wait for Redis; they poll every 50 ms.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from app.domain.run_events import RunEvent, RunFailed, RunFinished
from app.errors import NotFound, StoreError
from app.stores.event_bytes import run_event_from_bytes, run_event_to_bytes
from app.stores.event_log import RunLog
from app.stores.redis import Argument, Redis, Script

_OWNER_TTL_S: Final = 3.0
"""A worker that dies is noticed within this time."""
_HEARTBEAT_S: Final = 0.5
_BACKGROUND_BUDGET_S: Final = 0.5
_RETENTION_S: Final = 900.0
_BATCH: Final = 500
_MAX_EVENTS: Final = 20_000
_POLL_INTERVAL_S: Final = 0.05
_REDIS_MAY_BE_AWAY_S: Final = 10.0
_COPIED_WITHIN_S: Final = 1.0
"""An approval that comes at once waits so long for the end of the run that asked to be copied."""
WORKER_LOST: Final = (
    "the worker that ran this was lost: what it had begun may have been done; start a new run"
)

_UNREADABLE: Final = (
    "the run's last event holds a value that cannot be sent: ask the worker that ran it"
)

_CLAIM = Script.of("""
if redis.call('EXISTS', KEYS[2]) == 1 then return {0} end
redis.call('HSET', KEYS[2], 'owner', ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
return {1}
""")
_APPEND = Script.of("""
if redis.call('HGET', KEYS[2], 'ended') == '1' then return {2} end
if tonumber(ARGV[1]) > 0 then
  local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
  local number = newest[1] and tonumber(string.match(newest[1][1], '^%d+')) or 0
  if number < tonumber(ARGV[1]) then return {0} end
end
for i = 8, #ARGV, 2 do
  redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[6], ARGV[i] .. '-0', 'e', ARGV[i + 1])
end
redis.call('HSET', KEYS[2], 'owner', ARGV[2], 'state', ARGV[5], 'ended', ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if ARGV[7] == '1' then redis.call('DEL', KEYS[3])
else redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3]) end
return {1}
""")
_HEARTBEAT = Script.of("""
local cancelled = {}
for i = 1, #KEYS, 2 do
  redis.call('SET', KEYS[i + 1], ARGV[1], 'PX', ARGV[2])
  redis.call('PEXPIRE', KEYS[i], ARGV[3])
  if redis.call('HGET', KEYS[i], 'cancel') then table.insert(cancelled, (i - 1) / 2) end
end
return cancelled
""")
_READ = Script.of("""
local m = redis.call('HMGET', KEYS[2], 'state', 'ended', 'lost')
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
return {redis.call('XRANGE', KEYS[1], '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[2]),
  m[1] or '', m[2] or '', redis.call('EXISTS', KEYS[3]), first[1] and first[1][1] or '',
  redis.call('EXISTS', KEYS[2]), m[3] or ''}
""")
_NEWEST = Script.of("""
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
return {newest[1] and newest[1][2][2] or '', redis.call('EXISTS', KEYS[2])}
""")
_MARK_LOST = Script.of("""
if redis.call('EXISTS', KEYS[3]) == 1 or redis.call('HGET', KEYS[2], 'ended') == '1' then
  return {0}
end
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local number = newest[1] and tonumber(string.match(newest[1][1], '^%d+')) or 0
redis.call('XADD', KEYS[1], (number + 1) .. '-0', 'e', ARGV[1])
redis.call('HSET', KEYS[2], 'ended', '1', 'lost', '1')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {1}
""")


def _to_bytes(event: RunEvent) -> bytes:
    """An event's bytes. Arguments or counts that cannot be encoded occur in a run's last event alone, which
    is then replaced by a failure.
    """
    try:
        return run_event_to_bytes(event)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return run_event_to_bytes(RunFailed(_UNREADABLE, "event_unreadable"))


def _event_of(data: bytes) -> RunEvent:
    try:
        return run_event_from_bytes(data)
    except (msgspec.DecodeError, ValueError) as exc:
        message = "this run was written by another version of the gateway: ask a worker of that"
        raise StoreError(message, code="store_refused") from exc


def _name(tenant: str, run_id: str) -> bytes:
    return b"%d:%s:%s" % (len(tenant.encode()), tenant.encode(), run_id.encode())


@dataclass(slots=True)
class _RunCopy:
    """The copying of one run of this worker."""

    keys: list[bytes]
    log: RunLog
    state: Callable[[], bytes]
    cancel: Callable[[], None]
    sent: int = 0
    started: bool = False
    """Some of it is in Redis."""
    finished: bool = False
    cancelled: bool = False


class SharedRuns:
    """The runs of all workers, through Redis; one event loop owns it."""

    def __init__(self, redis: Redis) -> None:
        """Nothing runs until ``start``."""
        self._redis = redis
        self._id = secrets.token_hex(8).encode()
        self._copies: dict[bytes, _RunCopy] = {}
        self._wakeup = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Copy and keep runs alive, beside them."""
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self._copy_loop(), name="run logs"))
        self._tasks.append(loop.create_task(self._heartbeat_loop(), name="run owner"))

    async def aclose(self) -> None:
        """Copy the last events and stop; idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        with suppress(StoreError):
            await self._copy_all()

    # ---------------------------------------------------------------- the owner's side

    async def claim(self, tenant: str, run_id: str) -> bool:
        """Whether no worker has a run of that id; true also where Redis cannot say in time."""
        words = (self._id, int(_OWNER_TTL_S * 1000), 60_000)
        try:
            return await self._redis.run(_CLAIM, self._keys(tenant, run_id), words) == [1]
        except StoreError:
            return True

    def copy(
        self,
        tenant: str,
        log: RunLog,
        *,
        state: Callable[[], dict[str, object]],
        cancel: Callable[[], None],
    ) -> None:
        """Copy ``log`` until its end; ``cancel`` is called when a client asks another worker for that."""
        keys = self._keys(tenant, log.run_id)
        made = _RunCopy(keys, log, lambda: msgspec.json.encode(state()), cancel)
        self._copies[keys[0]] = made
        log.on_append = self._wakeup.set
        self._wakeup.set()

    async def _copy_loop(self) -> None:
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            try:
                await self._copy_all()
            except StoreError:
                self._wakeup.set()
                await asyncio.sleep(_HEARTBEAT_S / 2)
            await asyncio.sleep(0.001)  # events of one moment are copied in one batch

    async def _copy_all(self) -> None:
        for key, copy in list(self._copies.items()):
            while not copy.finished and (copy.log.last > copy.sent or not copy.sent):
                await self._copy_batch(copy)
            if copy.finished:
                self._copies.pop(key, None)

    async def _copy_batch(self, copy: _RunCopy) -> None:
        try:
            events = copy.log.after(copy.sent)[:_BATCH]
        except NotFound:  # events were dropped from memory: continue with the oldest there
            copy.sent = copy.log.first - 1
            return
        ended = copy.log.ended and (not events or events[-1][0] == copy.log.last)
        words: list[Argument] = [
            copy.sent if copy.started else 0,
            self._id,
            int(_OWNER_TTL_S * 1000),
            int((_RETENTION_S if ended else 4 * _RETENTION_S) * 1000),
            copy.state(),
            _MAX_EVENTS,
            int(ended),
        ]
        for number, event in events:
            words += [number, _to_bytes(event)]
        reply = await self._redis.run(_APPEND, copy.keys, words, budget_s=_BACKGROUND_BUDGET_S)
        if reply == [1]:
            copy.sent = events[-1][0] if events else copy.sent
            copy.started, copy.finished = True, ended
        elif reply == [2]:  # a reader took its worker for lost and wrote the end
            copy.finished = True
        else:
            copy.started, copy.sent = False, copy.log.first - 1

    async def _heartbeat_loop(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            copies = [copy for copy in self._copies.values() if not copy.finished]
            if not copies or self._redis.unavailable is not None:
                continue
            keys = [key for copy in copies for key in copy.keys[1:]]
            words = (self._id, int(_OWNER_TTL_S * 1000), int(4 * _RETENTION_S * 1000))
            with suppress(StoreError):
                for index in await self._redis.run(
                    _HEARTBEAT, keys, words, budget_s=_BACKGROUND_BUDGET_S
                ):
                    copy = copies[index if isinstance(index, int) else 0]
                    if not copy.cancelled:
                        copy.cancelled = True
                        copy.cancel()

    # ---------------------------------------------------------------- the reader's side

    async def find(self, tenant: str, run_id: str) -> RemoteRun | None:
        """Another worker's run that is under way or lately was; raises ``StoreError``."""
        found = RemoteRun(self._redis, self._keys(tenant, run_id), run_id)
        return found if await found.exists() else None

    async def last_event(self, tenant: str, run_id: str) -> RunEvent | None:
        """The newest event of a run of any worker, the last one where it is over; None: no such run.

        The copy of a run that just ended may be a moment behind: an event that is not the last is looked
        at again for a second. Raises ``StoreError``.
        """
        keys, clock = self._keys(tenant, run_id)[:2], asyncio.get_running_loop().time
        until_s = clock() + _COPIED_WITHIN_S
        while True:
            match await self._redis.run(_NEWEST, keys, budget_s=_BACKGROUND_BUDGET_S):
                case [bytes(data), 1]:
                    event = _event_of(data) if data else None
                case _:
                    return None
            if isinstance(event, RunFinished | RunFailed) or clock() >= until_s:
                return event
            await asyncio.sleep(_POLL_INTERVAL_S)

    async def claim_approval(self, tenant: str, run_id: str) -> bool:
        """Take the right to answer a run's interrupts; False where it was taken. Raises ``StoreError``."""
        key = self._redis.key(b"runapproval", _name(tenant, run_id))
        words: tuple[Argument, ...] = (self._id, "NX", "PX", int(_RETENTION_S * 1000))
        return (
            await self._redis.command("SET", key, *words, budget_s=_BACKGROUND_BUDGET_S) is not None
        )

    def _keys(self, tenant: str, run_id: str) -> list[bytes]:
        name = _name(tenant, run_id)
        return [self._redis.key(kind, name) for kind in (b"run", b"runmeta", b"runowner")]


class RemoteRun:
    """A run of another worker, read from Redis: ``after`` and ``more`` as a ``RunLog`` has them."""

    def __init__(self, redis: Redis, keys: list[bytes], run_id: str) -> None:
        """Read ``keys``: the log, what is known of the run, and its owner's sign of life."""
        self._redis, self._keys = redis, keys
        self.run_id = run_id
        self._events: list[tuple[int, RunEvent]] = []
        self.first = 1
        self.last = 0
        self.ended = False
        self.state: dict[str, object] = {}

    async def exists(self) -> bool:
        """Whether there is such a run; learns how it stands."""
        return await self._read(0, 1)

    async def load(self, seq: int) -> None:
        """Read the events behind number ``seq``; raises ``NotFound`` where some of them are gone."""
        self._events, self.last = [], seq
        await self._read(seq, _BATCH)
        if seq + 1 < self.first:
            message = f"the events after {seq} are no longer kept: the oldest is {self.first}"
            raise NotFound(message, code="events_expired")

    def after(self, seq: int) -> list[tuple[int, RunEvent]]:
        """What was read behind number ``seq``; forgets what is before it."""
        self._events = [each for each in self._events if each[0] > seq]
        return list(self._events)

    async def more(self, seq: int) -> bool:
        """Wait until there are events behind ``seq``; False when there will be none."""
        clock = asyncio.get_running_loop().time
        away_since_s: float | None = None
        while self.last <= seq:
            if self.ended:
                return False
            try:
                await self._read(self.last, _BATCH)
                away_since_s = None
            except StoreError:
                away_since_s = away_since_s or clock()
                if clock() - away_since_s > _REDIS_MAY_BE_AWAY_S:
                    return False  # the client comes again with Last-Event-ID
            if self.last <= seq and not self.ended:
                await asyncio.sleep(_POLL_INTERVAL_S)
        return True

    async def cancel(self) -> None:
        """Ask its worker to stop it, and wait until it has."""
        await self._redis.command("HSET", self._keys[1], "cancel", 1)
        while await self.more(self.last):
            self._events.clear()
        await self._read(self.last, 1)

    async def _read(self, seq: int, most: int) -> bool:
        match await self._redis.run(_READ, self._keys, (seq, most), budget_s=_BACKGROUND_BUDGET_S):
            case [
                list(said),
                bytes(state),
                bytes(ended),
                int(owned),
                bytes(first),
                int(there),
                bytes(lost),
            ]:
                pass
            case _:
                raise StoreError("Redis gave an unexpected reply", code="store_refused")
        if first:
            self.first = int(first.partition(b"-")[0])
        if state:
            self.state = msgspec.json.decode(state, type=dict[str, object])
        if lost:
            self.state |= {"state": "failed", "code": "worker_lost"}
        for line in said if most > 1 else ():
            match line:
                case [bytes(number), [bytes(), bytes(data)]]:
                    self._append(int(number.partition(b"-")[0]), data)
                case _:
                    raise StoreError("a run's log has another form", code="store_refused")
        if ended == b"1":
            self.ended = not said or most == 1 or len(said) < most
        elif not owned and there and (not said or most == 1):
            await self._mark_lost()
        return bool(there)

    def _append(self, number: int, data: bytes) -> None:
        self._events.append((number, _event_of(data)))
        self.last = number

    async def _mark_lost(self) -> None:
        """Its worker is gone: write the run's end, for all readers."""
        end = run_event_to_bytes(RunFailed(WORKER_LOST, "worker_lost"))
        words = (end, int(_RETENTION_S * 1000))
        await self._redis.run(_MARK_LOST, self._keys, words, budget_s=_BACKGROUND_BUDGET_S)
        self.state |= {"state": "failed", "code": "worker_lost"}
