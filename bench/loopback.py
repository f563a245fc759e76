"""The benches' own servers on a free loopback port: HTTP/1.1 kept alive, answered by a function."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    method: str
    target: str
    body: bytes


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]
"""Writes the whole response to a request."""


ServePeer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Serves one connection until it has nothing more to say to it, or the peer is gone."""


@contextlib.asynccontextmanager
async def listening(serve_peer: ServePeer) -> AsyncIterator[str]:
    """Serve each connection with ``serve_peer``; the base URL. At the end every connection is ended,
    whatever it waits for.
    """
    peers: set[asyncio.Task[None]] = set()

    async def on_peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        peers.add(task)
        try:
            await serve_peer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            peers.discard(task)
            writer.close()

    server = await asyncio.start_server(on_peer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(peers):
            task.cancel()
        if peers:
            await asyncio.wait(peers)


@contextlib.asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[str]:
    """Serve with ``answer``, as ``listening`` does."""

    async def serve_peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await answer(await _next(reader), writer)

    async with listening(serve_peer) as url:
        yield url


def port_of(url: str) -> int:
    """The port of a base URL."""
    return int(url.rpartition(":")[2])


async def _next(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ", 2)
    lengths = [line[16:] for line in head if line.lower().startswith("content-length: ")]
    return Request(method, target, await reader.readexactly(int(lengths[0]) if lengths else 0))


async def send_json(raw: bytes, writer: asyncio.StreamWriter) -> None:
    """Answer 200 with JSON."""
    told = b"content-type: application/json\r\ncontent-length: %d" % len(raw)
    writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (told, raw))
    await writer.drain()
