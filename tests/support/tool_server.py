"""A real HTTP server whose routes are what tools meet: good answers, slow ones and every kind of
bad one.

Every request is remembered; a route that waits says when its peer has hung up, so a test can see a
cancellation arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from bench.loopback import listening

Route = Callable[["Asked"], Awaitable[None]]


@dataclass(slots=True)
class Asked:
    """One request, and the way to answer it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """The peer has hung up."""

    async def answer(
        self,
        body: bytes | str | object = b"",
        status: int = 200,
        kind: str = "application/json",
        *,
        extra: str = "",
    ) -> None:
        """Answer whole; what is neither bytes nor text is written as JSON."""
        raw = (
            body.encode()
            if isinstance(body, str)
            else body
            if isinstance(body, bytes)
            else json.dumps(body).encode()
        )
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(raw)}\r\n{extra}\r\n"
        self.writer.write(head.encode() + raw)
        await self.writer.drain()

    async def until_gone(self) -> None:
        """Wait until the peer hangs up."""
        await self.reader.read(1)
        self.gone.set()


@dataclass(slots=True)
class ToolServer:
    """The server at ``url``; ``routes`` by path without the query, or by its beginning up to the
    last slash.
    """

    url: str
    routes: dict[str, Route]
    asked: list[Asked] = field(default_factory=list)
    arrived: asyncio.Queue[Asked] = field(default_factory=asyncio.Queue)

    def targets(self) -> list[str]:
        """The paths asked for so far."""
        return [each.target for each in self.asked]


@contextlib.asynccontextmanager
async def tool_server(routes: dict[str, Route]) -> AsyncIterator[ToolServer]:
    """Serve ``routes`` on a free loopback port."""
    found = ToolServer("", routes)

    async def serve_peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await _serve_one(found, reader, writer):
            pass

    async with listening(serve_peer) as found.url:
        yield found


async def _serve_one(
    found: ToolServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ", 2)
    headers = {
        name.lower(): value
        for name, _, value in (line.partition(": ") for line in head[1:] if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    asked = Asked(method, target, headers, body, writer, reader)
    found.asked.append(asked)
    found.arrived.put_nowait(asked)
    path = target.partition("?")[0]
    route = found.routes.get(path) or found.routes.get(path.rpartition("/")[0] + "/")
    if route is None:
        await asked.answer({"error": "no such path"}, 404)
        return True
    await route(asked)
    return not asked.gone.is_set() and not writer.is_closing()
