"""The vector process: it owns the encoder and the embedded engine, and answers over a unix socket.

``python -m app.stores.sidecar SOCKET FOLDER MODEL MAX NICE``, started by a gateway with a pipe on its
standard input. It ends when that pipe does, so no gateway, however it ended, leaves one behind. One thread
does everything in the order it came: an embedding takes 2 ms, a search a tenth of one, and more
threads would only share two cores. Niceness 10: requests come first; NICE while it loads, which is 0 where
the gateway itself is not up yet.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import msgspec

from app.errors import StoreError
from app.stores.embedded_qdrant import EmbeddedQdrant
from app.stores.older_builds import OlderBuilds as OlderFolders
from app.stores.onnx_embedder import EmbedderError, OnnxEmbedder
from app.stores.vectors import (
    FAILED_MODEL,
    FAILED_STORE,
    NICENESS,
    About,
    Answered,
    Ask,
    Busy,
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

Asked = Recall | Nearest | Keep | Fetch | Page | Remove | RemoveWhere | Count
"""What comes from requests."""
_IDLE_S = 20.0
_MEMORY = 4_096
"""Embeddings remembered, 1.5 KiB each, by what the encoder reads of a text: however it was written."""
_MOVE_EVERY_S = 0.005
_QUIET_S = 0.1
"""What can wait waits until nobody has asked for so long,"""
_LONGEST_WAIT_S = 1.0
"""but not longer than this, so that steady traffic does not put it off for ever."""


class Worker:
    """What is asked of the process, done."""

    def __init__(self, embedder: OnnxEmbedder, store: EmbeddedQdrant) -> None:
        """Own both from now on."""
        self._embedder, self._store = embedder, store
        self.older: OlderFolders | None = None
        self._vectors: OrderedDict[tuple[int, ...], bytes] = OrderedDict()
        self.busy_at_s = time.monotonic()
        self._spared_at_s = self.busy_at_s

    def answer(self, command: Command) -> Reply:
        """Do ``command``; a failure is a reply like any other."""
        try:
            if isinstance(command, Older | Spare):
                return self._beside(command)
            self.busy_at_s = time.monotonic()
            return self._do(command)
        except Exception as exc:  # noqa: BLE001 - a process edge: the engine raises bare exceptions
            return Failed(f"{type(command).__name__}: {exc}"[:300])

    def _do(self, command: Asked) -> Reply:  # noqa: PLR0911 - a table of cases
        store = self._store
        match command:
            case Recall(text, partition, k):
                vector = self._embed(text)
                if isinstance(vector, TooLong):
                    return vector
                near = store.nearest(vector, partition, k) if k else []
                return Found(vector, tuple(near))
            case Nearest(vector, partition, k):
                return Found(vector, tuple(store.nearest(vector, partition, k)))
            case Keep(question, vector):
                store.keep([(question, vector)])
                return Number(1)
            case Fetch(entry_id):
                return Fetched(store.fetch(entry_id))
            case Page(tenant, after, limit):
                questions, following = store.page(tenant, after, limit)
                return Paged(tuple(questions), following)
            case Remove(ids):
                older = 0 if self.older is None else self.older.remove(ids)
                return Number(store.remove(ids) + older)
            case RemoveWhere(which):
                older = 0 if self.older is None else self.older.remove_where(which)
                return Number(store.remove_where(which) + older)
            case Count():
                return About(store.count(), self._embedder.build_id, tuple(store.moved_aside))

    def _embed(self, text: str) -> bytes | TooLong:
        pieces = self._embedder.pieces(text)
        if len(pieces) > self._embedder.window_tokens:
            return TooLong(len(pieces))
        known = self._vectors.get(pieces)
        if known is not None:
            self._vectors.move_to_end(pieces)
            return known
        made = self._vectors[pieces] = self._embedder.vector_of(pieces).astype("<f4").tobytes()
        if len(self._vectors) > _MEMORY:
            self._vectors.popitem(last=False)
        return made

    def _beside(self, command: Older | Spare) -> Reply:
        """What is asked for by who brings over what another build kept: it comes after all else."""
        if isinstance(command, Older):
            if self.older is None:
                return OlderPage((), "", moving=False, left=0, moved=0)
            return self.older.strays(command.after, command.limit)
        if not self.idle():
            return Busy()
        made = self._embed(command.text)
        if isinstance(made, TooLong):
            return made
        if not command.id or (self.older is not None and self.older.bring(command.id, made)):
            return Found(made, ())
        return Number(0)

    def idle(self) -> bool:
        """Whether one thing that can wait may be done now: nobody has asked for a while, or it waited for
        long enough.
        """
        now_s = time.monotonic()
        if now_s - self.busy_at_s < _QUIET_S and now_s - self._spared_at_s < _LONGEST_WAIT_S:
            return False
        self._spared_at_s = now_s
        return True

    def move(self) -> bool:
        """Bring a question over from an older build's folder; False when none is left."""
        if self.older is None:
            return False
        try:
            self.older.step()
        except Exception as exc:  # noqa: BLE001 - a process edge, like any command's
            self._store.moved_aside.append(
                f"an older build's questions cannot be moved: {exc}"[:300]
            )
            self.older.close()
        return self.older.moving

    def vector_of(self, text: str) -> bytes | None:
        """The vector of ``text``, None over the window."""
        made = self._embed(text)
        return made if isinstance(made, bytes) else None

    def tend(self) -> None:
        """Do what blocks for long, once nobody has asked for a while."""
        if time.monotonic() - self.busy_at_s >= _IDLE_S:
            self._store.tend()

    def close(self) -> None:
        """Flush and leave."""
        if self.older is not None:
            self.older.close()
        self._store.close()


class _Connection(asyncio.Protocol):
    """One gateway worker's connection."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._framing = Framing()
        self._read = msgspec.msgpack.Decoder(Ask).decode
        self._write = msgspec.msgpack.Encoder().encode
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # a stream's transport

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        try:
            for message in self._framing.feed(data):
                ask = self._read(message)
                reply = Answered(ask.number, self._worker.answer(ask.command))
                self._transport.write(framed(self._write(reply)))
        except (ValueError, msgspec.DecodeError):
            self._transport.close()


async def _serve(path: str, worker: Worker) -> None:
    """Serve until standard input ends or a signal comes."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.umask(0o077)  # nobody else may connect
    listening.bind(path)
    server = await loop.create_unix_server(lambda: _Connection(worker), sock=listening)
    os.set_blocking(0, False)

    def parent_wrote() -> None:
        if not os.read(0, 64):
            over.set()

    loop.add_reader(0, parent_wrote)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    moving = loop.create_task(_move(worker), name="moving")
    while not over.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), _IDLE_S)
        if not over.is_set():
            worker.tend()
    moving.cancel()
    server.close()


async def _move(worker: Worker) -> None:
    """Bring over what an older build kept, between requests."""
    while worker.older is not None and worker.older.moving:
        idle = worker.idle()
        if idle:
            worker.move()
        await asyncio.sleep(_MOVE_EVERY_S if idle else _QUIET_S)


def main(arguments: list[str]) -> int:
    """Run the process; the exit status names what is wrong, and standard error says it."""
    path, folder, model, max_entries, niceness = arguments
    os.nice(int(niceness))
    try:
        embedder = OnnxEmbedder(Path(model))
        store = EmbeddedQdrant(
            Path(folder),
            build_id=embedder.build_id,
            dimension=embedder.dimension,
            max_points=int(max_entries),
        )
    except (EmbedderError, StoreError) as exc:
        print(exc, file=sys.stderr, flush=True)  # noqa: T201 - the gateway reads it
        return FAILED_MODEL if isinstance(exc, EmbedderError) else FAILED_STORE
    os.nice(NICENESS - int(niceness))
    worker = Worker(embedder, store)
    worker.older = OlderFolders(Path(folder), store, worker.vector_of) or None
    Path(path).unlink(missing_ok=True)  # of a process that was killed: this one owns the folder now
    try:
        asyncio.run(_serve(path, worker))
    finally:
        worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
