"""A stream that another worker of this server gives, passed on as it comes: the events of a run.

Without Redis a run's log is in the worker that runs it. Whoever is asked for it asks itself first; where
that says "no such run", its siblings, at their own sockets, and copies the first stream that is not
a 404. A client that leaves hangs up there too. A sibling that dies in the middle ends the stream with
the error that Redis' readers get: its log died with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.sibling_call import SILENT, SiblingAnswer, ask_sibling

_NOT_FOUND = 404
_WITHIN_S = 1.0
_PASSED_ON = frozenset({b"content-type", b"cache-control", b"x-accel-buffering"})
_LOST = b'data: {"type":"RUN_ERROR","message":"the worker that ran it was lost","code":"worker_lost"}\n\n'


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
        found.close()


async def _who_knows(sockets: Sequence[Path], request: bytes) -> SiblingAnswer | None:
    async with asyncio.TaskGroup() as at_once:
        asked = [at_once.create_task(_asked(path, request)) for path in sockets]
    found = [answer for each in asked if (answer := each.result()) is not None]
    known = [answer for answer in found if answer.status != _NOT_FOUND]
    for answer in found:
        if answer not in known[:1]:
            answer.close()
    return known[0] if known else None


async def _asked(path: Path, request: bytes) -> SiblingAnswer | None:
    """A sibling's answer; None where it is gone, or too slow."""
    with suppress(*SILENT):
        async with asyncio.timeout(_WITHIN_S):
            return await ask_sibling(path, request)
    return None


async def _copied(answer: SiblingAnswer, receive: Receive, send: Send) -> None:
    """Pass the answer on until it ends or the client leaves."""
    headers = [header for header in answer.headers if header[0] in _PASSED_ON]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    async with asyncio.TaskGroup() as beside:
        copying = beside.create_task(_copy(answer, send))
        leaving = beside.create_task(_until_left(receive))
        await asyncio.wait((copying, leaving), return_when=asyncio.FIRST_COMPLETED)
        copying.cancel()
        leaving.cancel()


async def _copy(answer: SiblingAnswer, send: Send) -> None:
    last = b""
    try:
        async for data in answer.pieces():
            await send({"type": "http.response.body", "body": data, "more_body": True})
    except SILENT:
        last = _LOST
    await send({"type": "http.response.body", "body": last})


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
