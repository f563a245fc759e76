"""The gateway's side of the vector process: starts it, supervises it, and never waits for it.

One gateway worker owns the process (the one with the lock file); all workers of a ``data_dir`` use it. A
request while it is down or overloaded is answered at once with ``StoreError``: the caller goes on
without. A process that ended is started again in the background.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from app.domain.vectors import (
    Neighbour,
    QuestionFilter,
    StoredQuestion,
    TextTooLong,
    VectorSearchResult,
)
from app.errors import StoreError
from app.stores.sidecar_start import StartedProcess, socket_of, start, take_lock
from app.stores.vectors import (
    FAILED_MODEL,
    FAILED_STORE,
    NICENESS,
    About,
    Answered,
    Ask,
    Command,
    Count,
    Failed,
    Fetch,
    Fetched,
    Found,
    Framing,
    Keep,
    Nearest,
    Number,
    Older,
    OlderPage,
    Page,
    Paged,
    Recall,
    Remove,
    RemoveWhere,
    Reply,
    Spare,
    TooLong,
    framed,
)

_MOST_WAITING = 64
_PATIENCE_S = 2.0
_LONG_PATIENCE_S = 10.0
_LOOK_AGAIN_S = 0.025
_STARTING = "is starting"
_PAUSES_S = (0.05, 0.2, 1.0, 5.0)
_PAUSE_WHERE_HOPELESS_S = 30.0


class _Connection(asyncio.Protocol):
    """Requests under way on one connection."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[Reply]] = {}
        self.lost = asyncio.Event()
        self._framing = Framing()
        self._read = msgspec.msgpack.Decoder(Answered).decode
        self._write = msgspec.msgpack.Encoder().encode
        self._transport: asyncio.Transport | None = None
        self._number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # a stream's transport

    def ask(self, command: Command) -> asyncio.Future[Reply]:
        """Send ``command``; the future ends with its reply, or when the connection does."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if self._transport is None or self.lost.is_set():
            raise StoreError("the vector process is away")
        self._number += 1
        self.waiting[self._number] = future
        self._transport.write(framed(self._write(Ask(self._number, command))))
        return future

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._framing.feed(data):
                answered = self._read(message)
                future = self.waiting.pop(answered.number, None)
                if future is not None and not future.done():
                    future.set_result(answered.reply)
        except (ValueError, msgspec.DecodeError):
            self.close()

    def connection_lost(self, _: Exception | None) -> None:
        self.lost.set()
        waiting, self.waiting = self.waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_result(Failed("the vector process went away"))

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


class VectorProcess:
    """Embeddings and kept questions, in a process of their own; a ``VectorStore`` and an ``Embedder``."""

    def __init__(
        self,
        folder: Path,
        model: Path,
        *,
        on_state: Callable[[str | None], None],
        max_entries: int = 1_000_000,
        begun: StartedProcess | None = None,
    ) -> None:
        """Nothing is started yet, unless somebody has ``begun`` it. ``on_state`` is told why it is away, or
        None when it is there.
        """
        self._folder, self._model = folder, model
        self._on_state = on_state
        self._max_entries = max_entries
        self._connection: _Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_file: IO[bytes] | None = None
        self._lock: int | None = None
        self._begun = begun is not None
        if begun is not None:
            self._process, self._log_file, self._lock = begun.process, begun.log_file, begun.lock
        self._task: asyncio.Task[None] | None = None
        self.there = asyncio.Event()
        self.build_id = ""
        self.restarts = 0
        self.moved_aside: tuple[str, ...] = ()
        self.socket_path = socket_of(folder)

    @property
    def pid(self) -> int | None:
        """The process's id where this worker owns it."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Begin to look after the process; returns at once, it is there some time later."""
        self._on_state(_STARTING)
        self._task = asyncio.get_running_loop().create_task(self._supervise(), name="vectors")

    async def aclose(self) -> None:
        """End the process if it is ours; idempotent."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        await self._end()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -------------------------------------------------------------- what may be asked of it

    async def recall(self, text: str, partition: str, k: int) -> VectorSearchResult | TextTooLong:
        """The vector of ``text`` and the ``k`` nearest questions of ``partition``, in one round trip."""
        return recalled(await self._ask(Recall(text, partition, k, time.time())))

    async def embed(self, text: str) -> bytes | TextTooLong:
        """The vector of ``text``."""
        found = await self.recall(text, "", 0)
        return found if isinstance(found, TextTooLong) else found.vector

    async def nearest(self, vector: bytes, partition: str, k: int) -> tuple[Neighbour, ...]:
        """The ``k`` nearest live questions of ``partition``."""
        found = recalled(await self._ask(Nearest(vector, partition, k, time.time())))
        return () if isinstance(found, TextTooLong) else found.near

    async def keep(self, question: StoredQuestion, vector: bytes) -> None:
        """Keep ``question``."""
        await self._ask(Keep(question, vector))

    async def fetch(self, entry_id: str) -> StoredQuestion | None:
        """The live question of that id."""
        reply = await self._ask(Fetch(entry_id))
        return reply.question if isinstance(reply, Fetched) else None

    async def page(
        self, tenant: str, after: str, limit: int
    ) -> tuple[tuple[StoredQuestion, ...], str]:
        """Live questions of ``tenant`` from the id ``after`` on, and where the next page begins."""
        reply = await self._ask(Page(tenant, after, limit), _LONG_PATIENCE_S)
        return (reply.questions, reply.next) if isinstance(reply, Paged) else ((), "")

    async def remove(self, ids: tuple[str, ...]) -> int:
        """Remove these; says how many were there."""
        return _number(await self._ask(Remove(ids), _LONG_PATIENCE_S))

    async def remove_where(self, which: QuestionFilter) -> int:
        """Remove those that match; says how many were there."""
        return _number(await self._ask(RemoveWhere(which), _LONG_PATIENCE_S))

    async def count(self) -> int:
        """How many are kept."""
        reply = await self._ask(Count())
        return reply.count if isinstance(reply, About) else 0

    async def older(self, after: str, limit: int) -> OlderPage:
        """Sealed questions of the folders of other builds; for the gateway that has their key."""
        reply = await self._ask(Older(after, limit), _LONG_PATIENCE_S)
        return (
            reply
            if isinstance(reply, OlderPage)
            else OlderPage((), "", moving=False, left=0, moved=0)
        )

    async def anew(self, question: StoredQuestion, text: str) -> Reply:
        """Bring one of them over, at the vector of its ``text``: ``Found``, or why not."""
        return await self.spare(text, question.id)

    async def spare(self, text: str, entry_id: str = "") -> Reply:
        """The vector of ``text`` where nobody else wants anything, else ``Busy``."""
        return await self._ask(Spare(text, entry_id))

    def _send(self, command: Command) -> asyncio.Future[Reply]:
        connection = self._connection
        if connection is None:
            raise StoreError("the vector process is away", code="store_away")
        if len(connection.waiting) >= _MOST_WAITING:
            raise StoreError("the vector process has too much to do", code="store_busy")
        return connection.ask(command)

    async def _ask(self, command: Command, patience_s: float = _PATIENCE_S) -> Reply:
        try:
            async with asyncio.timeout(patience_s):
                reply = await self._send(command)
        except TimeoutError as exc:
            raise StoreError(
                f"the vector process said nothing for {patience_s:g} s", code="store_slow"
            ) from exc
        if isinstance(reply, Failed):
            raise StoreError(reply.message)
        return reply

    # -------------------------------------------------------------- its life

    async def _supervise(self) -> None:
        failures = 0
        while True:
            try:
                why = await self._ensure_running()
            except OSError as exc:
                why = f"cannot be started: {exc}"
            if why is None:
                failures = 0
                connection = self._connection
                if connection is not None:
                    await connection.lost.wait()
                self._connection = None
                self.there.clear()
                self._on_state("went away, starting again")
                self.restarts += 1
                continue
            if why == _STARTING:  # by another worker of this data_dir
                await asyncio.sleep(_PAUSES_S[1])
                continue
            self._on_state(why)
            hopeless = self._process is not None and self._process.poll() in {
                FAILED_MODEL,
                FAILED_STORE,
            }
            pause_s = _PAUSES_S[min(failures, len(_PAUSES_S) - 1)]
            await asyncio.sleep(_PAUSE_WHERE_HOPELESS_S if hopeless else pause_s)
            failures += 1

    async def _ensure_running(self) -> str | None:
        """Connect, starting the process where that is ours to do; None, or why it did not work."""
        if await self._connect():
            return None
        if self._lock is None:
            self._lock = take_lock(self._folder)
        if self._lock is None:
            return _STARTING
        if not self._begun:
            await self._end()
            self._process, self._log_file = start(
                self._folder, self._model, self._max_entries, niceness=NICENESS
            )
        self._begun = False
        process = self._process
        while process is not None and process.poll() is None:
            if await self._connect():
                return None
            await asyncio.sleep(_LOOK_AGAIN_S)
        return self._last_log_line()

    async def _connect(self) -> bool:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_unix_connection(_Connection, str(self.socket_path))
        except OSError:
            return False
        try:
            async with asyncio.timeout(_PATIENCE_S):
                about = await connection.ask(Count())
        except (TimeoutError, StoreError):
            connection.close()
            return False
        if not isinstance(about, About):
            connection.close()
            return False
        self.build_id, self.moved_aside = about.build_id, about.moved_aside
        self._connection = connection
        self.there.set()
        self._on_state(None)
        return True

    def _last_log_line(self) -> str:
        status = None if self._process is None else self._process.poll()
        said = b""
        if self._log_file is not None:
            self._log_file.seek(0)
            said = self._log_file.read()[-300:]
        last = said.decode("utf-8", "replace").strip().rsplit("\n", 1)[-1]
        return f"ended with status {status}: {last}" if last else f"ended with status {status}"

    async def _end(self) -> None:
        """End our process and reap it; a killed one lost nothing, every write is in the log."""
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                with suppress(BrokenPipeError):
                    process.stdin.close()
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, _PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._log_file is not None:
            self._log_file.close()
            self._log_file = None


def recalled(reply: Reply) -> VectorSearchResult | TextTooLong:
    """The reply to a ``Recall``; raises ``StoreError`` for any other."""
    match reply:
        case Found(vector, near):
            return VectorSearchResult(vector, near)
        case TooLong(tokens):
            return TextTooLong(tokens)
        case Failed(message):
            raise StoreError(message)
        case _:
            raise StoreError(f"an unexpected reply: {type(reply).__name__}")


def _number(reply: Reply) -> int:
    return reply.value if isinstance(reply, Number) else 0
