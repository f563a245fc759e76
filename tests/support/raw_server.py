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
        """Read on and return when the other side has hung up (FIN or RST)."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.gone.is_set():
                try:
                    if not await self.reader.read(65536):
                        self.gone.set()
                except OSError:
                    self.gone.set()


Script = Callable[[Peer], Awaitable[None]]


class RawServer:
    """Runs ``script`` for each connection; when it returns the connection is left open."""

    def __init__(self, script: Script) -> None:
        """``script`` sees each connection as it is accepted."""
        self._script = script
        self.peers: list[Peer] = []
        self.accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self.port = 0
        self.errors: list[BaseException] = []

    async def peer(self) -> Peer:
        """The next connection that was accepted and not yet asked for."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.accepted.get()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(len(self.peers), reader, writer)
        self.peers.append(peer)
        self.accepted.put_nowait(peer)
        try:
            await self._script(peer)
        except (asyncio.IncompleteReadError, OSError):
            peer.gone.set()
        except Exception as exc:  # noqa: BLE001 (an edge: shown when the server closes)
            self.errors.append(exc)


@contextlib.asynccontextmanager
async def raw_server(
    script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[RawServer]:
    """Serve ``script`` on a free port; raise at the end what a script raised unexpectedly."""
    server = RawServer(script)
    listener = await asyncio.start_server(server._serve, host, 0, ssl=tls, limit=1 << 20)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for peer in server.peers:
            peer.writer.transport.abort()
        await asyncio.sleep(0)
    for error in server.errors:
        raise error


async def idle(_: Peer) -> None:
    """A script that leaves everything to the test."""
