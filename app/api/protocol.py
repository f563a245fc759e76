"""Our HTTP class for uvicorn: the same parser and rules, with three things that ASGI cannot say.

* A connection that ends calls ``abort`` of the response under way, at once and without a second task per
  request that waits for ``http.disconnect`` (measured on the prototype: about 0.2 us against 10).
* Head and first bytes of a response go out in one write (5-17 us less a request on uvloop, which writes
  at once).
* A head must be whole within ``HEAD_WITHIN_S``, a request within ``BODY_WITHIN_S``: uvicorn itself lets
  a slow sender hold a connection for ever.

Everything else is uvicorn's. An application finds the native outlet in ``scope["extensions"]["slipstream"]``;
under any other server there is none, and ``AsgiOutlet`` serves.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from collections.abc import Callable
from enum import IntEnum
from http import HTTPStatus
from logging import Logger
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_WITHIN_S = 10.0
"""From a connection's first moment, or a request's first byte, to the end of its head."""
BODY_WITHIN_S = 60.0
"""From a request's first byte to its last: 16 MiB at 280 KiB/s."""
IDLE_FOR_S = 75.0
"""Between requests; longer than the 60 s for which load balancers commonly keep their connections."""
LOOK_EVERY_S = 2.5
_MOST_TARGETS = 256
_MAX_HEAD_BYTES = 65_536
_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}
_TIMEOUT_RESPONSE = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)
_TOO_LARGE_RESPONSE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class NativeOutlet(RequestResponseCycle):
    """One request and its response, written without the detour through ASGI messages.

    ``head`` is what stands between the status line and the blank line, each line with its CRLF. The
    caller has made sure that no value holds a line break.
    """

    abort: Callable[[], None] | None = None
    """Called once when the client's connection ends before the response is complete."""
    disconnected = False
    waiting_for_100_continue = False
    body: bytes | bytearray = b""  # type: ignore[assignment]
    more_body = True
    response_started = False
    response_complete = False
    _news: _News | None = None
    task: asyncio.Task[None]
    chunked_encoding: bool | None = None
    expected_content_length = 0
    access_log = False

    def __init__(self, protocol: GatewayProtocol, *, keep_alive: bool) -> None:
        """Take what a response needs from its connection; what is the same for all stands in the class."""
        self._protocol = protocol
        self.scope = protocol.scope
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.keep_alive = keep_alive
        if protocol.expect_100_continue:
            self.waiting_for_100_continue = True

    # What only uvicorn's own half asks for (a response by ASGI messages) is made when it asks.

    @property
    def logger(self) -> Logger:  # type: ignore[override]
        """The log of errors of uvicorn."""
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
    def message_event(self) -> _News:  # type: ignore[override]
        """Set by what arrives; made when ``receive`` first waits for it, and set if that has come already."""
        if self._news is None:
            self._news = _News()
            if self.body or not self.more_body or self.response_complete:
                self._news.set()
        return self._news

    def tell(self) -> None:
        """Something has arrived."""
        if self._news is not None:
            self._news.set()

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Run the application; one that fails, or ends without a whole response, costs the connection."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException:  # the server's edge, as in uvicorn itself
            self.logger.exception("application_failed")
        else:
            if self.response_complete or self.disconnected:
                return
            self.logger.error("application_left_its_response_unfinished")
        finally:
            # Here rather than in a callback of the task, which would be one more turn of the loop.
            self._protocol.tasks.discard(self.task)
        if not self.response_started:
            await self.send_500_response()
        else:
            self.transport.close()

    @property
    def gone(self) -> bool:
        """The client has left."""
        return self.disconnected

    def whole_body(self) -> bytes | None:
        """The request's body if all of it is here, else None."""
        return None if self.more_body else bytes(self.body)

    async def respond(self, status: int, head: bytes, body: bytes) -> None:
        """Send a complete response in one write."""
        if self.disconnected:
            return
        self.response_started = True
        self.transport.write(
            b"%s%scontent-length: %d\r\n%s\r\n%s"
            % (_status_line(status), head, len(body), self._server_head(), body)
        )
        self._complete()

    async def begin(self, status: int, head: bytes, first: bytes) -> None:
        """Send the head of a streamed response together with its first bytes (which may be empty)."""
        if self.disconnected:
            return
        self.response_started = True
        self.chunked_encoding = True
        self.transport.write(
            b"%s%stransfer-encoding: chunked\r\n%s\r\n%s"
            % (_status_line(status), head, self._server_head(), _chunk(first))
        )

    async def write(self, data: bytes) -> None:
        """Send more of a streamed response; waits while the client reads more slowly than we write."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if not self.disconnected and data:
            self.transport.write(b"%x\r\n%s\r\n" % (len(data), data))

    def try_write(self, data: bytes, force: bool) -> bool:  # noqa: FBT001 - see the protocol
        """Send more without waiting: False, and nothing sent, to a client that reads too slowly."""
        if self.disconnected:
            return True
        if self.flow.write_paused and not force:
            return False
        self.transport.write(b"%x\r\n%s\r\n" % (len(data), data))
        return True

    def beat(self, data: bytes) -> None:
        """Send ``data`` now unless the client is slow: a sign of life must never wait."""
        if not self.disconnected and not self.flow.write_paused and not self.response_complete:
            self.transport.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self, data: bytes = b"") -> None:
        """Send the last bytes of a streamed response and its end."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if not self.disconnected:
            self.transport.write(b"%s0\r\n\r\n" % _chunk(data))
            self._complete()

    def break_off(self) -> None:
        """End the connection without ending the response: the client must see that it was cut."""
        if not self.disconnected:
            self.transport.close()

    def _server_head(self) -> bytes:
        """The server's own lines (the date), which change once a second."""
        headers = self._protocol.server_state.default_headers
        remembered = self._protocol.server_head
        if remembered[0] is not headers:
            lines = b"".join(b"%s: %s\r\n" % header for header in headers)
            remembered = self._protocol.server_head = (headers, lines)
        return remembered[1] if self.keep_alive else remembered[1] + b"connection: close\r\n"

    def _complete(self) -> None:
        self.response_complete = True
        self.tell()
        if not self.keep_alive:
            self.transport.close()
        self._protocol.on_response_complete()


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""


class _News:
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


class _Phase(IntEnum):
    """What a connection is waiting for."""

    HEAD = 0
    BODY = 1
    ANSWER = 2
    NEXT = 3


# Members of an enumeration cost a look-up each time; these are set on every request.
_HEAD, _BODY, _ANSWER, _NEXT = _Phase.HEAD, _Phase.BODY, _Phase.ANSWER, _Phase.NEXT
_PATIENCE_S = {
    _Phase.HEAD: HEAD_WITHIN_S,
    _Phase.BODY: BODY_WITHIN_S,
    _Phase.ANSWER: float("inf"),
    _Phase.NEXT: IDLE_FOR_S,
}


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol with native outlets, prompt aborts and an end to slow senders.

    One timer a connection looks every few seconds at how long the present phase has lasted: to begin or end a
    phase is an assignment, and a request arms no timer.
    """

    server_head: tuple[object, bytes] = (None, b"")
    """The server's header lines, and the list that they were made of."""
    _phase = _Phase.HEAD
    _since_s = 0.0
    _look: TimerHandle | None = None
    _first_bytes = 0
    """Size of the read in which the message began; may hold another's body too."""
    _in_head = False
    _is_first = False
    """The message began in the read at hand."""
    _later_bytes = 0
    """Of a head under way, read after the read in which it began."""
    _fed_bytes = 0
    """Size of the read at hand."""
    _scope_of_all: dict[str, object]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._scope_of_all = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
        }
        self._since_s = self.loop.time()
        self._look = self.loop.call_later(LOOK_EVERY_S, self._look_at_phase)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every response that is not complete that its client has left."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        super().connection_lost(exc)
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        for cycle in (self.cycle, *waiting):
            if isinstance(cycle, NativeOutlet) and not cycle.response_complete:
                cycle.disconnected = True
                if cycle.abort is not None:
                    cycle.abort()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; what is not HTTP gets a 400 and the connection's end."""
        parser: httptools.HttpRequestParser | None = self.parser
        if parser is None:
            return
        self._fed_bytes, self._is_first = len(data), False
        try:
            parser.feed_data(data)
            if self._in_head and not self._is_first:
                self._later_bytes += len(data)
                if self._later_bytes > _MAX_HEAD_BYTES:
                    self._refuse_head()
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        except httptools.HttpParserError:
            if not self.transport.is_closing():
                self.send_400_response("Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        """A request begins."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        scope = self._scope_of_all.copy()
        scope["headers"], scope["state"] = self.headers, self.app_state.copy()
        self.scope = scope  # type: ignore[assignment]
        self._in_head = self._is_first = True
        self._first_bytes, self._later_bytes = self._fed_bytes, 0
        self._phase, self._since_s = _HEAD, self.loop.time()

    def _refuse_head(self) -> None:
        """Say that the head is over 64 KiB, and end the connection."""
        if not self.transport.is_closing():
            self.transport.write(_TOO_LARGE_RESPONSE)
            self.transport.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header. Trailers, which come behind a chunked body, are nobody's business."""
        if not self._in_head:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Make the outlet and start the application, or queue a pipelined request."""
        # Reads hold bodies too: what they hold together bounds the head, and is seldom over its limit.
        if self._first_bytes + self._later_bytes + self._fed_bytes > _MAX_HEAD_BYTES:
            head_bytes = sum(len(name) + len(value) for name, value in self.headers)
            if head_bytes > _MAX_HEAD_BYTES:
                self._refuse_head()
        self._in_head = False
        if self.transport.is_closing():
            return
        self._phase = _BODY
        parser, scope = self.parser, self.scope
        http_version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if http_version != "1.1":
            scope["http_version"] = http_version
        scope["path"], scope["raw_path"], scope["query_string"] = self._target()
        previous: RequestResponseCycle | None = self.cycle
        keep_alive = http_version != "1.0" and parser.should_keep_alive()
        outlet = NativeOutlet(self, keep_alive=keep_alive)
        scope["extensions"] = {"slipstream": outlet}  # type: ignore[dict-item]
        self.cycle = outlet
        if previous is None or previous.response_complete:
            self._start(outlet)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((outlet, self.app))

    def _target(self) -> tuple[str, bytes, bytes]:
        """Path, raw path and query of the request; the few targets that come often are remembered."""
        known: dict[bytes, tuple[str, bytes, bytes]] = self.app_state.setdefault("targets", {})
        found = known.get(self.url)
        if found is None:
            url = httptools.parse_url(self.url)
            path = url.path.decode("ascii")
            path = self.root_path + (unquote(path) if "%" in path else path)
            found = (path, self.root_path.encode("ascii") + url.path, url.query or b"")
            if len(known) < _MOST_TARGETS:
                known[self.url] = found
        return found

    def _start(self, outlet: NativeOutlet) -> None:
        outlet.task = task = self.loop.create_task(outlet.run_asgi(self.app))
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body: the first, which mostly is the only one, as it is."""
        cycle: NativeOutlet = self.cycle  # type: ignore[assignment]
        if cycle.response_complete:
            return
        if cycle.body:
            kept = cycle.body
            cycle.body = kept if type(kept) is bytearray else bytearray(kept)
            cycle.body += body
        else:
            cycle.body = body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.tell()

    def on_message_complete(self) -> None:
        """The request is whole."""
        cycle: NativeOutlet = self.cycle  # type: ignore[assignment]
        if not cycle.response_complete:
            self._phase = _ANSWER
            cycle.more_body = False
            cycle.tell()

    def on_response_complete(self) -> None:
        """Go on with a pipelined request, or wait for the next."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._phase, self._since_s = _NEXT, self.loop.time()
        if self.pipeline:
            cycle, _ = self.pipeline.pop()
            self._phase = _Phase.BODY if cycle.more_body else _Phase.ANSWER
            if isinstance(cycle, NativeOutlet):
                self._start(cycle)

    def _look_at_phase(self) -> None:
        """End the connection when its phase has lasted too long."""
        self._look = None
        if self.transport.is_closing():
            return
        if self.loop.time() - self._since_s < _PATIENCE_S[self._phase]:
            self._look = self.loop.call_later(LOOK_EVERY_S, self._look_at_phase)
            return
        answered: bool = self.cycle is not None and self.cycle.response_started  # type: ignore[redundant-expr]
        if self._phase is not _Phase.NEXT and not (self._phase is _Phase.BODY and answered):
            self.transport.write(_TIMEOUT_RESPONSE)
        self.transport.close()
