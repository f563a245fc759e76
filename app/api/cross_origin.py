"""CORS: let pages of configured origins call the gateway, at no cost to other clients.

A request without an ``origin`` header does not come from a browser and passes untouched, through the native
outlet. One with it is answered over plain ASGI, so that Starlette's middleware can add its headers.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_METHODS = ("GET", "POST", "DELETE")
_EXPOSED_HEADERS = (
    "x-request-id",
    "x-slipstream-cache",
    "x-slipstream-model",
    "x-slipstream-tier",
    "x-slipstream-reason",
    "x-slipstream-dropped",
    "server-timing",
    "retry-after",
)
_PREFLIGHT_MAX_AGE_S = 3600


class CrossOrigin:
    """ASGI middleware around an application or a single endpoint."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        """Allow pages of ``origins`` to call ``app``; ``*`` allows all. No cookies: keys are in headers."""
        self._app = app
        self._browsers = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=("*",),
            expose_headers=_EXPOSED_HEADERS,
            max_age=_PREFLIGHT_MAX_AGE_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not any(name == b"origin" for name, _ in scope["headers"]):
            await self._app(scope, receive, send)
            return
        extensions = dict(scope.get("extensions") or {})
        extensions.pop("slipstream", None)
        await self._browsers({**scope, "extensions": extensions}, receive, send)
