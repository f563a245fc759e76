"""The Redis client: one bounded pool, a time budget for every command, and a circuit breaker.

No command holds a request up for longer than its budget, and the only failure is ``StoreError``, which
callers take to mean "go on without". A refused or broken connection opens the breaker at once, timeouts
do so after a few in a row. While it is open no command is sent, and a task probes until Redis answers
within the budget again. So a Redis that is down costs a request one comparison, and a slow one a few
budgets in all.

A Redis that refuses writes (out of memory, a replica) is still read from; the refusal is reported until a
write works again.
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

Argument = bytes | str | int | float
CONNECTION_ERRORS: Final = (RedisError, OSError, TimeoutError, RuntimeError)
"""A lost Redis; uvloop raises RuntimeError for a connection that was reset a moment ago."""
_MAX_TIMEOUTS_IN_A_ROW: Final = 3
_PROBE_INTERVALS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0)
_MAX_CONNECTIONS: Final = 16
_CONNECT_S: Final = 1.0
"""How long a probe waits for a connection; no request does."""
_TAKES_NO_WRITES: Final = ("OOM", "READONLY", "MISCONF", "NOREPLICAS")
_NOT_CONNECTED = "is not reached yet"


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script; its text is sent only where the server does not have it yet."""

    text: str
    digest: str

    @classmethod
    def of(cls, text: str) -> Script:
        """A script with its SHA-1 digest."""
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


class Redis:
    """One worker's Redis client; one event loop owns it."""

    def __init__(
        self,
        url: str,
        *,
        budget_s: float,
        on_state: Callable[[str | None], None],
        prefix: str = "slipstream",
    ) -> None:
        """Open nothing yet. ``on_state`` is called with why Redis is not used, or None when it is.

        ``budget_s``: the longest that a command may take. ``prefix``: begins every key and channel.
        """
        self.budget_s = budget_s
        self.prefix = prefix.encode()
        self._on_state = on_state
        self._pool = redis_client.BlockingConnectionPool.from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=budget_s,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=_CONNECT_S,
            client_name="slipstream",
            socket_keepalive=True,
        )
        self._client = redis_client.Redis(connection_pool=self._pool)
        self._execute: Callable[..., Awaitable[object]] = self._client.execute_command
        self.unavailable: str | None = _NOT_CONNECTED
        """Why no command is sent now; None while Redis is in use."""
        self.write_refusal: str | None = None
        """Why Redis refuses writes; None while it accepts them."""
        self.skipped = 0
        """Commands that were not sent because Redis was unavailable."""
        self.failed = 0
        """Commands that failed."""
        self._timeouts_in_a_row = 0
        self._probe_wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Probe once, then in the background whenever Redis is unavailable."""
        self._task = asyncio.get_running_loop().create_task(self._probe(), name="redis")
        await self._check()
        if self.unavailable is not None:
            self._probe_wanted.set()

    async def aclose(self) -> None:
        """Close every connection; idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self.unavailable = "closed"
        with suppress(*CONNECTION_ERRORS):
            await self._client.aclose()
            await self._pool.disconnect()

    def key(self, kind: bytes, name: bytes = b"") -> bytes:
        """The key or channel for ``name`` of this kind."""
        return b"%s:%s:%s" % (self.prefix, kind, name)

    async def command(self, *words: Argument, budget_s: float | None = None) -> object:
        """Run one command; raises ``StoreError`` where Redis is unavailable, late or refuses."""
        if self.unavailable is not None:
            self.skipped += 1
            raise StoreError(f"Redis {self.unavailable}", code="store_away")
        try:
            async with asyncio.timeout(budget_s or self.budget_s):
                reply = await self._execute(*words)
        except ResponseError as error:
            if isinstance(error, NoScriptError):
                raise
            raise self._refusal_error(error) from error
        except CONNECTION_ERRORS as error:
            raise self._connection_error(error) from error
        self._timeouts_in_a_row = 0
        return reply

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        words: Sequence[Argument] = (),
        *,
        budget_s: float | None = None,
    ) -> list[object]:
        """Run a script that gives a list; raises ``StoreError`` as ``ask`` does."""
        rest = (len(keys), *keys, *words)
        try:
            reply = await self.command("EVALSHA", script.digest, *rest, budget_s=budget_s)
        except NoScriptError:
            reply = await self.command("EVAL", script.text, *rest, budget_s=budget_s)
        if not isinstance(reply, list):
            raise StoreError("Redis gave an unexpected reply", code="store_refused")
        return reply

    def subscriber(self) -> redis_client.client.PubSub:
        """A subscriber on a connection of its own; its owner closes it."""
        return self._client.pubsub()

    async def close_subscriber(self, listening: redis_client.client.PubSub) -> None:
        """Close a subscriber."""
        close: Callable[[], Awaitable[None]] = listening.aclose
        await close()

    def _refusal_error(self, error: ResponseError) -> StoreError:
        self.failed += 1
        said = str(error)[:200]
        if isinstance(error, OutOfMemoryError | ReadOnlyError) or said.startswith(_TAKES_NO_WRITES):
            self._note_write_refusal(f"takes no writes: {said}")
        elif said.startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
            self._open_breaker(f"refuses us: {said}")
        return StoreError(f"Redis refused: {said}", code="store_refused")

    def _connection_error(self, error: Exception) -> StoreError:
        self.failed += 1
        late = isinstance(error, TimeoutError | RedisTimeoutError) or (
            # The pool had no connection free in time: as slow as an answer that is late.
            isinstance(error, RedisConnectionError) and "available connection" in str(error).lower()
        )
        if late:
            self._timeouts_in_a_row += 1
            if self._timeouts_in_a_row >= _MAX_TIMEOUTS_IN_A_ROW:
                self._open_breaker(f"does not answer within {self.budget_s * 1000:g} ms")
            return StoreError("Redis came too late", code="store_slow")
        if isinstance(error, BusyLoadingError):
            self._open_breaker("is loading its data")
        else:
            self._open_breaker(f"is not there: {type(error).__name__}")
        return StoreError(f"Redis {self.unavailable}", code="store_away")

    def _open_breaker(self, why: str) -> None:
        if self.unavailable is None:
            self.unavailable = why
            self._on_state(why)
            self._probe_wanted.set()

    def _note_write_refusal(self, why: str) -> None:
        if self.write_refusal is None:
            self.write_refusal = why
            self._on_state(why)
            self._probe_wanted.set()

    async def _probe(self) -> None:
        """Probe while Redis is unavailable, with growing intervals."""
        while True:
            await self._probe_wanted.wait()
            self._probe_wanted.clear()
            tries = 0
            while self.unavailable is not None or self.write_refusal is not None:
                await asyncio.sleep(_PROBE_INTERVALS_S[min(tries, len(_PROBE_INTERVALS_S) - 1)])
                tries += 1
                await self._check()

    async def _check(self) -> None:
        """Connect and send two PINGs: Redis is used only where the second is answered within the budget."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._execute("PING")
            began_s = loop.time()
            async with asyncio.timeout(_CONNECT_S):
                await self._execute("PING")
            took_s = loop.time() - began_s
            await self._check_write()
        except CONNECTION_ERRORS as error:
            self._stay_unavailable(f"is not there: {type(error).__name__}")
            return
        if took_s > self.budget_s:
            self._stay_unavailable(f"does not answer within {self.budget_s * 1000:g} ms")
            return
        self._timeouts_in_a_row = 0
        was, self.unavailable = self.unavailable, None
        if self.write_refusal is None:
            if was is not None:
                self._on_state(None)
        else:
            self._on_state(self.write_refusal)

    async def _check_write(self) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._execute("SET", self.key(b"probe"), b"1", "PX", 1000)
        except ResponseError as error:
            self.write_refusal = f"takes no writes: {str(error)[:200]}"
            return
        if self.write_refusal is not None:
            self.write_refusal = None
            if self.unavailable is None:
                self._on_state(None)

    def _stay_unavailable(self, why: str) -> None:
        if self.unavailable is None or self.unavailable == _NOT_CONNECTED:
            self.unavailable = why
            self._on_state(why)


class RedisKeyValue:
    """A ``KeyValue`` in Redis; ``kind`` keeps its keys apart from others."""

    def __init__(self, redis: Redis, kind: bytes) -> None:
        """Use ``redis``, whose owner closes it."""
        self._redis, self._kind = redis, kind

    async def get(self, key: bytes) -> bytes | None:
        """The live value of ``key``."""
        found = await self._redis.command("GET", self._redis.key(self._kind, key))
        return found if isinstance(found, bytes) else None

    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Keep ``value`` for ``ttl_s`` seconds."""
        milliseconds = max(1, int(ttl_s * 1000))
        await self._redis.command(
            "SET", self._redis.key(self._kind, key), value, "PX", milliseconds
        )

    async def delete(self, key: bytes) -> bool:
        """Remove it; say whether it was there."""
        return await self._redis.command("DEL", self._redis.key(self._kind, key)) == 1

    async def aclose(self) -> None:
        """Hold nothing of its own."""
