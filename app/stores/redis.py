"""The way to Redis: one bounded pool, a small budget for every question, and a breaker.

Nothing here can hold a request up for longer than the budget, and nothing fails but by
``StoreError``, which callers take to mean "go on without". A refused or broken connection opens the
breaker at once, questions that came too late do so after a few in a row; while it is open nothing is
asked at all, and a task of its own tries the door until Redis answers within its budget again. So a
Redis that is gone costs a request one comparison, and a slow one a few budgets in all.

A Redis that is there but refuses to write (out of memory, a replica) is told apart: what can be read
is read, and the refusal is shown until a write works again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha1
from typing import Final

import redis.asyncio as redis_client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.errors import StoreError

Word = bytes | str | int | float
GONE: Final = (RedisError, OSError, TimeoutError, RuntimeError)
"""How a Redis is lost; RuntimeError is uvloop's word for a connection that was reset a moment ago."""
_LATE_IN_A_ROW: Final = 3
_PAUSES_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0)
_MOST_CONNECTIONS: Final = 16
_CONNECT_S: Final = 1.0
"""How long the prober, not a request, waits for a connection."""
_TAKES_NO_WRITES: Final = ("OOM", "READONLY", "MISCONF", "NOREPLICAS")
_AWAY = "is not reached yet"


@dataclass(frozen=True, slots=True)
class Script:
    """Lua that Redis runs as one step; sent whole only where the server does not know it yet."""

    text: str
    digest: str

    @classmethod
    def of(cls, text: str) -> Script:
        """A script and the name that Redis gives it."""
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


class Redis:
    """One worker's way to Redis; one event loop owns it."""

    def __init__(
        self,
        url: str,
        *,
        budget_s: float,
        on_state: Callable[[str | None], None],
        prefix: str = "slipstream",
    ) -> None:
        """Nothing is opened yet. ``on_state``: told why Redis is not used, or None when it is.

        ``budget_s``: the longest any one question may take. ``prefix``: begins every key and channel.
        """
        self.budget_s = budget_s
        self.prefix = prefix.encode()
        self._on_state = on_state
        self._pool = redis_client.BlockingConnectionPool.from_url(
            url,
            max_connections=_MOST_CONNECTIONS,
            timeout=budget_s,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=_CONNECT_S,
            client_name="slipstream",
            socket_keepalive=True,
        )
        self._client = redis_client.Redis(connection_pool=self._pool)
        self._say: Callable[..., Awaitable[object]] = self._client.execute_command
        self.away: str | None = _AWAY
        """Why nothing is asked of Redis now; None while it is in use."""
        self.refuses: str | None = None
        """Why Redis takes no writes; None while it does."""
        self.skipped = 0
        """Questions that were not asked because Redis was away."""
        self.failed = 0
        """Questions that were asked and came to nothing."""
        self._late = 0
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Try the door once, and keep trying it beside the requests while it is shut."""
        self._task = asyncio.get_running_loop().create_task(self._probe(), name="redis")
        await self._try()
        if self.away is not None:
            self._wanted.set()

    async def aclose(self) -> None:
        """Close every connection; idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self.away = "closed"
        with suppress(*GONE):
            await self._client.aclose()
            await self._pool.disconnect()

    def key(self, kind: bytes, name: bytes = b"") -> bytes:
        """The key or channel of a thing of ours."""
        return b"%s:%s:%s" % (self.prefix, kind, name)

    async def ask(self, *words: Word, budget_s: float | None = None) -> object:
        """Ask one command; raises ``StoreError`` where Redis is away, late or refuses."""
        if self.away is not None:
            self.skipped += 1
            raise StoreError(f"Redis {self.away}", code="store_away")
        try:
            async with asyncio.timeout(budget_s or self.budget_s):
                reply = await self._say(*words)
        except ResponseError as error:
            if isinstance(error, NoScriptError):
                raise
            raise self._refused(error) from error
        except GONE as error:
            raise self._lost(error) from error
        self._late = 0
        return reply

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        words: Sequence[Word] = (),
        *,
        budget_s: float | None = None,
    ) -> list[object]:
        """Run a script that gives a list; raises ``StoreError`` as ``ask`` does."""
        rest = (len(keys), *keys, *words)
        try:
            reply = await self.ask("EVALSHA", script.digest, *rest, budget_s=budget_s)
        except NoScriptError:
            reply = await self.ask("EVAL", script.text, *rest, budget_s=budget_s)
        if not isinstance(reply, list):
            raise StoreError("Redis gave an answer of another form", code="store_refused")
        return reply

    def listening(self) -> redis_client.client.PubSub:
        """A subscriber on a connection of its own; its owner closes it."""
        return self._client.pubsub()

    async def unlisten(self, listening: redis_client.client.PubSub) -> None:
        """Close a subscriber."""
        close: Callable[[], Awaitable[None]] = listening.aclose
        await close()

    def _refused(self, error: ResponseError) -> StoreError:
        self.failed += 1
        said = str(error)[:200]
        if isinstance(error, OutOfMemoryError | ReadOnlyError) or said.startswith(_TAKES_NO_WRITES):
            self._refusing(f"takes no writes: {said}")
        elif said.startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
            self._lose(f"refuses us: {said}")
        return StoreError(f"Redis refused: {said}", code="store_refused")

    def _lost(self, error: Exception) -> StoreError:
        self.failed += 1
        late = isinstance(error, TimeoutError | RedisTimeoutError) or (
            # The pool had no connection free in time: as slow as an answer that is late.
            isinstance(error, RedisConnectionError) and "available connection" in str(error).lower()
        )
        if late:
            self._late += 1
            if self._late >= _LATE_IN_A_ROW:
                self._lose(f"does not answer within {self.budget_s * 1000:g} ms")
            return StoreError("Redis came too late", code="store_slow")
        if isinstance(error, BusyLoadingError):
            self._lose("is loading its data")
        else:
            self._lose(f"is not there: {type(error).__name__}")
        return StoreError(f"Redis {self.away}", code="store_away")

    def _lose(self, why: str) -> None:
        if self.away is None:
            self.away = why
            self._on_state(why)
            self._wanted.set()

    def _refusing(self, why: str) -> None:
        if self.refuses is None:
            self.refuses = why
            self._on_state(why)
            self._wanted.set()

    async def _probe(self) -> None:
        """Try the door while it is shut, with longer pauses each time."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            tries = 0
            while self.away is not None or self.refuses is not None:
                await asyncio.sleep(_PAUSES_S[min(tries, len(_PAUSES_S) - 1)])
                tries += 1
                await self._try()

    async def _try(self) -> None:
        """Connect, then ask within the budget: only who answers in time is used."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._say("PING")
            began_s = loop.time()
            async with asyncio.timeout(_CONNECT_S):
                await self._say("PING")
            took_s = loop.time() - began_s
            await self._try_to_write()
        except GONE as error:
            self._still(f"is not there: {type(error).__name__}")
            return
        if took_s > self.budget_s:
            self._still(f"does not answer within {self.budget_s * 1000:g} ms")
            return
        self._late = 0
        was, self.away = self.away, None
        if self.refuses is None:
            if was is not None:
                self._on_state(None)
        else:
            self._on_state(self.refuses)

    async def _try_to_write(self) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._say("SET", self.key(b"probe"), b"1", "PX", 1000)
        except ResponseError as error:
            self.refuses = f"takes no writes: {str(error)[:200]}"
            return
        if self.refuses is not None:
            self.refuses = None
            if self.away is None:
                self._on_state(None)

    def _still(self, why: str) -> None:
        if self.away is None or self.away == _AWAY:
            self.away = why
            self._on_state(why)


class RedisKeyValue:
    """A ``KeyValue`` in Redis; ``kind`` keeps its keys apart from others."""

    def __init__(self, redis: Redis, kind: bytes) -> None:
        """Use ``redis``, whose owner closes it."""
        self._redis, self._kind = redis, kind

    async def get(self, key: bytes) -> bytes | None:
        """The live value of ``key``."""
        found = await self._redis.ask("GET", self._redis.key(self._kind, key))
        return found if isinstance(found, bytes) else None

    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Keep ``value`` for ``ttl_s`` seconds."""
        milliseconds = max(1, int(ttl_s * 1000))
        await self._redis.ask("SET", self._redis.key(self._kind, key), value, "PX", milliseconds)

    async def delete(self, key: bytes) -> bool:
        """Remove it; say whether it was there."""
        return await self._redis.ask("DEL", self._redis.key(self._kind, key)) == 1

    async def aclose(self) -> None:
        """Hold nothing of its own."""
