"""Where a response goes: the native outlet of our own server class, or any ASGI server's ``send``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from starlette.types import Receive, Scope, Send

from app.api.eager_task import CurrentTask


class Outlet(Protocol):
    """Writes one response. ``head`` is header lines, each with its CRLF, without the status line.

    Writing to a client that has left does nothing; ``abort`` is called once when it leaves.
    """

    abort: Callable[[], None] | None
    keep_alive: bool
    """Whether the connection stays open after this response; set it before it starts."""
    drains_request: bool
    """Where it does not: read what the client still sends, so that no reset overtakes the response."""
    task: CurrentTask | None
    """The task that serves the request, where the outlet knows it."""

    @property
    def client_left(self) -> bool:
        """The client has left."""
        ...

    def whole_body(self) -> bytes | None:
        """The request's whole body if it has arrived, else None."""
        ...

    async def respond(self, status: int, head: bytes, body: bytes) -> None:
        """Send a complete response."""
        ...

    def try_respond(self, status: int, head: bytes, body: bytes) -> bool:
        """Send a complete response without waiting; returns False, and sends nothing, if it would wait."""
        ...

    async def begin(self, status: int, head: bytes, first: bytes) -> None:
        """Start a streamed response."""
        ...

    async def write(self, data: bytes) -> None:
        """Send more; awaiting it is the back-pressure."""
        ...

    async def end(self, data: bytes = b"") -> None:
        """Send the last bytes and end the response."""
        ...

    def try_write(self, data: bytes, force: bool) -> bool:  # noqa: FBT001 - a token's path: a keyword costs as much
        """Send more without waiting; returns False, and sends nothing, if it would wait.

        ``force`` sends also to a client that reads too slowly: what it has not read is kept in memory.
        """
        ...

    def write_comment(self, data: bytes) -> None:
        """Send a heartbeat if that is possible without waiting."""
        ...

    def cut_connection(self) -> None:
        """Close the connection without ending the response."""
        ...


class ConnectionCut(Exception):  # an event, not an error: it tells the server to cut the connection
    """Raised out of the application so that an ASGI server cuts the connection."""


class AsgiOutlet:
    """An outlet over plain ASGI: correct under every server, with one more task per request."""

    abort: Callable[[], None] | None = None
    task: CurrentTask | None = None
    keep_alive = True
    drains_request = False

    def __init__(self, receive: Receive, send: Send) -> None:
        """Write through ``send``; learn of a disconnect through ``receive``."""
        self._receive, self._send = receive, send
        self._gone = False
        self._beating: asyncio.Task[None] | None = None

    @property
    def client_left(self) -> bool:
        """The client has left."""
        return self._gone

    async def watch(self) -> None:
        """Wait for the client to disconnect; run it beside the response and cancel it after."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
        self._gone = True
        if self.abort is not None:
            self.abort()

    async def respond(self, status: int, head: bytes, body: bytes) -> None:
        """Send a complete response."""
        await self._start(status, head + b"content-length: %d\r\n" % len(body))
        await self._send({"type": "http.response.body", "body": body})

    def whole_body(self) -> None:
        """Return None: it has yet to be received."""

    def try_respond(self, status: int, head: bytes, body: bytes) -> bool:  # noqa: ARG002 - the protocol's
        """Return False: ``send`` may wait."""
        return False

    async def begin(self, status: int, head: bytes, first: bytes) -> None:
        """Start a streamed response."""
        await self._start(status, head)
        if first:
            await self.write(first)

    async def _start(self, status: int, head: bytes) -> None:
        lines = (line.partition(b": ") for line in head.split(b"\r\n") if line)
        headers = [(name, value) for name, _, value in lines]
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        """Send more; awaiting it is the back-pressure."""
        if self._beating is not None:
            await self._beating  # two sends at once would be the server's to sort out
            self._beating = None
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def try_write(self, data: bytes, force: bool) -> bool:  # noqa: ARG002, FBT001 - the protocol's
        """Return False: ``send`` may wait, whatever it is given."""
        return False

    async def end(self, data: bytes = b"") -> None:
        """Send the last bytes and end the response."""
        if self._beating is not None:
            await self._beating
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    def write_comment(self, data: bytes) -> None:
        """Send a heartbeat from a task of its own: only the response's own task could await it."""
        if self._beating is None or self._beating.done():
            self._beating = asyncio.get_running_loop().create_task(self._beat(data))

    async def _beat(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def cut_connection(self) -> None:
        """Cut the connection: the server does so when the application raises."""
        raise ConnectionCut


def outlet_of(scope: Scope, receive: Receive, send: Send) -> Outlet:
    """The best outlet that this server offers; for HEAD the server's own, which omits bodies."""
    native: Outlet | None = (scope.get("extensions") or {}).get("slipstream")
    if native is None or scope["method"] == "HEAD":
        return AsgiOutlet(receive, send)
    return native
