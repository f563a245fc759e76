"""A small HTTP/1.1 server for the simulator alone.

Why not an ordinary one: the simulator must be able to reset a TCP connection at a chosen byte,
close one with its chunked body left open, and know within a loop's turn that its peer hung up. It
speaks ASGI to its app, with one extension (`asgi.Connection`) for those. One task serves one
connection; requests on it are answered in order, each read whole before its app is called.

It is a test's and a demo's server: no TLS, no HTTP/2, no upgrade, loopback by default.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Self, cast
from urllib.parse import unquote

import httptools

from app.providers.simulator.asgi import CONNECTION_EXTENSION, App, Headers, Message, Scope

_LOG = logging.getLogger("slipstream.simulator")
_LINGER_NOT = struct.pack("ii", 1, 0)
_BACKLOG = 4_096


@dataclass(slots=True)
class _Request:
    """One request as the parser builds it."""

    method: str = ""
    url: bytes = b""
    headers: Headers = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    keeps_alive: bool = True
    is_too_large: bool = False


_Spawn = Callable[[Coroutine[None, None, None]], None]


class _Connection(asyncio.Protocol):
    """One TCP connection: parser callbacks in, ASGI calls out."""

    def __init__(self, app: App, spawn: _Spawn, open_ones: set[_Connection], limit: int) -> None:
        self._app = app
        self._spawn = spawn
        self._open_ones = open_ones
        self._max_body_bytes = limit
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._building = _Request()
        self._waiting: deque[_Request] = deque()
        self._arrived = asyncio.Event()
        self._gone = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._open_ones.add(self)
        self._spawn(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._open_ones.discard(self)
        self._gone.set()
        self._arrived.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.close()
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.write(
                    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                )
            self.close()

    # -- httptools

    def on_message_begin(self) -> None:
        self._building = _Request()

    def on_url(self, url: bytes) -> None:
        self._building.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"expect" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._building.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._building.method = self._parser.get_method().decode("ascii")
        self._building.keeps_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        request = self._building
        if len(request.body) + len(body) > self._max_body_bytes:
            request.is_too_large = True
            request.body.clear()
        if not request.is_too_large:
            request.body += body

    def on_message_complete(self) -> None:
        self._waiting.append(self._building)
        self._arrived.set()

    # -- asgi.Connection

    def reset(self) -> None:
        """End the connection by a TCP reset."""
        if self._transport is None:
            return
        known = cast("socket.socket | None", self._transport.get_extra_info("socket"))
        if known is not None and known.fileno() >= 0:
            # A duplicate reaches the same socket, and works under uvloop's stand-in too.
            with socket.socket(fileno=os.dup(known.fileno())) as twin:
                twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._transport.abort()

    def close(self) -> None:
        """Send what was written, then close in order."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once, without regard for what is still to be sent."""
        if self._transport is not None:
            self._transport.abort()

    # -- serving

    async def _serve(self) -> None:
        """Answer this connection's requests until it ends."""
        while not self._gone.is_set():
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            request = self._waiting.popleft()
            exchange = _Exchange(self, request)
            try:
                await self._app(exchange.scope(), exchange.receive, exchange.send)
            except Exception:  # noqa: BLE001  # logged with its traceback
                # The edge of this server: a broken answer must not take the others with it.
                _LOG.exception("simulator_request_failed")
                self.close()
                return
            if not (exchange.is_complete and request.keeps_alive):
                self.close()
                return

    async def wait_gone(self) -> None:
        """Return when the peer has left."""
        await self._gone.wait()

    async def write(self, data: bytes) -> None:
        """Write, and wait while the peer reads too slowly."""
        if self._transport is None or self._gone.is_set():
            return
        self._transport.write(data)
        await self._writable.wait()


class _Exchange:
    """One request and its response, as ASGI sees them."""

    def __init__(self, connection: _Connection, request: _Request) -> None:
        self._connection = connection
        self._request = request
        self._body_is_read = False
        self._head: bytes | None = None
        self._is_chunked = False
        self._is_begun = False
        self.is_complete = False

    def scope(self) -> Scope:
        """The request's ASGI scope. A body over the limit is marked by `too_large`."""
        url = httptools.parse_url(self._request.url)
        path = url.path.decode("latin-1")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self._request.method,
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "root_path": "",
            "headers": self._request.headers,
            "client": None,
            "server": None,
            "extensions": {CONNECTION_EXTENSION: self._connection},
            "too_large": self._request.is_too_large,
        }

    async def receive(self) -> Message:
        """The body, whole; then, when the peer leaves, `http.disconnect`."""
        if not self._body_is_read:
            self._body_is_read = True
            return {"type": "http.request", "body": bytes(self._request.body), "more_body": False}
        await self._connection.wait_gone()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Put a response's start or a part of its body on the wire."""
        if message["type"] == "http.response.start":
            self._begin(message)
            return
        body = cast("bytes", message.get("body", b""))
        is_last = not message.get("more_body", False)
        await self._connection.write(self._framed(body, is_last=is_last))
        self.is_complete = is_last

    def _begin(self, message: Message) -> None:
        status = cast("int", message["status"])
        headers = cast("Headers", message.get("headers", []))
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Overloaded"
        lines = [f"HTTP/1.1 {status} {phrase}\r\n".encode()]
        lines += [name + b": " + value + b"\r\n" for name, value in headers]
        if not self._request.keeps_alive:
            lines.append(b"connection: close\r\n")
        self._is_chunked = all(name != b"content-length" for name, _ in headers)
        if self._is_chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        self._head = b"".join(lines) + b"\r\n"

    def _framed(self, body: bytes, *, is_last: bool) -> bytes:
        if self._head is None:
            raise RuntimeError("a body was sent before its http.response.start")
        head = b"" if self._is_begun else self._head
        self._is_begun = True
        if not self._is_chunked:
            return head + body
        part = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return head + part + (b"0\r\n\r\n" if is_last else b"")


class Listener:
    """A listening server as a context: entered it accepts, left it has ended every connection.

    `port` 0 takes a free one; `bound_port` says which. Leaving cancels what is still being
    answered; no task outlives it.
    """

    def __init__(self, app: App, host: str, port: int, *, max_body_bytes: int) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._max_body_bytes = max_body_bytes
        self._stack = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open_ones: set[_Connection] = set()
        self.bound_port = port

    async def __aenter__(self) -> Self:
        """Bind and accept. Raises `OSError` when the address cannot be had."""
        group = await self._stack.enter_async_context(asyncio.TaskGroup())

        def spawn(work: Coroutine[None, None, None]) -> None:
            task = group.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self._app, spawn, self._open_ones, self._max_body_bytes),
            self._host,
            self._port,
            backlog=_BACKLOG,
        )
        self._stack.callback(self._end_tasks)
        self._stack.callback(server.close)
        self.bound_port = cast("int", server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop accepting, end every connection, and wait for their tasks."""
        await self._stack.__aexit__(exc_type, exc, traceback)

    def _end_tasks(self) -> None:
        for connection in tuple(self._open_ones):
            connection.abort()
        for task in tuple(self._tasks):
            task.cancel()
