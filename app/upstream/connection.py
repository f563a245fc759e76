"""One upstream connection and the exchange on it: the socket's callbacks, the clock, back-pressure.

Theory of operation. A ``Connection`` is an ``asyncio.Protocol`` in one of three states: idle (no
exchange), busy (one exchange), closed (for good). Everything happens in the transport's callbacks;
no task, queue or lock exists per request, and a caller that must wait does so on one future of its
exchange.

Invariants:

* An exchange leaves its connection in exactly one of two ways: ``_finish`` (the message is
  complete) or ``_fail``/``abort`` (the socket is closed first). So no byte can reach an exchange
  that is not its own.
* A connection goes back to the pool only from ``_finish``, only if the reader calls it reusable, and only if
  the whole request has left the process; anything that arrives while it is idle closes it.
* Closing is ``transport.abort()``, everywhere: the peer learns within the same turn of the loop, and no
  TLS close_notify that waits for an answer keeps a paid generation alive.

Fast path. A response whose head has a known shape and whose body came in the same read is handed over in
that callback: nothing is parsed, collected or joined, and the reader is not started (the first bytes that
need it start it). A read that is exactly one chunk goes straight to the exchange's ``on_body``.

Clock. A connection has at most one timer, armed lazily: it is left alone while deadlines move into
the future, re-armed when it fires early, and outlives exchanges. A phase that begins costs an
assignment instead of the 0.4 us of ``call_later`` plus ``cancel``.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import time
from collections.abc import Callable
from typing import Final, Protocol, cast

from app.errors import UpstreamClosed, UpstreamError, UpstreamProtocol, UpstreamTimeout
from app.upstream.exchange import Exchange
from app.upstream.head_shapes import HeadShapes
from app.upstream.http1 import ResponseReader
from app.upstream.request_head import KNOWN_LENGTHS, LENGTH_LINES
from app.upstream.rounds import rounds_of
from app.upstream.tls import TlsLayer

MAX_UNREAD_BYTES: Final = 256 * 1024
"""Unread response bytes beyond which reading from the socket pauses."""

MAX_JOINED_BYTES: Final = 64 * 1024
"""Up to here head and body are joined: a copy is cheaper than a second buffer in the call."""

_WITHOUT_BODY: Final = frozenset({b"GET", b"HEAD"})
_NS_PER_S: Final = 1_000_000_000
_TICK_NS: Final = 1_000_000
_NEVER_NS: Final = 1 << 63
_KEEPALIVE_IDLE_S: Final = 30
_KEEPALIVE_INTERVAL_S: Final = 10
_KEEPALIVE_PROBES: Final = 3
_log = logging.getLogger("slipstream.wire")


class ConnectionOwner(Protocol):
    """What a connection calls of its pool; both calls are synchronous and never raise."""

    head_shapes: HeadShapes
    """The head shapes that the origin's connections share."""

    def connection_released(self, connection: Connection) -> None:
        """The exchange is complete and the connection may serve another."""

    def connection_lost(self, connection: Connection) -> None:
        """The connection is closed; called exactly once."""


class Connection(asyncio.Protocol):
    """A socket to one origin; see the module's invariants."""

    __slots__ = (
        "_call_later",
        "_chunk_sizes",
        "_deadline_ns",
        "_exchange",
        "_head_shapes",
        "_late_reads",
        "_method",
        "_owner",
        "_paused",
        "_phase",
        "_poll",
        "_queued_exchange_id",
        "_reader",
        "_reader_started",
        "_rounds",
        "_timer",
        "_timer_at_ns",
        "_transport",
        "_unread_bytes",
        "_where",
        "_write",
        "closed",
        "connected_ns",
        "idle_since_ns",
        "mid_record",
        "poll_events",
        "tls_ns",
    )

    def __init__(self, owner: ConnectionOwner, loop: asyncio.AbstractEventLoop, where: str) -> None:
        """``where`` names the origin in error texts."""
        self._owner = owner
        self._call_later: Callable[..., asyncio.TimerHandle] = loop.call_later
        self._where = where
        self._reader = ResponseReader(where, owner.head_shapes)
        self._head_shapes = owner.head_shapes
        self._chunk_sizes = owner.head_shapes.chunk_sizes
        self._reader_started = False
        """``_reader`` has been started for the current response."""
        self._rounds = rounds_of(loop)
        self._queued_exchange_id = 0
        """The ``id`` of the exchange whose first bytes wait, or last waited, for a round."""
        self._late_reads: list[bytes] = []
        """Most likely a stream's end, and what came behind it: the first is a late read of the rounds."""
        self.mid_record = False
        """TLS holds a record that is not complete yet: behind an answer, a reason to close."""
        self._method = b""
        self._transport: asyncio.Transport | TlsLayer | None = None
        self._write: Callable[[bytes], None] = _not_open
        self._exchange: Exchange | None = None
        self._poll = select.poll()
        self.poll_events = self._poll.poll
        """Called with 0: the pending events of an idle connection's socket; see ``is_silent``."""
        self._paused = False
        self._unread_bytes = 0
        self._deadline_ns = 0
        self._phase = ""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_ns = _NEVER_NS
        """When the timer fires; ``_NEVER_NS`` where none is armed."""
        self.closed = False
        self.connected_ns = 0
        self.tls_ns = 0
        self.idle_since_ns = 0

    # ------------------------------------------------------------------ for the pool

    def tls_established(self, transport: TlsLayer) -> None:
        """TLS is up: ``transport`` carries the plain bytes from now on."""
        self._transport = transport
        self._write = transport.write
        self.tls_ns = time.monotonic_ns()

    def send(
        self, exchange: Exchange, start: bytes, body: bytes, method: bytes, first_byte_ns: int
    ) -> None:
        """Write the request and carry ``exchange``; the connection is open and idle.

        ``start`` is the request's head but for the body's length (``RequestWriter.start``).
        """
        if self._exchange is not None:
            raise RuntimeError("a connection serves one exchange at a time")
        self._reader_started = False
        self._method = method
        self._exchange = exchange
        exchange.connection = self
        # uvloop writes at once: one call is one segment and one wake-up of the peer (5-17 us saved).
        size = len(body)
        if body and size < KNOWN_LENGTHS:
            data = b"".join((start, LENGTH_LINES[size], b"\r\n", body))
            if self._rounds.deferring_writes:
                self._rounds.pending_writes.append((self._write, data))
            else:
                self._write(data)
        elif not size and method in _WITHOUT_BODY:
            self._write(start + b"\r\n")  # RFC 9110 section 8.6: no length where none is expected
        elif size <= MAX_JOINED_BYTES:
            self._write(b"%bcontent-length: %d\r\n\r\n%b" % (start, size, body))
        elif self._transport is not None:
            self._transport.writelines((b"%bcontent-length: %d\r\n\r\n" % (start, size), body))
        # What was begun right now need not ask the clock again.
        sent_ns = exchange.queued_ns if exchange.sent_immediately else time.monotonic_ns()
        exchange.sent_ns = sent_ns
        self._phase = "first_byte"
        deadline_ns = sent_ns + first_byte_ns
        if deadline_ns > exchange.total_at_ns:  # noqa: PLR1730 - min() costs four times as much
            deadline_ns = exchange.total_at_ns
        self._deadline_ns = deadline_ns
        # The silence within a body may be the shorter: its timer is not armed with every first byte.
        at_ns, silent_ns = self._timer_at_ns, sent_ns + exchange.between_ns
        if silent_ns < at_ns or deadline_ns < at_ns:
            self._arm(min(silent_ns, deadline_ns))

    def is_silent(self) -> bool:
        """Ask the kernel whether nothing has come on an idle connection: no byte, end or error.

        The loop would tell too, but perhaps after the request was sent, and what came unasked before it
        would be taken for its answer.
        """
        return not self.poll_events(0)

    def take(self) -> bytes:
        """The unread body bytes; reading goes on if it was paused."""
        if not self._reader_started:
            return b""
        data = self._reader.take()
        self._unread_bytes = 0
        if self._paused:
            self._resume()
            exchange = self._exchange
            if exchange is not None:
                self._set_deadline(time.monotonic_ns() + exchange.between_ns, exchange)
        return data

    def drain(self) -> None:
        """Drop the unread body; its rest must come within the exchange's total time."""
        self.take()
        if self._exchange is not None:
            self._set_deadline(self._exchange.total_at_ns, self._exchange)

    def abort(self, error: UpstreamError | None = None) -> None:
        """Close the socket now; an exchange on it ends with ``error``. Idempotent."""
        if self.closed:
            return
        self.closed = True
        exchange, self._exchange = self._exchange, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at_ns = None, _NEVER_NS
        if self._transport is not None:
            self._transport.abort()
        if exchange is not None:
            rest = self._reader.take() if self._reader_started else b""
            exchange.detach(rest, error or UpstreamClosed(f"{self._where} was left"))
        self._owner.connection_lost(self)

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is up."""
        # uvloop's transports have the methods without being asyncio's classes.
        self._transport = opened = cast("asyncio.Transport", transport)
        self._write = opened.write
        self.connected_ns = time.monotonic_ns()
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Finds a peer that vanished without a word (NAT, power) while the connection is idle.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
        self._poll.register(sock.fileno(), select.POLLIN | getattr(select, "POLLRDHUP", 0))

    def data_received(  # noqa: C901, PLR0911, PLR0912 - in one piece: every token comes here
        self, data: bytes
    ) -> None:
        """Process bytes of the response, of which the first may wait for a round; close if idle."""
        exchange = self._exchange
        if exchange is None:
            self.abort()
            return
        if not self._reader_started:
            if not exchange.skips_rounds:
                rounds = self._rounds
                if not rounds.direct_reads:
                    if self._queued_exchange_id == id(exchange):
                        self._read_behind_queued(exchange, data)
                    else:
                        self._queued_exchange_id = id(exchange)
                        rounds.enqueue_read(self, data)
                    return
                rounds.direct_reads -= 1
            exchange.first_byte_ns = now = time.monotonic_ns()
            self._first_bytes(exchange, data, now)
            return
        if self._late_reads:
            if not self._rounds.deferring_writes:
                self._late_reads.append(data)
                return
            self._next_late_read()
        now = time.monotonic_ns()
        if (on_body := exchange.on_body) is not None and self._reader.unparsed_head is not None:
            if (alike := exchange.on_known_chunk) is None or not alike(data):
                if alike is not None and not self._rounds.deferring_writes:
                    self._late_reads.append(data)
                    self._rounds.enqueue_late_read(self, data)
                    return
                start = data.find(b"\r\n") + 2
                size = self._chunk_sizes.get(data[: start - 2])
                if not size or len(data) != start + size + 2 or data[-2:] != b"\r\n":
                    self._read(exchange, data, now)
                    return
                body = data[start:-2]
                if not on_body(body, data):
                    exchange.on_body = None
                    self._reader.pieces.append(body)
                    self._after_reading(exchange, size, now)
                    return
            deadline_ns = now + exchange.between_ns
            if deadline_ns > exchange.total_at_ns:  # noqa: PLR1730 - as in send
                deadline_ns = exchange.total_at_ns
            self._deadline_ns = deadline_ns
            return
        self._read(exchange, data, now)

    def _next_late_read(self) -> None:
        """Take off the first late read; the next is processed in another turn, as if it had not waited."""
        del self._late_reads[0]
        if self._late_reads:
            self._rounds.enqueue_late_read(self, self._late_reads[0])

    def _read_behind_queued(self, exchange: Exchange, data: bytes) -> None:
        """Process the first bytes of ``exchange``, which wait for a round, and then ``data``.

        If the first bytes were the whole answer, ``data`` is unasked for, and the kernel could not say so to
        whoever would be given this connection meanwhile.
        """
        self._queued_exchange_id = 0  # another exchange may have had the same identity
        self._rounds.run_all()
        if self._exchange is exchange:
            self.data_received(data)
        else:
            self.abort(UpstreamClosed(f"{self._where} said more than was asked"))

    def receive_failed(self, error: Exception) -> None:
        """``data_received`` has raised in a round: as the loop does."""
        _log.error("reading_failed", exc_info=error)
        self.abort()

    def _first_bytes(self, exchange: Exchange, data: bytes, now_ns: int) -> None:
        """Process the first read of a response: mostly all of it, or at least its head."""
        known = self._head_shapes.match(data) if self._method != b"HEAD" else None
        if known is not None:
            shape, end, length = known
            if length == len(data) - end and not shape.chunked:
                self._exchange = None
                listener = exchange.listener
                if listener is None:
                    exchange.whole_received(shape, data, end)
                else:  # as it does, without a call of it
                    exchange.listener = exchange.connection = None
                    exchange.ended_ns = now_ns
                    listener.on_whole_response(shape, data, end)
                self._release(now_ns)
                return
            if shape.chunked:
                self._begin_reading()
                self._reader.begin_known(shape.status, data[:end])
                exchange.shape = shape
                self._read(exchange, data[end:], now_ns)
                return
        self._begin_reading()
        self._read(exchange, data, now_ns)

    def _begin_reading(self) -> None:
        """Start the reader for a response that is off the fast path."""
        self._reader_started = True
        self._unread_bytes = 0
        self._reader.begin(self._method)

    def _read(self, exchange: Exchange, data: bytes, now_ns: int) -> None:
        reader = self._reader
        try:
            if data:
                reader.feed(data)
        except UpstreamProtocol as exc:
            self.abort(exc)
            return
        if not reader.head_complete:
            return
        if not exchange.status:
            exchange.head_received(reader.status, reader.head, reader.low_head)
            self._phase = "between_bytes"
        if reader.complete:
            self._finish(exchange, now_ns)
            return
        pieces = reader.pieces
        if pieces and exchange.offer_body(pieces):
            pieces.clear()
            self._unread_bytes = 0
            self._set_deadline(now_ns + exchange.between_ns, exchange)
            return
        self._after_reading(exchange, len(data), now_ns)

    def _after_reading(self, exchange: Exchange, size_bytes: int, now_ns: int) -> None:
        """Account for bytes that ``on_body`` did not handle; pause reading if they are many."""
        pieces = self._reader.pieces
        self._unread_bytes += size_bytes
        if self._unread_bytes > MAX_UNREAD_BYTES and pieces:
            self._pause(exchange)
        else:
            self._set_deadline(now_ns + exchange.between_ns, exchange)
        if pieces:
            exchange.notify()

    def partial_record_pending(self) -> bool:
        """Handle the beginning of a TLS record: behind an answer, a reason to close.

        Before the first request it may belong to the handshake (a session ticket in two pieces): then True.
        """
        if self._exchange is None and self._method:
            self.abort()
        return self._exchange is None and not self.closed

    def eof_received(self) -> bool:
        """The peer has finished sending: the end of a body without a length, else a failure."""
        self._rounds.run_all()
        exchange = self._exchange
        if exchange is None:
            self.abort()
            return False
        if not self._reader_started:
            self._begin_reading()
        try:
            self._reader.feed_eof()
        except UpstreamClosed as exc:
            self.abort(exc)
        else:
            self._finish(exchange, time.monotonic_ns())
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._rounds.run_all()
        if not self.closed:
            why = f": {exc.strerror or exc}" if isinstance(exc, OSError) else ""
            begun = self._reader_started and self._reader.started
            at = "in its answer" if begun else "before its answer"
            self.abort(UpstreamClosed(f"{self._where} broke the connection {at}{why}"))
        self._transport, self._write = None, _not_open

    # ------------------------------------------------------------------ inside
    def _finish(self, exchange: Exchange, now_ns: int) -> None:
        """Detach the exchange, whose message is complete, then release the connection."""
        reader = self._reader
        self._exchange = None
        if self._paused:
            self._resume()
        exchange.detach(reader.take(), None)
        if reader.reusable:
            self._release(now_ns)
        else:
            self.abort()

    def _release(self, now_ns: int) -> None:
        """Return to the pool after an exchange, or close."""
        transport = self._transport
        # A response may overtake its request (an early 413): the rest of the body is still to be sent.
        if transport is not None and not (
            self.mid_record or self._late_reads or transport.get_write_buffer_size()
        ):
            self.idle_since_ns = now_ns
            self._owner.connection_released(self)
        else:
            self.abort()

    def _pause(self, exchange: Exchange) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        # Silence is the consumer's now; only the whole call's time still runs.
        self._set_deadline(exchange.total_at_ns, exchange)

    def _resume(self) -> None:
        self._paused = False
        if self._transport is not None and not self.closed:
            self._transport.resume_reading()

    def _set_deadline(self, deadline_ns: int, exchange: Exchange) -> None:
        """Move the deadline; the timer is touched only if it would fire too late."""
        if deadline_ns > exchange.total_at_ns:  # noqa: PLR1730 - min() costs four times as much
            deadline_ns = exchange.total_at_ns
        self._deadline_ns = deadline_ns
        if deadline_ns < self._timer_at_ns:
            self._arm(deadline_ns)

    def _arm(self, at_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_ns = at_ns
        # At least a tick of libuv's clock: a shorter delay would fire at once and come back here.
        delay_s = max(_TICK_NS, at_ns - time.monotonic_ns()) / _NS_PER_S
        self._timer = self._call_later(delay_s, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer, self._timer_at_ns = None, _NEVER_NS
        self._rounds.run_all()
        exchange = self._exchange
        if exchange is None:
            return
        now_ns = time.monotonic_ns()
        if now_ns < self._deadline_ns:
            self._arm(min(self._deadline_ns, now_ns + exchange.between_ns))
            return
        phase = "total" if self._deadline_ns >= exchange.total_at_ns else self._phase
        self.abort(
            UpstreamTimeout(f"{self._where} took too long ({phase} timeout); closed", phase=phase)
        )


def _not_open(_data: bytes) -> None:
    raise RuntimeError("a connection sends when it is open")
