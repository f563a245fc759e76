"""Limits the request bodies of administrative routes, each and in sum.

FastAPI reads a body without a limit and before authentication, so an unauthenticated client could fill the
memory. These bodies have a sum of their own, so that they cannot use up what inference requests need.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.body_memory import BodyMemory, Lease
from app.api.content_encoding import coding_of, decoding
from app.api.inference import read_headers
from app.api.problems import refusal
from app.api.request_parsing import request_id_of
from app.errors import GatewayError, TooLarge


class BodyLimit:
    """ASGI middleware: reads the body within the limits, then calls the application."""

    def __init__(self, app: ASGIApp, most_body_bytes: int, bodies: BodyMemory) -> None:
        """Wrap ``app``; ``bodies`` counts the bodies of these routes alone."""
        self._app, self._most, self._bodies = app, most_body_bytes, bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, then serve; one that is too large is refused before it is held."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        with self._bodies.lease() as lease:
            try:
                body = await self._read(scope, receive, lease)
            except GatewayError as error:
                found, _ = read_headers(scope["headers"])
                answer = refusal(error)
                answer.headers["x-request-id"] = request_id_of(found.get(b"x-request-id"))
                await answer(scope, receive, send)
                return
            if body is None:
                return
            given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

            async def replay() -> Message:
                return given.pop() if given else await receive()

            await self._app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive, lease: Lease) -> bytes | None:
        """The body; None if the client disconnected before it was complete."""
        declared = dict(scope["headers"]).get(b"content-length", b"")
        coding = coding_of(scope["headers"])
        if coding is not None:
            receive = decoding(receive, coding)
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            if size > self._most or (declared.isdigit() and int(declared) > self._most):
                raise TooLarge(
                    f"the body is larger than {self._most} bytes (server.max_body_bytes)"
                )
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            piece: bytes = message.get("body", b"")
            lease.take(piece)
            pieces.append(piece)
            size += len(piece)
            more = bool(message.get("more_body")) or size > self._most
        return b"".join(pieces)
