"""The administrative routes, the console, and the middleware around them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import (
    cache,
    cache_entries,
    cache_transfer,
    feedback,
    jobs,
    models,
    observe,
    problems,
    prompts,
    runs,
    upstreams,
)
from app.api.body_limit import BodyLimit
from app.api.body_memory import BodyMemory
from app.api.cross_origin import CrossOrigin
from app.api.inference import read_headers
from app.api.json_memory import json_memory_bytes
from app.api.problems import REQUEST_ID
from app.api.request_parsing import request_id_of
from app.api.siblings import Siblings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.settings import Settings

_ADMIN_SHARE = 8
"""Administrative routes get one part in so many of the bytes that request bodies may hold."""
_CONSOLE = Path(__file__).parent.parent / "console"
_PAGES = frozenset({"/", "/docs"})
_CONSOLE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    b" font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_admin_routes(app: FastAPI, settings: Settings, siblings: Path | None) -> None:
    """Add the routes and their middleware to ``app``; ``siblings`` as for ``create_app``."""
    problems.install(app)
    parts = (
        *(models, cache_entries, cache, cache_transfer, feedback),
        *(jobs, observe, upstreams, prompts, runs),
    )
    for part in parts:
        app.include_router(part.router)
    app.get("/", tags=["console"], response_class=HTMLResponse)(_console_page)
    if settings.server.docs_enabled:
        app.router.routes.append(Route("/docs", _docs_page, include_in_schema=False))
    app.mount("/console", ConsoleFiles(directory=_CONSOLE), name="console")
    app.add_middleware(AdminHeaders)
    if settings.server.cors_origins:
        app.add_middleware(CrossOrigin, origins=settings.server.cors_origins)
    if siblings is not None:
        app.add_middleware(Siblings, folder=siblings, shared=bool(settings.state.redis_url))
    most = settings.server.max_body_bytes
    together = max(most, settings.server.max_bodies_bytes // _ADMIN_SHARE)
    bodies = BodyMemory(together, most, json_memory_bytes)
    app.add_middleware(BodyLimit, most_body_bytes=most, bodies=bodies)


class ConsoleFiles(StaticFiles):
    """The console's static files, without the package's Python."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Find the file of ``path``."""
        return ("", None) if path.endswith(".py") else super().lookup_path(path)


async def _console_page() -> Response:
    """The console: chat, requests, agents and the cache."""
    page = (_CONSOLE / "index.html").read_bytes()
    return Response(page, media_type="text/html")


async def _docs_page(_: object) -> Response:
    page = (_CONSOLE / "docs.html").read_bytes()
    return Response(page, media_type="text/html")


class AdminHeaders:
    """ASGI middleware: adds the request id to every response and security headers to the console's."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap ``app``."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to the response's start."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found, _ = read_headers(scope["headers"])
        request_id = request_id_of(found.get(b"x-request-id")).encode("ascii")
        scope[REQUEST_ID] = request_id.decode()
        console = scope["path"] in _PAGES or scope["path"].startswith("/console/")

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-request-id", request_id)]
                if console:
                    headers.append((b"content-security-policy", _CONSOLE_POLICY))
                    headers.append((b"cache-control", b"no-cache"))
                headers.append((b"x-content-type-options", b"nosniff"))
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, add)
