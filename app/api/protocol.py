"""Our HTTP class for uvicorn: the same parser and rules, with four things that ASGI cannot say.

* A connection that ends calls ``abort`` of the response under way, at once and without a second task per
  request that waits for ``http.disconnect`` (measured on the prototype: about 0.2 us against 10).
* Head and first bytes of a response go out in one write (5-17 us less a request on uvloop, which writes
  at once).
* A request like the one before on its connection is known by its bytes (``app.api.head_template``) and goes
  straight to its endpoint, past the parser, the ASGI scope and the application's layers.
* A head must be whole within ``HEAD_WITHIN_S``, a request within ``BODY_WITHIN_S``, and a client that has
  something to read must read of it within ``READ_WITHIN_S``: uvicorn itself lets a slow sender or reader
  hold a connection for ever.

Everything else is uvicorn's. An application finds the native outlet in ``scope["extensions"]["slipstream"]``;
under any other server there is none, and ``AsgiOutlet`` serves.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from collections.abc import Mapping
from enum import IntEnum
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.api.connection_errors import TIMEOUT_RESPONSE, TOO_LARGE_RESPONSE
from app.api.eager_task import EagerTask
from app.api.head_template import Endpoint, HeadTemplate, learn_head
from app.api.native import NO_SCOPE, NativeOutlet
from app.upstream.rounds import Rounds, rounds_of

HEAD_WITHIN_S = 10.0
"""From a connection's first moment, or a request's first byte, to the end of its head."""
BODY_WITHIN_S = 60.0
"""From a request's first byte to its last: 16 MiB at 280 KiB/s."""
IDLE_FOR_S = 75.0
"""Between requests; longer than the 60 s for which load balancers commonly keep their connections."""
REST_WITHIN_S = 10.0
"""How long the rest of a body is read after an early response, so that no reset overtakes it."""
READ_WITHIN_S = 60.0
"""How long a client with unread data may read nothing of it."""
CHECK_INTERVAL_S = 2.5
LAST_CHANCE_S = 1.0
"""For the first request of a connection that was made just as the server stopped listening."""
_MAX_TARGETS = 256
_MAX_HEAD_BYTES = 65_536
_MAX_LESSONS = 8
_NONE: dict[str, Endpoint] = {}
_new = object.__new__


class Phase(IntEnum):
    """What a connection is waiting for."""

    HEAD = 0
    BODY = 1
    ANSWER = 2
    NEXT = 3
    REST = 4


# Members of an enumeration cost a look-up each time; these are set on every request.
_HEAD, _BODY, _ANSWER, _NEXT = Phase.HEAD, Phase.BODY, Phase.ANSWER, Phase.NEXT
_PHASE_LIMIT_S = {
    Phase.HEAD: HEAD_WITHIN_S,
    Phase.BODY: BODY_WITHIN_S,
    Phase.ANSWER: float("inf"),
    Phase.NEXT: IDLE_FOR_S,
    Phase.REST: REST_WITHIN_S,
}


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol with native outlets, prompt aborts and an end to slow senders.

    One timer a connection looks every few seconds at how long the present phase has lasted: to begin or end a
    phase is an assignment, and a request arms no timer.
    """

    phase_limit_s: Mapping[Phase, float] = _PHASE_LIMIT_S
    read_within_s = READ_WITHIN_S
    check_interval_s = CHECK_INTERVAL_S
    server_head: tuple[object, bytes] = (None, b"")
    """The server's header lines, and the list that they were made of."""
    _phase = Phase.HEAD
    _phase_since_s = 0.0
    _check_timer: TimerHandle | None = None
    _first_bytes = 0
    """Size of the read in which the message began; may hold another's body too."""
    _in_head = False
    _is_first = False
    """Whether the message began in the current read."""
    _later_bytes = 0
    """Bytes of an incomplete head that came after its first read."""
    _fed_bytes = 0
    """Size of the current read."""
    _unread_bytes = 0
    """Size of the write buffer at the last check."""
    _unread_since_s = 0.0
    """When it last shrank."""
    _response_unread = False
    """Whether the client has not read its last response: its next request has to wait."""
    _scope_of_all: dict[str, object]
    _message_data = b""
    """The current read, while a message that begins it may be remembered."""
    _between_messages = True
    """Whether the parser is between messages."""
    _known_head: HeadTemplate | None = None
    """Template of the last head."""
    _other_head: HeadTemplate | None = None
    """Template of the one before it."""
    _held_head = b""
    """A known head whose body has yet to come: the official packages write the two apart."""
    _draining_request = False
    """The last response is sent; what the client still sends is discarded."""
    _lessons_left = _MAX_LESSONS
    """How many more heads may be remembered before one repeats."""
    rounds: Rounds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for the first request."""
        super().connection_made(transport)
        self.rounds = rounds_of(self.loop)
        self._scope_of_all = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
        }
        self._phase_since_s = self.loop.time()
        self._check_timer = self.loop.call_later(self.check_interval_s, self._check_phase)

    def shutdown(self) -> None:
        """Close the connection once it is idle; a new one may still send its first request."""
        self.rounds.run_all()
        self._feed_held_head()
        last: RequestResponseCycle | None = self.cycle
        if last is None and not self.transport.is_closing():
            self.loop.call_later(LAST_CHANCE_S, super().shutdown)
            return
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every incomplete response that its client has disconnected."""
        self.rounds.run_all()
        if self._check_timer is not None:
            self._check_timer.cancel()
            self._check_timer = None
        super().connection_lost(exc)
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        for cycle in (self.cycle, *waiting):
            if isinstance(cycle, NativeOutlet) and not cycle.response_complete:
                cycle.disconnected = True
                if cycle.abort is not None:
                    cycle.abort()
        # Both hold this: without them nothing of a connection is left to the garbage collector.
        self.cycle, self.scope = None, NO_SCOPE  # type: ignore[assignment]

    def eof_received(self) -> None:
        """The client finished sending: process its queued reads before uvicorn closes the connection."""
        self.rounds.run_all()
        super().eof_received()

    def receive_failed(self, error: Exception) -> None:
        """``data_received`` has raised in a round: as the loop does."""
        self.logger.error("reading_failed", exc_info=error)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, now or in this turn's round; what is not HTTP gets a 400 and an end."""
        rounds = self.rounds
        if not rounds.direct_reads:
            rounds.enqueue_read(self, data)
            return
        rounds.direct_reads -= 1
        parser: httptools.HttpRequestParser | None = self.parser
        if parser is None:
            return
        known = self._known_head
        if known is not None:
            if self._between_messages:
                body = known.match(data)
                if body is not None:
                    if self.cycle.response_complete:
                        self._answer(known, body)
                        return
                elif self.cycle.response_complete and self._hold_head(known, data):
                    return
            elif self._held_head:
                data, self._held_head, self._between_messages = self._held_head + data, b"", True
                body = known.match(data)
                if body is not None:
                    self._answer(known, body)
                    return
                self._lessons_left = _MAX_LESSONS
        self._feed(data)

    def _hold_head(self, known: HeadTemplate, data: bytes) -> bool:
        """Hold ``data`` until its body comes if it is the head ``known`` alone; then try the other head."""
        if not known.matches_head_only(data):
            other = self._other_head
            if other is None:
                return False
            body = other.match(data)
            if body is None and not other.matches_head_only(data):
                return False
            self._known_head, self._other_head = other, known
            if body is not None:
                self._answer(other, body)
                return True
        self._held_head, self._between_messages = data, False
        self._phase, self._phase_since_s = _BODY, self.loop.time()
        return True

    def _feed_held_head(self) -> None:
        """Parse the head that is held for its body, if there is one."""
        if self._held_head:
            data, self._held_head, self._between_messages = self._held_head, b"", True
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        """Parse ``data``."""
        parser = self.parser
        self._fed_bytes, self._is_first, self._message_data = len(data), False, data
        try:
            parser.feed_data(data)
            if self._in_head and not self._is_first:
                self._later_bytes += len(data)
                if self._later_bytes > _MAX_HEAD_BYTES:
                    self._refuse_head()
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        except httptools.HttpParserError:
            if not (self._draining_request or self.transport.is_closing()):
                self.send_400_response("Invalid HTTP request received.")

    def _answer(self, known: HeadTemplate, body: bytes) -> None:
        """Serve a whole request whose head is known."""
        self.cycle = outlet = _new(NativeOutlet)
        outlet.attach(self)
        outlet.body, outlet.more_body = body, False
        self._phase, self._lessons_left = _ANSWER, _MAX_LESSONS
        coroutine = known.endpoint.answer(outlet, known)
        if coroutine is None:
            return
        task = EagerTask(self.loop, coroutine, outlet.ended)
        outlet.task = task
        self.tasks.add(task)  # type: ignore[arg-type]
        task.start()

    def on_message_begin(self) -> None:
        """A request begins."""
        if not self._between_messages or self._is_first:
            self._message_data = b""  # the message does not begin the read: nothing to remember
        self._between_messages = False
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        scope = self._scope_of_all.copy()
        scope["headers"], scope["state"] = self.headers, self.app_state.copy()
        self.scope = scope  # type: ignore[assignment]
        self._in_head = self._is_first = True
        self._first_bytes, self._later_bytes = self._fed_bytes, 0
        self._phase, self._phase_since_s = _HEAD, self.loop.time()

    def _refuse_head(self) -> None:
        """Respond that the head is over 64 KiB, and close the connection."""
        if not self.transport.is_closing():
            self.transport.write(TOO_LARGE_RESPONSE)
            self.drain_request()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; trailers, which follow a chunked body, are ignored."""
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
        if self._draining_request or self.transport.is_closing():
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
        outlet = NativeOutlet(self)
        outlet.scope, outlet.keep_alive = scope, keep_alive
        if self.expect_100_continue:
            outlet.waiting_for_100_continue = True
        if self._message_data and keep_alive:
            self._learn_head(scope["path"])
        scope["extensions"] = {"slipstream": outlet}  # type: ignore[dict-item]
        self.cycle = outlet
        if previous is None or previous.response_complete:
            self._start(outlet)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((outlet, self.app))

    def _target(self) -> tuple[str, bytes, bytes]:
        """Path, raw path and query of the request; frequent targets are remembered."""
        known: dict[bytes, tuple[str, bytes, bytes]] = self.app_state.setdefault("targets", {})
        found = known.get(self.url)
        if found is None:
            url = httptools.parse_url(self.url)
            path = url.path.decode("ascii")
            path = self.root_path + (unquote(path) if "%" in path else path)
            found = (path, self.root_path.encode("ascii") + url.path, url.query or b"")
            if len(known) < _MAX_TARGETS:
                known[self.url] = found
        return found

    def _learn_head(self, path: str) -> None:
        """Remember the current head, if the endpoint of ``path`` can be called without ASGI."""
        data, self._message_data, before = self._message_data, b"", self._known_head
        natives: dict[str, Endpoint] = getattr(self.app, "native", _NONE)
        endpoint = natives.get(path)
        parser = self.parser
        if endpoint is None or not self._lessons_left or parser.should_upgrade():
            return
        self._lessons_left -= 1
        known = learn_head(data, parser.get_method(), self.url, self.headers, endpoint)
        if known is not None and endpoint.remember(known, self.headers):
            if before is not None and not before.is_same(known):
                self._other_head = before
            self._known_head = known

    def forget_heads(self) -> None:
        """Forget all heads: another application serves from the next request on."""
        self.rounds.run_all()
        self._feed_held_head()
        self._known_head, self._other_head = None, None
        self._message_data, self._lessons_left = b"", _MAX_LESSONS

    def _start(self, outlet: NativeOutlet) -> None:
        application = self.app(outlet.scope, outlet.receive, outlet.send)
        outlet.task = task = EagerTask(self.loop, application, outlet.ended)
        self.tasks.add(task)  # type: ignore[arg-type]
        task.start_soon()

    def on_body(self, body: bytes) -> None:
        """Store a piece of the body; the first, mostly the only one, without copying."""
        cycle: NativeOutlet = self.cycle  # type: ignore[assignment]
        if cycle.response_complete:
            self._phase = Phase.REST
            return
        if cycle.body:
            kept = cycle.body
            cycle.body = kept if type(kept) is bytearray else bytearray(kept)
            cycle.body += body
        else:
            cycle.body = body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.notify()

    def on_message_complete(self) -> None:
        """The request is complete."""
        cycle: NativeOutlet = self.cycle  # type: ignore[assignment]
        if not cycle.response_complete:
            self._phase = _ANSWER
            cycle.more_body = False
            self._between_messages = cycle.keep_alive
            cycle.notify()
        elif cycle.more_body:  # answered before it was whole, such as one with a wrong key
            cycle.more_body = False
            # Whoever sends its head alone again must not wait with its body for this.
            self._known_head = None
            self._between_messages = cycle.keep_alive
            self._phase, self._phase_since_s = _NEXT, self.loop.time()
            if not cycle.keep_alive:
                (self.drain_request if cycle.drains_request else self.transport.close)()

    def on_response_complete(self) -> None:
        """Continue with a pipelined request, or wait for the next."""
        self.server_state.total_requests += 1
        self._phase, self._phase_since_s = _NEXT, self.loop.time()
        flow = self.flow
        if flow.read_paused or flow.write_paused or self.pipeline:
            self._start_next()

    def resume_writing(self) -> None:
        """The client has read on: serve its next request, if that had to wait."""
        super().resume_writing()
        if self._response_unread:
            self._response_unread, self._phase_since_s = False, self.loop.time()
            self._start_next()

    def _start_next(self) -> None:
        """Start the next pipelined request, or resume reading.

        Whoever does not read its answers is answered no more, and not read either: neither they nor requests
        that were read and not begun pile up.
        """
        flow = self.flow
        if self.transport.is_closing():
            return
        if flow.write_paused:
            self._response_unread = True
            flow.pause_reading()
            return
        cycle = self.pipeline.pop()[0] if self.pipeline else None
        if not self.pipeline:
            flow.resume_reading()
        if isinstance(cycle, NativeOutlet):
            self._phase = Phase.BODY if cycle.more_body else Phase.ANSWER
            self._start(cycle)

    def drain_request(self) -> None:
        """Send no more, and read and discard what still comes for a while.

        If the connection were closed at once, that would be answered with a reset: a client that is still
        sending hears of it first, and not of its answer.
        """
        transport = self.transport
        if self._draining_request or transport.is_closing():
            return
        self._draining_request, self._phase_since_s = True, self.loop.time()
        self.parser = None  # type: ignore[assignment]  # nothing is read any more
        self.pipeline.clear()
        if not transport.can_write_eof():  # TLS ends for both sides at once
            transport.close()
            return
        transport.write_eof()
        self.flow.resume_reading()

    def _awaited_phase(self) -> Phase:
        """The phase that the client has to end; none while its request is being answered."""
        if self._draining_request:
            return Phase.REST
        cycle: RequestResponseCycle | None = self.cycle
        if self.pipeline or (self._in_head and cycle is not None and not cycle.response_complete):
            return _ANSWER
        return _HEAD if self._in_head else self._phase

    def _check_phase(self) -> None:
        """Close the connection when its phase has lasted too long."""
        self._check_timer = None
        self.rounds.run_all()
        if self._is_unread():
            self.transport.abort()
            return
        if self.transport.is_closing():
            if self._unread_bytes:
                self._check_timer = self.loop.call_later(self.check_interval_s, self._check_phase)
            return
        phase = self._awaited_phase()
        if (
            self._response_unread
            or self.loop.time() - self._phase_since_s < self.phase_limit_s[phase]
        ):
            self._check_timer = self.loop.call_later(self.check_interval_s, self._check_phase)
            return
        started: bool = self.cycle is not None and self.cycle.response_started  # type: ignore[redundant-expr]
        answered = started and not self._held_head
        begun = phase in {_HEAD, _BODY} and not (phase is _BODY and answered)
        if begun:
            self.transport.write(TIMEOUT_RESPONSE)
        self.transport.close()
        if self.transport.get_write_buffer_size():  # closed when all is read: not for ever
            self._check_timer = self.loop.call_later(self.check_interval_s, self._check_phase)

    def _is_unread(self) -> bool:
        """Whether the client has read nothing of pending data for too long."""
        before, now_s = self._unread_bytes, self.loop.time()
        self._unread_bytes = waiting = self.transport.get_write_buffer_size()
        if not waiting or waiting < before or not before:
            self._unread_since_s = now_s
        return bool(waiting) and now_s - self._unread_since_s >= self.read_within_s
