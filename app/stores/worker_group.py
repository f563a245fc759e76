"""The workers that share one Redis: their leases, invalidations in force on all of them, and messages
between them.

Theory of operation. Invalidations are numbered by Redis: each raises the epoch, is written to a log and
is published, in one step. A worker may serve from its own memory only while it holds a lease on that
memory: it renews the lease every quarter of its length, and the renewal returns every invalidation that
it has not applied, which it applies before it trusts the lease. The invalidating worker learns which
workers hold a lease, and waits until each has acknowledged (a message each way, a millisecond), but never
longer than one lease: a worker that has not answered by then has no lease, and serves nothing from memory
until it has read what it missed. So when ``invalidate`` returns, no worker serves what was invalidated,
not even one that was cut off, stopped or had lost its subscription. Published messages only make it fast;
nothing relies on them.

The epoch belongs to an incarnation of the store. A Redis that lost it (restarted empty, evicted it), or
may have lost the newest invalidations (restarted or failed over, with whatever data; or its epoch is
below one that a worker has seen), begins a new incarnation, and everything kept under another one is
dropped.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from app.domain.invalidation import InvalidationFilter
from app.errors import StoreError
from app.stores.redis import CONNECTION_ERRORS, Argument, Redis, Script

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

LEASE_S: Final = 2.0
"""How long a worker without contact trusts its memory, and the longest that an invalidation waits."""
_TRUSTED_SHARE: Final = 0.9
"""The share of the lease that the worker itself counts on: clocks do not run alike."""
_BACKGROUND_BUDGET_S: Final = 0.5
"""The budget of commands that no request waits for."""
_LOG_LENGTH: Final = 4096
_LOG_BATCH: Final = 500
_MAX_ACKS: Final = 4096

_READ_EPOCH = """
local s = redis.call('HMGET', KEYS[1], 'inc', 'epoch', 'run')
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
local known = s[3] and s[3] ~= ''
if not s[1] or not s[2] or (known and run ~= '' and run ~= s[3])
    or (ARGV[3] == s[1] and tonumber(ARGV[4]) > tonumber(s[2])) then
  redis.call('DEL', KEYS[3])
  redis.call('HSET', KEYS[1], 'inc', ARGV[1], 'epoch', 0, 'run', run)
  s = {ARGV[1], '0'}
elseif not known and run ~= '' then
  redis.call('HSET', KEYS[1], 'run', run)
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""
_RENEW = Script.of(
    _READ_EPOCH
    + """
if tonumber(ARGV[5]) > 0 then
  redis.call('ZADD', KEYS[2], now + ARGV[5], ARGV[2])
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  redis.call('PEXPIRE', KEYS[2], 60000)
end
local from = 1
if ARGV[3] == s[1] then from = ARGV[4] + 1 end
local news = {}
if tonumber(s[2]) >= from then
  news = redis.call('XRANGE', KEYS[3], from .. '-0', '+', 'COUNT', ARGV[6])
end
return {s[1], tonumber(s[2]), news}
"""
)
_INVALIDATE = Script.of(
    _READ_EPOCH
    + """
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
local added = redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], epoch .. '-0', 'w', ARGV[5])
if type(added) == 'table' and added['err'] then
  redis.call('DEL', KEYS[3])
  redis.call('XADD', KEYS[3], epoch .. '-0', 'w', ARGV[5])
end
redis.call('PUBLISH', ARGV[7], s[1] .. ':' .. epoch .. ':' .. ARGV[2] .. ':' .. ARGV[5])
return {s[1], epoch, redis.call('ZRANGEBYSCORE', KEYS[2], now, '+inf')}
"""
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(InvalidationFilter).decode


class WorkerGroup:
    """This worker among the others; one event loop owns it."""

    def __init__(
        self,
        redis: Redis,
        *,
        on_invalidate: Callable[[InvalidationFilter, int], int],
        drop_before: Callable[[int], None],
        on_message: Callable[[bytes, bytes], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing runs until ``start``.

        ``on_invalidate`` drops what matches and is older than an epoch, and returns how much it had;
        ``drop_before`` drops everything from before an epoch, where the invalidations missed are unknown;
        ``on_message`` takes the kind and the content of another worker's message.
        """
        self._redis = redis
        self._on_invalidate, self._drop_before, self._on_message = (
            on_invalidate,
            drop_before,
            on_message,
        )
        self._clock = clock
        self.id = secrets.token_hex(8).encode()
        self.incarnation = b""
        self.epoch = 0
        """The newest invalidation that was applied here."""
        self._trusted_until_s = -1.0
        self._acks: OrderedDict[tuple[bytes, int], dict[bytes, int]] = OrderedDict()
        self._acked = asyncio.Event()
        self._syncing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._unsent: list[InvalidationFilter] = []
        self._keys = [redis.key(b"epoch"), redis.key(b"workers"), redis.key(b"forgotten")]
        self.subscribed = asyncio.Event()

    def trusted(self) -> bool:
        """Whether this worker may serve from its own memory now."""
        return self._clock() < self._trusted_until_s

    @property
    def has_unsent_invalidations(self) -> bool:
        """Something was invalidated here that Redis does not know of yet: its entries may be stale."""
        return bool(self._unsent)

    async def start(self) -> None:
        """Take a lease where Redis is available, keep it, and subscribe, in the background."""
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self._listen(), name="worker notes"))
        with suppress(StoreError):
            await self.renew()
        self._tasks.append(loop.create_task(self._keep_lease(), name="worker lease"))

    async def aclose(self) -> None:
        """Release the lease, so that nobody waits for this worker; idempotent."""
        tasks = [*self._tasks, *self._sending]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._trusted_until_s = -1.0
        with suppress(StoreError):
            await self._redis.command("ZREM", self._keys[1], self.id)

    # ---------------------------------------------------------------- leases and epochs

    async def renew(self) -> None:
        """Apply missed invalidations, then trust this worker's memory for another lease."""
        began_s = self._clock()
        await self._sync(LEASE_S)
        self._trusted_until_s = began_s + LEASE_S * _TRUSTED_SHARE

    async def catch_up(self, incarnation: bytes, epoch: int) -> None:
        """Apply the invalidations up to ``epoch``; raises ``StoreError``."""
        if incarnation != self.incarnation or epoch > self.epoch:
            await self._sync(0)

    async def _sync(self, lease_s: float) -> None:
        async with self._syncing:
            while True:
                words = (*self._epoch_arguments(), int(lease_s * 1000), _LOG_BATCH)
                reply = await self._redis.run(
                    _RENEW, self._keys, words, budget_s=_BACKGROUND_BUDGET_S
                )
                match reply:
                    case [bytes(incarnation), int(epoch), list(news)]:
                        self._apply_log(incarnation, epoch, news)
                    case _:
                        raise StoreError("Redis gave an unexpected reply")
                if self.epoch >= epoch:
                    return

    def _epoch_arguments(self) -> tuple[Argument, ...]:
        """The first arguments of both scripts: a name for a new incarnation, and what is known now."""
        return secrets.token_hex(8), self.id, self.incarnation, self.epoch

    def _apply_log(self, incarnation: bytes, epoch: int, news: list[object]) -> None:
        """Apply a batch of the log, which ends at ``epoch`` or continues."""
        if incarnation != self.incarnation:
            self._drop_before(0)
            self.incarnation, self.epoch = incarnation, 0
        for line in news:
            match line:
                case [bytes(number), [bytes(), bytes(said)]]:
                    self._apply(int(number.partition(b"-")[0]), said)
                case _:
                    raise StoreError("the log of invalidations has another form")
        if not news and self.epoch < epoch:  # the log was evicted
            self._drop_before(epoch)
            self.epoch = epoch

    def _apply(self, epoch: int, said: bytes) -> int:
        if epoch <= self.epoch:
            return 0
        if epoch > self.epoch + 1:  # those between have left the log
            self._drop_before(epoch - 1)
        self.epoch = epoch
        had = 0
        try:
            had = self._on_invalidate(_decode(said), epoch)
        except msgspec.DecodeError:  # of another version: drop everything
            self._drop_before(epoch)
        self._record_ack((self.incarnation, epoch), self.id, had)
        return had

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 4)
            with suppress(StoreError):
                await self.renew()
                await self._send_unsent()

    async def _send_unsent(self) -> None:
        """Publish the invalidations that were requested while Redis was unavailable."""
        while self._unsent:
            await self._publish(self._unsent[0])
            del self._unsent[0]

    # ---------------------------------------------------------------- invalidation

    async def invalidate(self, what: InvalidationFilter) -> int:
        """Invalidate on every worker; returns when none serves it any more.

        Returns the most entries that one worker had. Raises ``StoreError`` where Redis is unavailable: then
        it is in force here, and the others are told as soon as Redis is back.
        """
        try:
            incarnation, epoch, there = await self._publish(what)
        except StoreError:
            if what not in self._unsent:  # repeated while Redis is away: bounded by its kinds
                self._unsent.append(what)
            had = self._on_invalidate(what, self.epoch)
            raise StoreError(
                f"forgotten on this worker ({had} entries), but Redis is away: the others are told "
                "when it is back; ask again then to be sure",
                code="store_away",
            ) from None
        mine = self._acks.setdefault((incarnation, epoch), {})
        missing = there - {self.id}
        try:
            async with asyncio.timeout(LEASE_S):
                while not missing <= mine.keys():
                    self._acked.clear()
                    await self._acked.wait()
        except TimeoutError:
            pass  # a worker that did not answer for a lease has none
        finally:
            self._acks.pop((incarnation, epoch), None)
        return max(mine.values(), default=0)

    async def _publish(self, what: InvalidationFilter) -> tuple[bytes, int, set[bytes]]:
        """Log and publish ``what``; returns the epoch, and the workers that hold a lease."""
        said = _encode(what)
        words = (*self._epoch_arguments(), said, _LOG_LENGTH, self._redis.key(b"forget"))
        reply = await self._redis.run(_INVALIDATE, self._keys, words, budget_s=_BACKGROUND_BUDGET_S)
        match reply:
            case [bytes(incarnation), int(epoch), list(there)]:
                await self.catch_up(incarnation, epoch)
                return incarnation, epoch, {each for each in there if isinstance(each, bytes)}
            case _:
                raise StoreError("Redis gave an unexpected reply")

    # ---------------------------------------------------------------- messages

    def channel_of(self, worker: bytes) -> bytes:
        """The channel on which ``worker`` receives messages."""
        return self._redis.key(b"to", worker)

    def send(self, worker: bytes, kind: bytes, content: bytes) -> None:
        """Send a message in the background; it may get lost."""
        note = b"%s:%s" % (kind, content)
        task = asyncio.get_running_loop().create_task(self._send(worker, note), name="note")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, worker: bytes, note: bytes) -> None:
        with suppress(StoreError):
            await self._redis.command(
                "PUBLISH", self.channel_of(worker), note, budget_s=_BACKGROUND_BUDGET_S
            )

    async def _listen(self) -> None:
        """Receive messages; subscribe again whenever the subscription was lost."""
        while True:
            if self._redis.unavailable is None:
                listening = self._redis.subscriber()
                try:
                    await listening.subscribe(self._redis.key(b"forget"), self.channel_of(self.id))
                    await self._receive(listening)
                except (*CONNECTION_ERRORS, StoreError, ValueError):
                    self.subscribed.clear()
                finally:
                    with suppress(*CONNECTION_ERRORS):
                        await self._redis.close_subscriber(listening)
            await asyncio.sleep(LEASE_S / 20)

    async def _receive(self, listening: PubSub) -> None:
        async for message in listening.listen():
            if message["type"] == "subscribe":
                self.subscribed.set()
            elif message["channel"] == self.channel_of(self.id):
                kind, _, content = bytes(message["data"]).partition(b":")
                if kind == b"ack":
                    self._on_ack(content)
                else:
                    self._on_message(kind, content)
            else:
                await self._on_published(bytes(message["data"]))

    async def _on_published(self, message: bytes) -> None:
        incarnation, number, worker, said = message.split(b":", 3)
        epoch = int(number)
        if incarnation == self.incarnation and epoch == self.epoch + 1:
            had = self._apply(epoch, said)
        else:
            had = 0
            await self.catch_up(incarnation, epoch)
        if worker != self.id:
            self.send(worker, b"ack", b"%s:%d:%s:%d" % (incarnation, epoch, self.id, had))

    def _on_ack(self, content: bytes) -> None:
        incarnation, epoch, worker, had = content.split(b":", 3)
        self._record_ack((incarnation, int(epoch)), worker, int(had))
        self._acked.set()

    def _record_ack(self, which: tuple[bytes, int], worker: bytes, had: int) -> None:
        self._acks.setdefault(which, {})[worker] = had
        if len(self._acks) > _MAX_ACKS:
            self._acks.popitem(last=False)
