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

from app.api.sibling_call import SIBLING_ERRORS, SiblingResponse, ask_sibling

_NOT_FOUND = 404
_TIMEOUT_S = 1.0
_RELAYED_HEADERS = frozenset({b"content-type", b"cache-control", b"x-accel-buffering"})
_LOST_EVENT = (
    b'data: {"type":"RUN_ERROR","message":"the worker that ran it was lost",'
    b'"code":"worker_lost"}\n\n'
)


async def stream_from_owner(  # noqa: PLR0917 - ASGI's three, and whom to ask what
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    sockets: Sequence[Path],
    request: bytes,
) -> None:
    """Answer with ``app``; if it says 404, relay the response of the first sibling that does not."""
    unknown: list[Message] = []

    async def send_if_found(message: Message) -> None:
        if message.get("status") == _NOT_FOUND or unknown:
            unknown.append(message)
        else:
            await send(message)

    await app(scope, receive, send_if_found)
    if not unknown:
        return
    found = await _find_owner(sockets, request)
    if found is None:
        for message in unknown:
            await send(message)
        return
    try:
        await _relay(found, receive, send)
    finally:
        found.close()


async def _find_owner(sockets: Sequence[Path], request: bytes) -> SiblingResponse | None:
    async with asyncio.TaskGroup() as at_once:
        asked = [at_once.create_task(_ask(path, request)) for path in sockets]
    found = [answer for each in asked if (answer := each.result()) is not None]
    known = [answer for answer in found if answer.status != _NOT_FOUND]
    for answer in found:
        if answer not in known[:1]:
            answer.close()
    return known[0] if known else None


async def _ask(path: Path, request: bytes) -> SiblingResponse | None:
    """A sibling's response; None if the worker is gone or too slow."""
    with suppress(*SIBLING_ERRORS):
        async with asyncio.timeout(_TIMEOUT_S):
            return await ask_sibling(path, request)
    return None


async def _relay(answer: SiblingResponse, receive: Receive, send: Send) -> None:
    """Relay the response until it ends or the client disconnects."""
    headers = [header for header in answer.headers if header[0] in _RELAYED_HEADERS]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    async with asyncio.TaskGroup() as beside:
        copying = beside.create_task(_copy_body(answer, send))
        leaving = beside.create_task(_wait_for_disconnect(receive))
        await asyncio.wait((copying, leaving), return_when=asyncio.FIRST_COMPLETED)
        copying.cancel()
        leaving.cancel()


async def _copy_body(answer: SiblingResponse, send: Send) -> None:
    last = b""
    try:
        async for data in answer.body_chunks():
            await send({"type": "http.response.body", "body": data, "more_body": True})
    except SIBLING_ERRORS:
        last = _LOST_EVENT
    await send({"type": "http.response.body", "body": last})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
