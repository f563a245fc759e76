"""A scriptable upstream on a loopback socket: it sends just the bytes, and ends, that a test says.

Each accepted connection is a ``Peer`` that the test holds: it reads requests, sends bytes at chosen
splits, stalls (by sending nothing), half-closes, resets, and reports through ``gone`` the moment
when the other side has hung up. Nothing here sleeps: a test awaits events.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

LIMIT_BYTES = 64 << 20
"""Unread request bytes beyond which a peer stops reading (and could not see the other side go)."""

PATIENCE_S = 10.0
"""How long a test waits for what must happen before it fails; never how long it takes."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    line: bytes
    headers: dict[bytes, bytes]
    body: bytes


@dataclass(eq=False)
class Peer:
    """One accepted connection; ``number`` counts from 0 in the order of arrival."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    requests: int = 0

    async def request(self) -> Request:
        """The next request; raises IncompleteReadError when the other side hangs up instead."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *fields = head[:-4].split(b"\r\n")
        headers = {name.lower(): value for name, _, value in (f.partition(b": ") for f in fields)}
        body = await self.reader.readexactly(int(headers.get(b"content-length", b"0")))
        self.requests += 1
        return Request(line, headers, body)

    async def send(self, *pieces: bytes) -> None:
        """Send each piece on its own, giving the loop a turn between them."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def answer(self, body: bytes, *, head: bytes = b"") -> None:
        """Send a plain 200 with ``body``; ``head`` adds header lines."""
        await self.send(
            b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
        )

    def half_close(self) -> None:
        """End our side (FIN) and go on listening."""
        self.writer.write_eof()

    def close(self) -> None:
        """End in order (FIN, when all is sent)."""
        self.writer.close()

    def reset(self) -> None:
        """End with a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def wait_gone(self) -> None:
        """Return when the other side has hung up (FIN or RST)."""
        async with asyncio.timeout(PATIENCE_S):
            await self.gone.wait()


class _Protocol(asyncio.StreamReaderProtocol):
    """Streams, plus the moment when the other side hangs up, whoever reads then."""

    def __init__(
        self, accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Peer]
    ) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=LIMIT_BYTES, loop=loop)
        super().__init__(reader, self._accepted, loop=loop)
        self._accept = accept
        self._peer: Peer | None = None

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._peer = self._accept(reader, writer)

    def eof_received(self) -> bool:
        """FIN."""
        if self._peer is not None:
            self._peer.gone.set()
        return bool(super().eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        """RST, or the end of both sides."""
        if self._peer is not None:
            self._peer.gone.set()
        super().connection_lost(exc)


Script = Callable[[Peer], Awaitable[None]]


class RawServer:
    """Runs ``script`` for each connection; when it returns the connection is left open."""

    def __init__(self, script: Script) -> None:
        """``script`` sees each connection as it is accepted."""
        self._script = script
        self.peers: list[Peer] = []
        self.accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self.port = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def peer(self) -> Peer:
        """The next connection that was accepted and not yet asked for."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.accepted.get()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Peer:
        """Run the script for a new connection."""
        peer = Peer(len(self.peers), reader, writer)
        self.peers.append(peer)
        self.accepted.put_nowait(peer)
        self._tasks.append(asyncio.create_task(self._serve(peer)))
        return peer

    async def _serve(self, peer: Peer) -> None:
        # The other side may hang up in the middle of the script: that is what many tests want.
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            await self._script(peer)

    async def aclose(self) -> None:
        """End all scripts and connections; raise what a script raised unexpectedly."""
        for peer in self.peers:
            peer.writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for task in self._tasks:
            if not task.cancelled():
                task.result()


@contextlib.asynccontextmanager
async def raw_server(
    script: Script,
    *,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[RawServer]:
    """Serve ``script`` on a free port; raise at the end what a script raised unexpectedly."""
    server = RawServer(script)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: _Protocol(server.accept), host, port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await server.aclose()


async def idle(_: Peer) -> None:
    """A script that leaves everything to the test."""
