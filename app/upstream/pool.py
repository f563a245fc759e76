"""The connections to one origin: warm, bounded, reused last-in first-out, given to waiters in order.

Theory of operation. A *slot* is the right to have a connection, open or opening; there are
``max_connections``. A request takes the most recently used idle connection (O(1): warm in the peer's caches,
and the others may age out), else a free slot, else it waits in line. A connection that becomes free goes
straight to the first in line; a slot that becomes free does too, and its new owner connects. Nothing polls,
and no request walks the pool.

Stale connections. The upstream may close an idle connection at any moment, or say something unasked on it.
Three defences, in order: we close first (``idle_ttl_s``); an idle connection that hears anything is dropped
as it happens; and right before each use the kernel is asked (0.9 us) whether there is something that the loop
has not looked at yet. What remains is the race that HTTP/1.1 cannot exclude (RFC 9112 section 9.3.1): the
upstream closes while our request is on its way.

Replay rule. A request is sent a second time if, and only if, all of this holds: the connection had been idle
(reused or warmed); the peer closed or reset it; not one byte of response had come; it happened within one
second of sending; it is the first time; ``PoolLimits.replays``. The second try uses a new connection, and
``Timing.replayed`` says so. An upstream that closes a *busy* connection silently within that second could be
made to work twice; ones that do are broken, and a model call is safe to repeat. Everything else is the
caller's to decide: retries proper live in the policies above.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

from app.errors import GatewayError, UpstreamRefused, UpstreamTimeout
from app.upstream.connection import Connection
from app.upstream.dial import Dial, connect_by_name
from app.upstream.exchange import Exchange, ResponseListener, Timeouts
from app.upstream.head_shapes import HeadShapes
from app.upstream.http1 import Header
from app.upstream.origin import Origin, PoolLimits, PoolStats, connect_error, default_ssl_context
from app.upstream.request_head import RequestWriter
from app.upstream.tls import TlsLayer
from app.upstream.warming import WarmPause

_NS_PER_S: Final = 1_000_000_000
_MAX_CHECKS: Final = 4

_T = TypeVar("_T")


class Pool:
    """An HTTP/1.1 client for one origin, on the running loop, for one loop only.

    Over TLS the host is verified with ``ssl_context`` (default: the system's trust store, ALPN
    http/1.1).
    """

    def __init__(
        self,
        origin: Origin,
        limits: PoolLimits,
        timeouts: Timeouts,
        ssl_context: ssl.SSLContext | None = None,
        dial: Dial = connect_by_name,
    ) -> None:
        """Open nothing yet: ``start`` opens warm connections, and a request opens one by ``dial``."""
        self.origin = origin
        self._limits = limits
        self._timeouts = timeouts
        self._dial = dial
        self._ssl = (ssl_context or default_ssl_context()) if origin.tls else None
        self._writer = RequestWriter(origin.host_header)
        self._where = str(origin)
        self.head_shapes = HeadShapes()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = 0
        self._open: set[Connection] = set()
        # A dict is a stack (popitem) from which any entry can be removed in O(1); oldest first.
        self._idle: dict[Connection, None] = {}
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._max_idle = limits.max_idle
        self._idle_ttl_ns = int(limits.idle_ttl_s * _NS_PER_S)
        self._sweep: asyncio.TimerHandle | None = None
        self._warmer: asyncio.Task[None] | None = None
        self._warm_wanted = asyncio.Event()
        self._pause = WarmPause()
        self._all_closed: asyncio.Future[None] | None = None
        self._closed = False
        self._waiting = 0
        self._opened_total = 0
        self._replayed_total = 0
        self._warm_failures_total = 0

    @property
    def stats(self) -> PoolStats:
        """The pool at this moment; ``in_flight`` counts connections that serve or are about to."""
        return PoolStats(
            open=len(self._open),
            idle=len(self._idle),
            in_flight=len(self._open) - len(self._idle),
            waiting=self._waiting,
            opened_total=self._opened_total,
            replayed_total=self._replayed_total,
            warm_failures_total=self._warm_failures_total,
        )

    async def start(self) -> None:
        """Begin to open ``limits.warm`` connections, and keep so many open until ``aclose``.

        Returns at once. An origin that cannot be reached is tried again, ever less often (0.1 to 30 s).
        """
        self._check_open()
        if self._limits.warm and self._warmer is None:
            # Owned by the pool: aclose cancels it and waits for it.
            self._warmer = self._bind().create_task(self._keep_warm(), name=f"warm {self._where}")

    async def request(
        self,
        *,
        path: bytes,
        headers: Sequence[Header],
        body: bytes,
        method: bytes = b"POST",
        timeouts: Timeouts | None = None,
    ) -> Exchange:
        """Send a request; return when the head of its response is there.

        Raises UpstreamTimeout (``queue``, ``connect``, ``tls``, ``first_byte``, ``total``), UpstreamRefused
        (nothing was sent), UpstreamProtocol, and GatewayError for a header that may not be sent.
        Cancelled at any point: the socket, if there is one, is closed before the cancellation goes on.
        """
        within = timeouts or self._timeouts
        start = self._writer.start(method, path, headers)
        exchange = self.try_send(start, body, within, method)
        if exchange is not None:
            await exchange.wait_for_head()
            if exchange.status:
                return exchange
        return await self.send_or_replay(exchange, start, body, within, method)

    def head_start(self, path: bytes, headers: Sequence[Header], method: bytes = b"POST") -> bytes:
        """Encode a request's head without the body's length, for ``try_send`` and ``send_or_replay``."""
        return self._writer.start(method, path, headers)

    def try_send(
        self,
        start: bytes,
        body: bytes,
        within: Timeouts,
        method: bytes = b"POST",
        listener: ResponseListener | None = None,
    ) -> Exchange | None:
        """Send on an idle connection without waiting; None if none is available.

        The caller awaits ``wait_for_head()`` next, unless there is a ``listener``. An exchange without a
        status after that has failed: ``send_or_replay`` raises why, or tries again where that is safe.
        """
        idle = self._idle
        if not idle:
            return None
        conn, _ = idle.popitem()
        self._pause.connection_used = True
        exchange = object.__new__(Exchange)  # the call of its class costs as much as the rest
        exchange.start(self._loop or self._bind(), within)
        if exchange.queued_ns - conn.idle_since_ns >= self._idle_ttl_ns or conn.poll_events(0):
            idle[conn] = None  # send_or_replay checks it thoroughly
            return None
        exchange.reused = exchange.sent_immediately = True
        exchange.listener = listener
        conn.send(exchange, start, body, method, within.first_byte_ns)
        return exchange

    async def send_or_replay(
        self,
        exchange: Exchange | None,
        start: bytes,
        body: bytes,
        within: Timeouts,
        method: bytes = b"POST",
        *,
        replays: bool = True,
    ) -> Exchange:
        """Complete ``request`` after ``try_send`` failed or gave None; no replay without ``replays``."""
        if exchange is None:
            exchange = Exchange(self._loop or self._bind(), within)
            conn = await self._acquire(exchange, within, self._pop_idle())
            conn.send(exchange, start, body, method, within.first_byte_ns)
            await exchange.wait_for_head()
        while (error := exchange.failure) is not None:
            if not (replays and self._limits.replays and exchange.hit_stale_connection(error)):
                raise error
            exchange.replayed = True
            exchange.reused = False
            self._replayed_total += 1
            conn = await self._acquire_new(exchange, within)
            exchange.reset_for_replay()
            conn.send(exchange, start, body, method, within.first_byte_ns)
            await exchange.wait_for_head()
        return exchange

    async def aclose(self, *, drain_s: float = 0.0) -> None:
        """Refuse new requests, give running ones ``drain_s`` seconds to end, close what is left.

        Requests in line are refused at once. Idempotent. Cancelled while draining: closes at once.
        """
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(self._refusal())
        self._waiters.clear()
        for conn in list(self._idle):
            conn.abort()
        try:
            await self._stop_warming()
            if self._slots and drain_s > 0:
                self._all_closed = self._bind().create_future()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(drain_s):
                        await self._all_closed
        finally:
            for conn in list(self._open):
                conn.abort()

    # ------------------------------------------------------------------ called by connections

    def connection_released(self, connection: Connection) -> None:
        """Give ``connection`` to the first waiter, or keep it idle."""
        if self._closed:
            connection.abort()
            return
        if self._waiters and self._hand_to_waiter(connection):
            return
        idle = self._idle
        if len(idle) >= self._max_idle:
            if not idle:
                connection.abort()
                return
            next(iter(idle)).abort()
        idle[connection] = None
        if self._sweep is None:
            self._sweep = self._bind().call_later(self._limits.idle_ttl_s, self._sweep_idle)

    def connection_lost(self, connection: Connection) -> None:
        """Forget ``connection``; its slot goes to the first waiter."""
        self._idle.pop(connection, None)
        if connection in self._open:
            self._open.remove(connection)
            self._free_slot()

    # ------------------------------------------------------------------ getting a connection

    def _pop_idle(self) -> Connection | None:
        """The most recently used idle connection that is young enough."""
        idle = self._idle
        while idle:
            conn, _ = idle.popitem()
            if time.monotonic_ns() - conn.idle_since_ns < self._idle_ttl_ns:
                self._pause.connection_used = True
                return conn
            conn.abort()
        return None

    async def _acquire(
        self, exchange: Exchange, within: Timeouts, conn: Connection | None
    ) -> Connection:
        """A usable connection: ``conn``, an idle one, a new one, or one that is waited for."""
        first = False
        while True:
            if conn is not None and await self._is_usable(conn):
                exchange.reused = True
                return conn
            self._check_open()
            conn = self._pop_idle()
            if conn is None and self._slots < self._limits.max_connections:
                self._slots += 1
                return await self._open_for(exchange, within)
            if conn is None:
                conn = await self._wait_for_connection(exchange, within, first=first)
                # If it is unusable by the time we check it, wait again, first in line.
                first = True
                if conn is None:
                    return await self._open_for(exchange, within)

    async def _is_usable(self, conn: Connection) -> bool:
        """Whether ``conn``, which has no exchange, may be used; if not, it is closed."""
        for _ in range(_MAX_CHECKS):
            if conn.closed:
                return False
            if conn.is_silent():
                return True
            if not conn.tls_ns:
                break
            # Perhaps only TLS talking to itself (session tickets after the handshake): let the loop
            # read it, which closes the connection if it is anything else.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self._return_unused(conn)
                raise
        conn.abort()
        return False

    async def _acquire_new(self, exchange: Exchange, within: Timeouts) -> Connection:
        """A connection that nothing was sent on, at the cost of an old one if the pool is full."""
        while True:
            self._check_open()
            if self._slots < self._limits.max_connections:
                self._slots += 1
                break
            old = next(iter(self._idle), None)
            if old is None:
                old = await self._wait_for_connection(exchange, within, first=True)
            if old is None:
                break
            if not old.closed:
                # Its slot becomes ours: lost() frees only the slots of connections that it knows.
                self._open.discard(old)
                self._idle.pop(old, None)
                old.abort()
                break
        return await self._open_for(exchange, within)

    async def _wait_for_connection(
        self, exchange: Exchange, within: Timeouts, *, first: bool
    ) -> Connection | None:
        """Wait for a connection, or for a slot (None), which the caller then owns."""
        loop = self._bind()
        turn: asyncio.Future[Connection | None] = loop.create_future()
        left_s = (exchange.total_at_ns - time.monotonic_ns()) / _NS_PER_S
        in_queue = within.queue_s is not None and within.queue_s < left_s
        timer = loop.call_later(
            within.queue_s if in_queue and within.queue_s is not None else max(0.0, left_s),
            self._wait_timed_out,
            turn,
            "queue" if in_queue else "total",
        )
        if first:
            self._waiters.appendleft(turn)
        else:
            self._waiters.append(turn)
        self._waiting += 1
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._return_unused(turn.result())
            raise
        finally:
            self._waiting -= 1
            timer.cancel()

    def _return_unused(self, got: Connection | None) -> None:
        """Return what was received in the same moment as a cancellation."""
        if got is None:
            self._free_slot()
        elif not got.closed:
            self.connection_released(got)

    def _wait_timed_out(self, turn: asyncio.Future[Connection | None], phase: str) -> None:
        if not turn.done():
            turn.set_exception(
                UpstreamTimeout(
                    f"No connection to {self._where} became free in time ({phase} timeout; "
                    f"{self._limits.max_connections} are busy: raise max_connections or send less)",
                    phase=phase,
                )
            )

    def _hand_to_waiter(self, what: Connection | None) -> bool:
        """Give a connection, or a slot (None), to the first waiter that still waits."""
        while self._waiters:
            turn = self._waiters.popleft()
            if not turn.done():
                turn.set_result(what)
                return True
        return False

    def _free_slot(self) -> None:
        if self._waiters and self._hand_to_waiter(None):
            return
        self._slots -= 1
        if self._slots < self._limits.warm:
            self._warm_wanted.set()
        if not self._slots and self._all_closed is not None and not self._all_closed.done():
            self._all_closed.set_result(None)

    # ------------------------------------------------------------------ opening

    async def _open_for(self, exchange: Exchange, within: Timeouts) -> Connection:
        conn = await self._open_connection(within, exchange.total_at_ns)
        exchange.connected_ns, exchange.tls_ns = conn.connected_ns, conn.tls_ns
        exchange.reused = False
        return conn

    async def _open_connection(self, within: Timeouts, total_at_ns: int) -> Connection:
        """Connect, on a slot that the caller took; the slot is freed if that fails."""
        conn = Connection(self, self._bind(), self._where)
        try:
            await self._connect(conn, within, total_at_ns)
            self._check_usable(conn)
        except BaseException:
            conn.abort()
            self._free_slot()
            raise
        self._open.add(conn)
        self._opened_total += 1
        return conn

    async def _connect(self, conn: Connection, within: Timeouts, total_at_ns: int) -> None:
        loop = self._bind()
        dialled = self._dial(loop, conn, self.origin)
        transport = await self._phase("connect", within.connect_s, total_at_ns, dialled)
        if self._ssl is None:
            return
        layer = TlsLayer(conn, transport, self._ssl, self.origin.host)
        greeting = layer.handshake(loop)
        protocol = await self._phase("tls", within.tls_s, total_at_ns, greeting)
        if conn.closed:
            raise UpstreamRefused(f"{self._where} closed the connection within the TLS handshake")
        conn.tls_established(layer)
        if protocol not in {None, "http/1.1"}:
            raise UpstreamRefused(f"{self._where} insists on {protocol}; only HTTP/1.1 is spoken")

    async def _phase(self, phase: str, limit_s: float, total_at_ns: int, work: Awaitable[_T]) -> _T:
        """Await ``work`` within its limit. Connecting is rare enough for asyncio.timeout's 3 us."""
        left_s = (total_at_ns - time.monotonic_ns()) / _NS_PER_S
        if left_s < limit_s:
            phase, limit_s = "total", left_s
        try:
            async with asyncio.timeout(limit_s):
                return await work
        except TimeoutError as exc:
            raise UpstreamTimeout(
                f"{self._where} did not answer in time ({phase} timeout)", phase=phase
            ) from exc
        except (OSError, UnicodeError) as exc:  # TCP and TLS; names that DNS cannot carry.
            raise connect_error(self._where, phase, exc) from exc

    # ------------------------------------------------------------------ upkeep

    def _sweep_idle(self) -> None:
        """Close connections that were idle too long, oldest first, up to the first young one."""
        self._sweep = None
        now = time.monotonic_ns()
        while self._idle:
            oldest = next(iter(self._idle))
            left_ns = oldest.idle_since_ns + self._idle_ttl_ns - now
            if left_ns > 0:
                self._sweep = self._bind().call_later(left_ns / _NS_PER_S, self._sweep_idle)
                return
            oldest.abort()

    async def _keep_warm(self) -> None:
        while True:
            self._warm_wanted.clear()
            self._pause.begin()
            await self._open_warm()
            await asyncio.sleep(self._pause.seconds)
            if self._slots >= self._limits.warm:
                await self._warm_wanted.wait()
            self._pause.finish()

    async def _open_warm(self) -> None:
        while self._slots < self._limits.warm:
            self._slots += 1
            total_at_ns = time.monotonic_ns() + self._timeouts.total_ns
            try:
                conn = await self._open_connection(self._timeouts, total_at_ns)
            except GatewayError:
                # Not fatal, and not silent: counted, and the requests that come meet the same error.
                self._warm_failures_total += 1
                return
            conn.idle_since_ns = time.monotonic_ns()
            self.connection_released(conn)

    async def _stop_warming(self) -> None:
        warmer, self._warmer = self._warmer, None
        if warmer is not None:
            warmer.cancel()
            await asyncio.wait([warmer])

    def _bind(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _check_open(self) -> None:
        if self._closed:
            raise self._refusal()

    def _check_usable(self, conn: Connection) -> None:
        self._check_open()
        if conn.closed:
            raise UpstreamRefused(f"{self._where} closed the connection as soon as it was open")

    def _refusal(self) -> UpstreamRefused:
        return UpstreamRefused(f"The pool of {self._where} is closing", code="upstream_pool_closed")
