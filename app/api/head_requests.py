"""HEAD on every GET route (RFC 9110, 9.3.2): the status and headers that GET answers, without its body.

FastAPI gives a GET route no HEAD. Answered here, in front of all layers, it needs nothing of the routes or of
how answers of several workers are merged.
"""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send


async def answer_head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run GET of the same path, and cancel it once its headers are sent; an event stream ends there too."""
    with anyio.CancelScope() as get:

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                get.cancel()

        await app({**scope, "method": "GET"}, receive, send_head)


def with_head(allow: str) -> str:
    """The value of an ``allow`` header with HEAD wherever GET is."""
    methods = allow.split(", ")
    return ", ".join([*methods, "HEAD"]) if "GET" in methods and "HEAD" not in methods else allow
