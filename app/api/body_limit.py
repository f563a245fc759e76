"""Bodies of the administrative routes: whole, of a bounded size, and with a bounded sum of their own.

FastAPI reads a body before it asks who calls, and without a limit, so that a stranger could fill the memory,
and could take from one common sum what clients with keys need.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.bodies import Bodies, Lease
from app.api.coded_body import coding_of, decoding
from app.api.inference import read_headers
from app.api.problems import refusal
from app.api.reading import request_id_of
from app.errors import GatewayError, TooLarge


class BodyLimit:
    """Pure ASGI: the administrative routes get bodies that are whole, of a bounded size and a bounded sum."""

    def __init__(self, app: ASGIApp, most_body_bytes: int, bodies: Bodies) -> None:
        """Wrap ``app``; ``bodies`` is theirs alone."""
        self._app, self._most, self._bodies = app, most_body_bytes, bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, then serve; what is too large is refused before it is held."""
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
        """The body; None where the client left before it was whole."""
        told = dict(scope["headers"]).get(b"content-length", b"")
        coding = coding_of(scope["headers"])
        if coding is not None:
            receive = decoding(receive, coding)
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            if size > self._most or (told.isdigit() and int(told) > self._most):
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
