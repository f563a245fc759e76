"""A request and its response on our own protocol, written without ASGI messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from logging import Logger
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.api.eager_task import CurrentTask, EagerTask
from app.upstream.request_head import KNOWN_LENGTHS, LENGTH_LINES

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

    from app.api.protocol import GatewayProtocol
    from app.upstream.rounds import Rounds

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}
_SIZES = tuple(b"%x\r\n" % size for size in range(1024))
"""The size lines of small chunks, such as those of tokens."""
_SIZED = len(_SIZES)
_FAILED = 500
NO_SCOPE: HTTPScope = {}  # type: ignore[typeddict-item]
_PLAIN = b"content-type: text/plain; charset=utf-8\r\n"


class NativeOutlet(RequestResponseCycle):
    """One request and its response, written without ASGI messages.

    ``head`` is what stands between the status line and the blank line, each line with its CRLF. The
    caller has made sure that no value holds a line break.
    """

    abort: Callable[[], None] | None = None
    """Called once when the client's connection ends before the response is complete."""
    disconnected = False
    keep_alive = True
    drains_request = False
    """Whether the client may still be sending at the end, see ``GatewayProtocol.drain_request``."""
    waiting_for_100_continue = False
    body: bytes | bytearray = b""  # type: ignore[assignment]
    more_body = True
    response_started = False
    response_complete = False
    _change: _ChangeEvent | None = None
    task: CurrentTask | None = None
    chunked_encoding: bool | None = None
    expected_content_length = 0
    access_log = False

    def __init__(self, protocol: GatewayProtocol) -> None:
        self.attach(protocol)

    def attach(self, protocol: GatewayProtocol) -> None:
        """Take what a response needs from its connection; what all share is in the class.

        All that a new one needs: whoever makes one for each request spares itself the call of its class,
        which costs twice as much.
        """
        self._protocol = protocol
        self.tasks: set[object] = protocol.tasks  # type: ignore[assignment]
        self.transport = protocol.transport
        self.flow = protocol.flow

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the connection."""
        return self._protocol.loop

    @property
    def rounds(self) -> Rounds:
        """The rounds of the loop."""
        return self._protocol.rounds

    # What only uvicorn's own half asks for (a response by ASGI messages) is made when it asks.

    @property
    def logger(self) -> Logger:  # type: ignore[override]
        """The error log of uvicorn."""
        return self._protocol.logger

    @property
    def access_logger(self) -> Logger:  # type: ignore[override]
        """The access log of uvicorn, which is off."""
        return self._protocol.access_logger

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        """The server's own headers."""
        return self._protocol.server_state.default_headers

    @property
    def on_response(self) -> Callable[..., None]:  # type: ignore[override]
        """To be called when the response is complete."""
        return self._protocol.on_response_complete

    @property
    def message_event(self) -> _ChangeEvent:  # type: ignore[override]
        """Set when a message arrives; created when ``receive`` first waits, already set if one has."""
        if self._change is None:
            self._change = _ChangeEvent()
            if self.body or not self.more_body or self.response_complete:
                self._change.set()
        return self._change

    def notify(self) -> None:
        """Set it."""
        if self._change is not None:
            self._change.set()

    def ended(self, task: EagerTask, raised: BaseException | None) -> None:
        """The application has returned; a failure or an incomplete response closes the connection."""
        self._protocol.tasks.discard(task)
        self.scope = NO_SCOPE  # which holds this outlet: no cycle is left
        if raised is None and (self.response_complete or self.disconnected):
            return
        if raised is not None:  # the server's edge, as in uvicorn itself
            self.logger.error("application_failed", exc_info=raised)
        else:
            self.logger.error("application_left_its_response_unfinished")
        if not self.response_started:
            self.keep_alive = False
            self.try_respond(_FAILED, _PLAIN, b"Internal Server Error")
        else:
            self.transport.close()

    @property
    def client_left(self) -> bool:
        """The client has left."""
        return self.disconnected

    def whole_body(self) -> bytes | None:
        """The request's whole body if it has arrived, else None."""
        return None if self.more_body else bytes(self.body)

    async def respond(self, status: int, head: bytes, body: bytes) -> None:
        """Send a complete response in one write."""
        self.try_respond(status, head, body)

    def try_respond(self, status: int, head: bytes, body: bytes) -> bool:
        """Send a complete response in one write, without waiting.

        What is left of the request's body is read before the connection ends, where it does: a reset for
        unread bytes would overtake the response.
        """
        self.send_whole((status_line(status), head), body)
        return True

    def send_whole(self, head: tuple[bytes, ...], body: bytes) -> None:
        """As ``try_respond``; ``head`` begins with the status line."""
        if self.disconnected:
            return
        self.response_started = self.response_complete = True
        protocol, keep_alive, transport = self._protocol, self.keep_alive, self.transport
        ours, lines = protocol.server_head
        if ours is not protocol.server_state.default_headers or not keep_alive:
            lines = self._server_head()
        size = len(body)
        length = LENGTH_LINES[size] if size < KNOWN_LENGTHS else b"content-length: %d\r\n" % size
        # One join: a format reads its template byte by byte.
        whole = b"".join((*head, length, lines, b"\r\n", body))
        rounds = protocol.rounds
        # One that ends is closed behind what it was told. Nothing of this connection can overtake what waits
        # here: what was pipelined behind it begins in the loop's next turn.
        if rounds.deferring_writes and keep_alive:
            rounds.pending_writes.append((transport.write, whole))
        else:
            transport.write(whole)
        if self._change is not None:
            self._change.set()
        if not keep_alive and not self.more_body:
            (protocol.drain_request if self.drains_request else transport.close)()
        protocol.on_response_complete()

    async def begin(self, status: int, head: bytes, first: bytes) -> None:
        """Send the head of a streamed response together with its first bytes (which may be empty)."""
        self.begin_now(status, head, first)

    def begin_now(self, status: int, head: bytes, first: bytes) -> None:
        """As ``begin``, without waiting."""
        self.send_first((status_line(status), head), first)

    def send_first(self, head: tuple[bytes, ...], first: bytes) -> None:
        """As ``begin_now``; ``head`` begins with the status line."""
        if self.disconnected:
            return
        self.response_started = self.chunked_encoding = True
        protocol, size = self._protocol, len(first)
        ours, lines = protocol.server_head
        if ours is not protocol.server_state.default_headers or not self.keep_alive:
            lines = self._server_head()
        chunk = (_size_line(size), first, b"\r\n") if size else ()
        self.transport.write(
            b"".join((*head, b"transfer-encoding: chunked\r\n", lines, b"\r\n", *chunk))
        )

    async def write(self, data: bytes) -> None:
        """Send more of a streamed response; waits while the client reads slowly (back-pressure)."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if not self.disconnected and data:
            self.transport.write(_chunk(data))

    def try_write(self, data: bytes, force: bool) -> bool:  # noqa: FBT001 - see the protocol
        """Send more without waiting; returns False, and sends nothing, if the client reads too slowly."""
        if self.disconnected:
            return True
        if self.flow.write_paused and not force:
            return False
        # _chunk(), without its calls: this is every token's.
        size = len(data)
        self.transport.write(
            b"".join((_SIZES[size] if size < _SIZED else b"%x\r\n" % size, data, b"\r\n"))
        )
        return True

    def direct(self) -> Callable[[bytes], bool]:
        """As ``try_write`` without force, for data that is framed as chunks already: nothing is copied."""
        flow, write = self.flow, self.transport.write

        def write_chunks(chunks: bytes) -> bool:
            if self.disconnected:
                return True
            if flow.write_paused:
                return False
            write(chunks)
            return True

        return write_chunks

    def write_comment(self, data: bytes) -> None:
        """Send ``data`` now unless the client is slow: a heartbeat must never wait."""
        if not self.disconnected and not self.flow.write_paused and not self.response_complete:
            self.transport.write(_chunk(data))

    async def end(self, data: bytes = b"") -> None:
        """Send the last bytes of a streamed response and its end."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        self.end_now(data)

    def end_now(self, data: bytes) -> None:
        """As ``end``, also to a slow client: what it has not read is buffered."""
        if not self.disconnected:
            size = len(data)
            last = b"".join((_size_line(size), data, b"\r\n0\r\n\r\n")) if size else b"0\r\n\r\n"
            self.transport.write(last)
            self._complete()

    def cut_connection(self) -> None:
        """Close the connection without ending the response, so that the client sees that it was cut."""
        if not self.disconnected:
            self.transport.close()

    def _server_head(self) -> bytes:
        """The server's own header lines (the date), which change once a second."""
        headers = self._protocol.server_state.default_headers
        remembered = self._protocol.server_head
        if remembered[0] is not headers:
            # Another connection may have printed them already: streams meet a new date nearly every time.
            shared = self._protocol.app_state
            remembered = shared.get("server_head", remembered)
            if remembered[0] is not headers:
                lines = b"".join([b"%s: %s\r\n" % header for header in headers])
                remembered = shared["server_head"] = (headers, lines)
            self._protocol.server_head = remembered
        return remembered[1] if self.keep_alive else remembered[1] + b"connection: close\r\n"

    def _complete(self) -> None:
        self.response_complete = True
        if self._change is not None:
            self._change.set()
        if not self.keep_alive:
            self.transport.close()
        self._protocol.on_response_complete()


def status_line(status: int) -> bytes:
    """The status line."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def _size_line(size: int) -> bytes:
    """The size line of a chunk of ``size`` bytes."""
    return _SIZES[size] if size < _SIZED else b"%x\r\n" % size


def _chunk(data: bytes) -> bytes:
    return b"".join((_size_line(len(data)), data, b"\r\n")) if data else b""


class _ChangeEvent:
    """``asyncio.Event`` for one waiter, at a fifth of its cost: one is made for every request."""

    __slots__ = ("_set", "_waiter")

    def __init__(self) -> None:
        self._set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._set = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def clear(self) -> None:
        self._set = False

    async def wait(self) -> None:
        if not self._set:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
