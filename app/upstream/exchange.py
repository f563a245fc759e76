"""One request and its response as the caller sees it, with its timeouts and its timing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from app.errors import UpstreamClosed, UpstreamError, UpstreamProtocol
from app.upstream.head_shapes import HeadShape
from app.upstream.http1 import Header, find_header, split_head

_NS_PER_S: Final = 1_000_000_000
DRAIN_S: Final = 1.0
_DRAIN_NS: Final = int(DRAIN_S * _NS_PER_S)
_REPLAY_WINDOW_NS: Final = _NS_PER_S


BodyCallback = Callable[[bytes, bytes], bool]
"""Gets the new bytes of a body, and the one chunk that they came in (``b""`` unless it was exactly one)."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each phase of a call may take, in seconds.

    ``first_byte_s`` runs from the request's last write to the complete head of the final response,
    so that a dribbled head does not stretch it. ``between_bytes_s`` is the longest silence within a
    body; it rests while the consumer does not read. ``queue_s`` bounds the wait for a free
    connection (``None``: only ``total_s`` does). ``total_s`` spans everything, from the call to the
    last byte.
    """

    connect_s: float
    tls_s: float
    first_byte_s: float
    between_bytes_s: float
    total_s: float
    queue_s: float | None = None
    first_byte_ns: int = field(init=False, repr=False, compare=False)
    between_bytes_ns: int = field(init=False, repr=False, compare=False)
    total_ns: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # What each call needs, in the unit of its clock.
        for name in ("first_byte", "between_bytes", "total"):
            limit_s: float = getattr(self, f"{name}_s")
            object.__setattr__(self, f"{name}_ns", int(limit_s * _NS_PER_S))


@dataclass(frozen=True, slots=True)
class Timing:
    """Marks on the monotonic clock, in nanoseconds; 0 for what did not happen (yet).

    ``connected`` and ``tls`` are 0 on a reused (or warmed) connection. ``replayed`` says that a
    first try on an idle connection met its closing and that the request was sent a second time (see
    ``Pool``).
    """

    queued: int
    connected: int
    tls: int
    sent: int
    first_byte: int
    ended: int
    reused: bool
    replayed: bool


class ResponseListener(Protocol):
    """Called with the first event of an exchange in the socket's own callback, in place of a waiting task.

    Must not raise.
    """

    def on_whole_response(self, shape: HeadShape, data: bytes, head_bytes: int) -> None:
        """The response has come in one read; what is not handled here goes to ``Exchange.whole_received``."""

    def on_other_event(self) -> None:
        """Something else came first: a head alone, or a failure.

        The connection is still processing it, so any reaction has to wait for the loop's next turn.
        """


class ExchangeConnection(Protocol):
    """What an exchange needs of its connection."""

    def take(self) -> bytes:
        """The body bytes that have come since the last call."""

    def drain(self) -> None:
        """Drop the unread body; from now on only the exchange's total time bounds it."""

    def abort(self, error: UpstreamError | None = None) -> None:
        """Close the socket now; the exchange ends with ``error``."""


class Exchange:
    """One request and its response, from the moment the response's head is there.

    Belongs to one task at a time. If that task is cancelled inside ``read`` the socket is closed
    before the cancellation goes on. Whoever stops reading before the end must call ``abort``; until
    then the connection is occupied, at most for ``Timeouts.total_s``.
    """

    # Defaults of every exchange, on the class: that saves an assignment each.
    connection: ExchangeConnection | None = None
    """Its connection while it is in progress."""
    on_body: BodyCallback | None = None
    """Called by the connection with new body bytes while ``read`` waits; True if it has handled them."""
    on_known_chunk: Callable[[bytes], bool] | None = None
    """Called before ``on_body`` with each read; True if it was chunks known by their bytes, now handled."""
    shape: HeadShape | None = None
    """The shape of the head, where it is known: what follows from its names is looked up by it."""
    status = 0
    connected_ns = tls_ns = sent_ns = first_byte_ns = ended_ns = 0
    reused = replayed = sent_immediately = False
    """``sent_immediately``: sent when it was made, on an idle connection."""
    _error: UpstreamError | None = None
    _unread = _cut_head = _low_head = b""
    _whole_response = b"", 4
    """A response that came in one read, and the size of its head, blank line included."""
    _headers: tuple[Header, ...] | None = None
    _waiter: asyncio.Future[None] | None = None
    listener: ResponseListener | None = None
    """Called with the first event; None after that, or where a task waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeouts: Timeouts) -> None:
        self.start(loop, timeouts)

    def start(self, loop: asyncio.AbstractEventLoop, timeouts: Timeouts) -> None:
        """Start the clock of the call: all that a new exchange needs."""
        self._loop = loop
        self.between_ns = timeouts.between_bytes_ns
        # The first bytes of a stream do not wait for a round. (Read for every response: an attribute of the
        # class would be found at ten times the cost.)
        self.skips_rounds = False
        self.queued_ns = now = time.monotonic_ns()
        self.total_at_ns = now + timeouts.total_ns

    @property
    def _head(self) -> bytes:
        data, head_bytes = self._whole_response
        return self._cut_head or data[: head_bytes - 4]

    @property
    def headers(self) -> tuple[Header, ...]:
        """All headers: names in lower case, order and repeats kept. Split when first asked for."""
        if self._headers is None:
            self._headers = split_head(self._head)
        return self._headers

    @property
    def low_head(self) -> bytes:
        """The response's head in lower case, for whoever looks for a word in it before splitting it."""
        return self._low_head or self._head.lower()

    def header(self, name: bytes) -> bytes | None:
        """The first value of ``name`` (given in lower case); cheaper than ``headers`` for a few."""
        return find_header(self._head, name, self.low_head)

    @property
    def timing(self) -> Timing:
        """The marks so far; complete once ``read`` has returned ``b""``."""
        return Timing(
            queued=self.queued_ns,
            connected=self.connected_ns,
            tls=self.tls_ns,
            sent=self.sent_ns,
            first_byte=self.first_byte_ns,
            ended=self.ended_ns,
            reused=self.reused,
            replayed=self.replayed,
        )

    async def read(self, on_body: BodyCallback | None = None) -> bytes:
        """All that arrived since the last call, joined; waits for a byte; ``b""`` at the end.

        While it waits, what arrives is first passed to ``on_body`` in the socket's own callback: what
        that handles (True) wakes no task, which halves the cost of a token. The first bytes that it does
        not handle end the wait as usual; so does the end of the body. ``on_body`` must not raise or call
        this exchange.

        What arrived before a failure is returned first. Raises UpstreamClosed (truncated, reset,
        aborted), UpstreamProtocol, UpstreamTimeout (``between_bytes``, ``total``). Cancelled: the
        socket is closed.
        """
        while True:
            conn = self.connection
            data = conn.take() if conn is not None else self._unread
            if data:
                if conn is None:
                    self._unread = b""
                return data
            if conn is None:
                if self._error is not None:
                    raise self._error
                return b""
            news = self.change_future()
            self.on_body = on_body
            try:
                await news
            except BaseException:
                # Cancelled, or the loop goes down: nobody will read on, so the upstream must stop.
                self.abort()
                raise
            finally:
                self.on_body = None

    @property
    def is_complete(self) -> bool:
        """The response has ended, and whole."""
        return self.connection is None and self._error is None and self.status > 0

    @property
    def unread(self) -> bytes:
        """What is unread of a response that is over; it stays unread."""
        return self._unread

    def take_unread(self) -> bytes:
        """All that is unread, if the response has ended and whole; else ``b""``."""
        if self.connection is not None or self._error is not None:
            return b""
        data, self._unread = self._unread, b""
        return data

    async def read_all(self, limit_bytes: int) -> bytes:
        """The rest of the body; above ``limit_bytes``: socket closed, UpstreamProtocol raised."""
        pieces: list[bytes] = []
        size_bytes = 0
        while data := await self.read():
            size_bytes += len(data)
            if size_bytes > limit_bytes:
                self.abort()
                raise UpstreamProtocol(
                    f"The upstream's answer is larger than {limit_bytes} bytes; it was cut off",
                    code="upstream_oversize",
                )
            pieces.append(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def drain(self) -> None:
        """Leave the rest of the body to the connection, which is reused after its end.

        Closed where the end does not come within ``DRAIN_S``. No effect after the end.
        """
        conn = self.connection
        if conn is not None:
            self.total_at_ns = min(self.total_at_ns, time.monotonic_ns() + _DRAIN_NS)
            conn.drain()

    def abort(self) -> None:
        """Close the socket now and drop what was not read; no effect after the end. Idempotent."""
        conn = self.connection
        if conn is not None:
            conn.abort(UpstreamClosed("The exchange was aborted by this side", code="aborted"))
            self._unread = b""

    @property
    def failure(self) -> UpstreamError | None:
        """For the pool: why no head has come, or None."""
        return None if self.status else self._error

    @property
    def has_outcome(self) -> bool:
        """The response's head, or an error in its place, is there: no need to wait."""
        return bool(self.status) or self._error is not None

    async def wait_for_head(self) -> None:
        """Wait for the response's head or an error in its place. Cancelled: the socket is closed."""
        news = self.change_future()
        try:
            await news
        except BaseException:
            # Cancelled, or the loop goes down: the upstream must stop.
            self.abort()
            raise

    def change_future(self) -> asyncio.Future[None]:
        """A future for the next change; a caller whose wait is cancelled must call ``abort``."""
        if self._waiter is not None:
            raise RuntimeError("an Exchange is read by one task at a time")
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def offer_body(self, pieces: list[bytes]) -> bool:
        """For the connection: pass new ``pieces`` of the body to ``on_body``; True if it handled them."""
        on_body = self.on_body
        if on_body is None:
            return False
        if on_body(pieces[0] if len(pieces) == 1 else b"".join(pieces), b""):
            return True
        # The task that wakes now reads these bytes; none may overtake them.
        self.on_body = None
        return False

    def notify(self) -> None:
        """For the connection: wake the waiting task, or call the listener."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
        elif self.listener is not None:
            listener, self.listener = self.listener, None
            listener.on_other_event()

    def hit_stale_connection(self, error: UpstreamError) -> bool:
        """For the pool: the replay rule of its docstring."""
        return (
            self.reused
            and not self.replayed
            and not self.first_byte_ns
            and isinstance(error, UpstreamClosed)
            and error.code == UpstreamClosed.code
            and self.ended_ns - self.sent_ns < _REPLAY_WINDOW_NS
        )

    def reset_for_replay(self) -> None:
        """For the pool: the request is about to be sent a second time."""
        self._error = None
        self.ended_ns = 0
        self.sent_immediately = False

    def head_received(self, status: int, head: bytes, low_head: bytes) -> None:
        """For the connection: the response's head is there, as it came and in lower case."""
        self.status = status
        self._cut_head = head
        self._low_head = low_head
        self.notify()

    def whole_received(self, shape: HeadShape, data: bytes, head_bytes: int) -> None:
        """For the connection: the response has come in one piece, its head the first ``head_bytes``."""
        if self.listener is not None:
            listener, self.listener = self.listener, None
            self.connection = None
            self.ended_ns = self.first_byte_ns
            listener.on_whole_response(shape, data, head_bytes)
            return
        self.status = shape.status
        self.shape = shape
        self._whole_response = data, head_bytes
        self._unread = data[head_bytes:]
        self.connection = None
        self.ended_ns = self.first_byte_ns
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def detach(self, rest: bytes, error: UpstreamError | None) -> None:
        """For the connection: nothing more will come; ``rest`` is the unread body."""
        self.connection = None
        self._unread = rest
        self._error = error
        self.ended_ns = time.monotonic_ns()
        self.notify()
