"""Let pages of named origins call the gateway: CORS, paid for by browsers alone.

A request without an ``origin`` header comes from a program and passes untouched, on the fast way out.
One with it is answered over plain ASGI, where Starlette's own middleware adds what a browser asks for;
the native outlet would write past it.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_METHODS = ("GET", "POST", "DELETE")
_READABLE = (
    "x-request-id",
    "x-slipstream-cache",
    "x-slipstream-model",
    "x-slipstream-tier",
    "x-slipstream-reason",
    "x-slipstream-dropped",
    "server-timing",
    "retry-after",
)
_PREFLIGHT_KEPT_S = 3600


class CrossOrigin:
    """Pure ASGI around an application or a single endpoint."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        """Let pages of ``origins`` call ``app``; ``*`` lets all. No cookies: keys travel in headers."""
        self._app = app
        self._browsers = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=("*",),
            expose_headers=_READABLE,
            max_age=_PREFLIGHT_KEPT_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not any(name == b"origin" for name, _ in scope["headers"]):
            await self._app(scope, receive, send)
            return
        extensions = dict(scope.get("extensions") or {})
        extensions.pop("slipstream", None)
        await self._browsers({**scope, "extensions": extensions}, receive, send)
