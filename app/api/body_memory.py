"""Bounds the memory of all request bodies in flight together, whatever clients do.

Theory of operation. ``max_body_bytes`` bounds one body, ``max_inflight_requests`` their number, and the
product of the two is no bound that a machine has. So every body that is more than one small read takes a
lease on one sum, piece by piece as it comes, until its request is done. Leased is what the body will weigh
when it is read as JSON, not its length: three bytes (``[],``) make seventy-two. A request that finds the sum
taken is told 503 with ``retry-after``; one that alone weighs over a quarter of it is told 413. Smaller bodies
are bounded by the number of requests alone and cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from starlette.types import Message, Receive

from app.api.outlet import Outlet
from app.errors import GatewayError, Overloaded, TooLarge

SMALL_BYTES = 65_536
"""A body of one read up to this size takes no lease."""
_RETRY_AFTER_S = 1
_ALONE = 4
EstimateMemory = Callable[["bytes | bytearray"], int]


class BodyMemory:
    """The sum over all bodies; owned by one event loop."""

    def __init__(self, most_bytes: int, most_body_bytes: int, weigh: EstimateMemory) -> None:
        """Allow ``most_bytes`` for all bodies, and always one of ``most_body_bytes`` plain text.

        ``weigh`` says what a piece of one weighs, see ``app.api.json_memory``.
        """
        self.estimate = weigh
        self.max_bytes = most_bytes
        self.max_body_bytes = max(most_bytes // _ALONE, min(most_bytes, 2 * most_body_bytes))
        self.held_bytes = 0

    def lease(self) -> Lease:
        """An empty lease; a context manager that returns it."""
        return Lease(self)


class Lease:
    """One request's share of the sum."""

    __slots__ = ("_bodies", "held_bytes")

    def __init__(self, bodies: BodyMemory) -> None:
        self._bodies = bodies
        self.held_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        """Return everything."""
        self._bodies.held_bytes -= self.held_bytes
        self.held_bytes = 0

    def take(self, piece: bytes | bytearray) -> None:
        """Lease the memory of ``piece``; raises ``Overloaded``, or ``TooLarge`` where it could never fit."""
        bodies = self._bodies
        weight = bodies.estimate(piece)
        if self.held_bytes + weight > bodies.max_body_bytes:
            message = (
                f"the body would take more than {bodies.max_body_bytes} bytes of memory when it is "
                "read: send fewer values, or raise server.max_bodies_bytes"
            )
            raise TooLarge(message)
        if bodies.held_bytes + weight > bodies.max_bytes:
            message = "the requests in flight hold as many bytes as they may: come back shortly"
            raise Overloaded(message, retry_after_s=_RETRY_AFTER_S)
        bodies.held_bytes += weight
        self.held_bytes += weight

    def counting(self, receive: Receive, outlet: Outlet) -> Receive:
        """``receive``, with each piece counted; a body refused midway closes its connection."""

        async def counted() -> Message:
            message = await receive()
            piece: bytes = message.get("body", b"")
            if piece:
                try:
                    self.take(piece)
                except GatewayError:
                    outlet.keep_alive, outlet.drains_request = False, True
                    raise
            return message

        return counted
