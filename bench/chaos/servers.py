"""What stands in for a tool and for a Qdrant server: as much of each as the gateway asks for.

The tool says the state of a ticket, a function of its number, so that an answer with another's state is known
to be wrong. The Qdrant speaks the REST calls of ``app.stores.qdrant`` and holds nothing: no question was ever
asked before, and what is kept is thrown away.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

Respond = Callable[[str, str], object]
"""Method and path to the JSON that answers."""


def state_of(ticket: str) -> dict[str, str]:
    """What the tool says of a ticket."""
    return {"ticket": ticket, "state": f"state-of-{ticket}"}


def tool(_: str, path: str) -> object:
    """Answer ``GET /t/TICKET``."""
    return state_of(path.rpartition("/")[2])


def qdrant(method: str, path: str) -> object:
    """Answer the store's calls; nothing is ever found."""
    results: dict[str, object] = {
        "exists": {"exists": True},
        "query": {"points": []},
        "scroll": {"points": [], "next_page_offset": None},
        "count": {"count": 0},
    }
    last = path.partition("?")[0].rpartition("/")[2]
    done = {"operation_id": 1, "status": "completed"}
    result = results.get(last, [] if (method, last) == ("POST", "points") else done)
    return {"result": result, "status": "ok", "time": 0.0}


@asynccontextmanager
async def serving(respond: Respond) -> AsyncIterator[int]:
    """Answer HTTP/1.1 with JSON on a free loopback port; gives the port."""
    peers: set[asyncio.Task[None]] = set()

    async def on_peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        peers.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    await _one(respond, reader, writer)
        finally:
            peers.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(on_peer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(peers):
            task.cancel()
        if peers:
            await asyncio.wait(peers)


async def _one(
    respond: Respond, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    lengths = [line[16:] for line in head if line.lower().startswith("content-length: ")]
    await reader.readexactly(int(lengths[0]) if lengths else 0)
    body = json.dumps(respond(method, path), separators=(",", ":")).encode()
    told = f"content-type: application/json\r\ncontent-length: {len(body)}"
    writer.write(f"HTTP/1.1 200 OK\r\n{told}\r\n\r\n".encode() + body)
    await writer.drain()
