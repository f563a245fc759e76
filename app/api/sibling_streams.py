"""A stream that another worker of this server gives, passed on as it comes: the events of a run.

Without Redis a run's log is in the worker that runs it. Whoever is asked for it asks itself first; where
that says "no such run", its siblings, at their own sockets, and copies the first stream that is not
a 404. A client that leaves hangs up there too. A sibling that dies in the middle ends the stream with
the error that Redis' readers get: its log died with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NOT_FOUND = 404
_WITHIN_S = 1.0
_MOST_LINE_BYTES = 64 << 10
_PASSED_ON = frozenset({b"content-type", b"cache-control", b"x-accel-buffering"})
_LOST = b'data: {"type":"RUN_ERROR","message":"the worker that ran it was lost","code":"worker_lost"}\n\n'


@dataclass(frozen=True, slots=True)
class _Answer:
    """The head of a sibling's answer, and where the rest comes from."""

    status: int
    headers: list[tuple[bytes, bytes]]
    chunked: bool
    size: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def ask_in_turn(  # noqa: PLR0917 - ASGI's three, and whom to ask what
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    sockets: Sequence[Path],
    request: bytes,
) -> None:
    """Answer by ``app`` where it knows the thing, else by the first sibling that does."""
    unknown: list[Message] = []

    async def told(message: Message) -> None:
        if message.get("status") == _NOT_FOUND or unknown:
            unknown.append(message)
        else:
            await send(message)

    await app(scope, receive, told)
    if not unknown:
        return
    found = await _who_knows(sockets, request)
    if found is None:
        for message in unknown:
            await send(message)
        return
    try:
        await _copied(found, receive, send)
    finally:
        found.writer.close()


async def _who_knows(sockets: Sequence[Path], request: bytes) -> _Answer | None:
    async with asyncio.TaskGroup() as at_once:
        asked = [at_once.create_task(_asked(path, request)) for path in sockets]
    found = [answer for each in asked if (answer := each.result()) is not None]
    known = [answer for answer in found if answer.status != _NOT_FOUND]
    for answer in found:
        if answer not in known[:1]:
            answer.writer.close()
    return known[0] if known else None


async def _asked(path: Path, request: bytes) -> _Answer | None:
    """A sibling's answer; None where it is gone, or too slow."""
    writer = None
    try:
        async with asyncio.timeout(_WITHIN_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=_MOST_LINE_BYTES)
            writer.write(request)
            status, *lines = (await reader.readuntil(b"\r\n\r\n")).rstrip().split(b"\r\n")
        headers = [
            (name.strip().lower(), value.strip())
            for name, _, value in (line.partition(b":") for line in lines)
        ]
        size = next((int(value) for name, value in headers if name == b"content-length"), 0)
        chunked = (b"transfer-encoding", b"chunked") in headers
        return _Answer(int(status.split(None, 2)[1]), headers, chunked, size, reader, writer)
    except (OSError, EOFError, TimeoutError, ValueError, IndexError, asyncio.LimitOverrunError):
        if writer is not None:
            writer.close()
        return None


async def _copied(answer: _Answer, receive: Receive, send: Send) -> None:
    """Pass the answer on until it ends or the client leaves."""
    headers = [header for header in answer.headers if header[0] in _PASSED_ON]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    async with asyncio.TaskGroup() as beside:
        copying = beside.create_task(_copy(answer, send))
        leaving = beside.create_task(_until_left(receive))
        await asyncio.wait((copying, leaving), return_when=asyncio.FIRST_COMPLETED)
        copying.cancel()
        leaving.cancel()


async def _copy(answer: _Answer, send: Send) -> None:
    last = b""
    try:
        async for data in _pieces(answer):
            await send({"type": "http.response.body", "body": data, "more_body": True})
    except (OSError, EOFError, ValueError):
        last = _LOST
    await send({"type": "http.response.body", "body": last})


async def _pieces(answer: _Answer) -> AsyncIterator[bytes]:
    """What the answer's body consists of, as it comes; raises ``EOFError`` where it breaks off."""
    reader = answer.reader
    if not answer.chunked:
        yield await reader.readexactly(answer.size)
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
