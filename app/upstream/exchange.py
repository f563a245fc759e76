"""One request and its response, as the caller sees it, and the limits and marks of its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from app.errors import UpstreamClosed, UpstreamError, UpstreamProtocol
from app.upstream.http1 import Header, find_header, split_head
from app.upstream.known_heads import Shape

_NS_PER_S: Final = 1_000_000_000
LET_GO_S: Final = 1.0
_LET_GO_NS: Final = int(LET_GO_S * _NS_PER_S)
_REPLAY_WINDOW_NS: Final = _NS_PER_S


Taker = Callable[[bytes, bytes], bool]
"""Shown the new bytes of a body, and the one chunk that they came in (``b""`` unless it was one, alone)."""


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


class Listener(Protocol):
    """Who hears the first news of an exchange in the socket's own callback, in place of a task that waits.

    Must not raise.
    """

    def answered(self, shape: Shape, data: bytes, head_bytes: int) -> None:
        """The response has come whole, in one piece; ``Exchange.whole`` takes what is not dealt with here."""

    def unusual(self) -> None:
        """Something else has happened first: a head alone, a failure. The connection is not done with it,
        so whatever is to be done about it has to wait for the loop's next turn.
        """


class Carrier(Protocol):
    """What an exchange needs of the connection that carries it."""

    def take(self) -> bytes:
        """The body bytes that have come since the last call."""

    def let_go(self) -> None:
        """Drop what is unread, and go by the exchange's total time from now on."""

    def abort(self, error: UpstreamError | None = None) -> None:
        """Close the socket now; the exchange ends with ``error``."""


class Exchange:
    """One request and its response, from the moment the response's head is there.

    Belongs to one task at a time. If that task is cancelled inside ``read`` the socket is closed
    before the cancellation goes on. Whoever stops reading before the end must call ``abort``; until
    then the connection is occupied, at most for ``Timeouts.total_s``.
    """

    # How every exchange begins: stands here once rather than in each.
    conn: Carrier | None = None
    """What carries it while it is under way."""
    taker: Taker | None = None
    """For the connection: who waits in ``read`` and takes what comes in the socket's own callback."""
    alike: Callable[[bytes], bool] | None = None
    """Shown each read of a body before ``taker`` is: takes what is one chunk, known by its bytes."""
    shape: Shape | None = None
    """What the head has in common with earlier ones, where that is known: what is said by the names alone
    need not be searched for each time.
    """
    status = 0
    connected_ns = tls_ns = sent_ns = first_byte_ns = ended_ns = 0
    reused = replayed = at_once = False
    """``at_once``: sent in the moment it was made, on a connection at rest."""
    _error: UpstreamError | None = None
    _rest = _cut_head = _low_head = b""
    _one_piece = b"", 4
    """A response that came whole, and how much of it is its head, blank line included."""
    _headers: tuple[Header, ...] | None = None
    _waiter: asyncio.Future[None] | None = None
    listener: Listener | None = None
    """Told the first news; None once it was, or where a task waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeouts: Timeouts) -> None:
        self.start(loop, timeouts)

    def start(self, loop: asyncio.AbstractEventLoop, timeouts: Timeouts) -> None:
        """Start the clock of the call; the pool does the rest. All that a new one needs."""
        self._loop = loop
        self.between_ns = timeouts.between_bytes_ns
        # The first bytes of a stream do not wait for a round. (Read for every response: an attribute of the
        # class would be found at ten times the cost.)
        self.skips_rounds = False
        self.queued_ns = now = time.monotonic_ns()
        self.total_at_ns = now + timeouts.total_ns

    @property
    def _head(self) -> bytes:
        data, head_bytes = self._one_piece
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

    async def read(self, taker: Taker | None = None) -> bytes:
        """All that arrived since the last call, joined; waits for a byte; ``b""`` at the end.

        While it waits, what arrives is first shown to ``taker``, in the socket's own callback: what
        that takes (True) is done with and wakes nobody, which halves the cost of a token. The first
        bytes that it does not take end the wait as usual; so does the end of the body. ``taker``
        must not raise or call this exchange.

        What arrived before a failure is returned first. Raises UpstreamClosed (truncated, reset,
        aborted), UpstreamProtocol, UpstreamTimeout (``between_bytes``, ``total``). Cancelled: the
        socket is closed.
        """
        while True:
            conn = self.conn
            data = conn.take() if conn is not None else self._rest
            if data:
                if conn is None:
                    self._rest = b""
                return data
            if conn is None:
                if self._error is not None:
                    raise self._error
                return b""
            news = self.changed()
            self.taker = taker
            try:
                await news
            except BaseException:
                # Cancelled, or the loop goes down: nobody will read on, so the upstream must stop.
                self.abort()
                raise
            finally:
                self.taker = None

    @property
    def is_over(self) -> bool:
        """The response has ended, and whole."""
        return self.conn is None and self._error is None and self.status > 0

    @property
    def unread(self) -> bytes:
        """What is unread of a response that is over; it stays unread."""
        return self._rest

    def at_hand(self) -> bytes:
        """All that is unread, if the response has ended and whole; else ``b""``."""
        if self.conn is not None or self._error is not None:
            return b""
        data, self._rest = self._rest, b""
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

    def let_go(self) -> None:
        """Leave what may still come, the body's end, to the connection; it is used again after that end.

        Closed where the end does not come within ``LET_GO_S``. No effect after the end.
        """
        conn = self.conn
        if conn is not None:
            self.total_at_ns = min(self.total_at_ns, time.monotonic_ns() + _LET_GO_NS)
            conn.let_go()

    def abort(self) -> None:
        """Close the socket now and drop what was not read; no effect after the end. Idempotent."""
        conn = self.conn
        if conn is not None:
            conn.abort(UpstreamClosed("The exchange was aborted by this side", code="aborted"))
            self._rest = b""

    @property
    def failure(self) -> UpstreamError | None:
        """For the pool: why no head has come, or None."""
        return None if self.status else self._error

    @property
    def told(self) -> bool:
        """The response's head is there, or what came instead: nobody need wait for it."""
        return bool(self.status) or self._error is not None

    async def answered(self) -> None:
        """Wait for the response's head, or for what came instead. Cancelled: the socket is closed."""
        news = self.changed()
        try:
            await news
        except BaseException:
            # Cancelled, or the loop goes down: the upstream must stop.
            self.abort()
            raise

    def changed(self) -> asyncio.Future[None]:
        """A future for the next piece of news; whose wait for it is cancelled must ``abort``."""
        if self._waiter is not None:
            raise RuntimeError("an Exchange is read by one task at a time")
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def take(self, pieces: list[bytes]) -> bool:
        """For the connection: show new ``pieces`` of the body to who reads; True if they are dealt with."""
        taker = self.taker
        if taker is None:
            return False
        if taker(pieces[0] if len(pieces) == 1 else b"".join(pieces), b""):
            return True
        # The task that wakes now reads these bytes; none may overtake them.
        self.taker = None
        return False

    def wake(self) -> None:
        """For the connection: there is news."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
        elif self.listener is not None:
            listener, self.listener = self.listener, None
            listener.unusual()

    def met_a_stale_connection(self, error: UpstreamError) -> bool:
        """For the pool: the replay rule of its docstring."""
        return (
            self.reused
            and not self.replayed
            and not self.first_byte_ns
            and isinstance(error, UpstreamClosed)
            and error.code == UpstreamClosed.code
            and self.ended_ns - self.sent_ns < _REPLAY_WINDOW_NS
        )

    def again(self) -> None:
        """For the pool: the request is about to be sent a second time."""
        self._error = None
        self.ended_ns = 0
        self.at_once = False

    def begin(self, status: int, head: bytes, low_head: bytes) -> None:
        """For the connection: the response's head is there, as it came and in lower case."""
        self.status = status
        self._cut_head = head
        self._low_head = low_head
        self.wake()

    def whole(self, shape: Shape, data: bytes, head_bytes: int) -> None:
        """For the connection: the response has come in one piece, its head the first ``head_bytes``."""
        if self.listener is not None:
            listener, self.listener = self.listener, None
            self.conn = None
            self.ended_ns = self.first_byte_ns
            listener.answered(shape, data, head_bytes)
            return
        self.status = shape.status
        self.shape = shape
        self._one_piece = data, head_bytes
        self._rest = data[head_bytes:]
        self.conn = None
        self.ended_ns = self.first_byte_ns
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def detach(self, rest: bytes, error: UpstreamError | None) -> None:
        """For the connection: nothing more will come; ``rest`` is the unread body."""
        self.conn = None
        self._rest = rest
        self._error = error
        self.ended_ns = time.monotonic_ns()
        self.wake()
