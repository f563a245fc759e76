"""The application: routes, middlewares, lifespan; nothing else.

The inference endpoints are pure ASGI and are found by one look into a dict, before FastAPI's router;
everything else (administration, the console, the OpenAPI document) is FastAPI's.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import __version__
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
from app.api.agent import AgentEndpoint
from app.api.bodies import Bodies
from app.api.body_limit import BodyLimit
from app.api.count_tokens import CountTokens
from app.api.cross_origin import CrossOrigin
from app.api.draining import REFUSED, last_words, told_to_end
from app.api.inference import Inference, read_headers
from app.api.known_head import Endpoint
from app.api.openapi import describe_inference
from app.api.reading import request_id_of
from app.api.siblings import Siblings, listening
from app.bootstrap import open_gateway
from app.domain.chat import Dialect
from app.settings import Settings

_ADMIN_PART = 8
"""Of the bytes that bodies may hold, one part in so many is for administrative routes."""
_CONSOLE = Path(__file__).parent / "console"
_CONSOLE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    b" font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_INFERENCE = {
    "/v1/chat/completions": Dialect.CHAT,
    "/v1/responses": Dialect.RESPONSES,
    "/v1/messages": Dialect.MESSAGES,
}


class SlipstreamApp(FastAPI):
    """FastAPI, with the inference endpoints in front of its router."""

    hot: dict[str, ASGIApp]
    native: dict[str, Endpoint]
    """Those that our own server asks without ASGI where it knows a request's head."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an inference endpoint at once, everything else as FastAPI does."""
        if scope["type"] == "http":
            endpoint = self.hot.get(scope["path"])
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def create_app(
    settings: Settings,
    *,
    simulated: bool = False,
    siblings: Path | None = None,
    alone: bool = False,
) -> SlipstreamApp:
    """The whole application; ``simulated`` says that the models behind it are not real.

    ``siblings`` is the folder in which the workers of one server find each other; None: there is but one.
    ``alone``: it is one of a lone worker's gateways, whose end ``app.reloading`` sees to.
    """
    origins = settings.server.cors_origins

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_gateway(settings, simulated=simulated) as context:
            app.state.context = context
            inference = {
                path: Inference(dialect, context.edge)
                for path, dialect in _INFERENCE.items()
                if dialect in context.edge.gateway.codecs
            }
            hot: dict[str, ASGIApp] = {**inference}
            hot["/v1/messages/count_tokens"] = CountTokens(context.edge)
            hot["/v1/agent"] = AgentEndpoint(
                context.edge, context.runs, settings.server.sse_comment_s
            )
            if origins:
                hot = {path: CrossOrigin(endpoint, origins) for path, endpoint in hot.items()}
            app.hot, app.native = hot, inference  # type: ignore[attr-defined]
            if alone:
                yield
                return
            async with AsyncExitStack() as beside:
                if siblings is not None:
                    await beside.enter_async_context(listening(app, siblings))
                if siblings is not None:
                    context.readiness.refusal = siblings / REFUSED
                with told_to_end(lambda: [context], lambda: settings.server.drain_s, siblings):
                    yield
                context.readiness.draining = True
                await last_words(context)

    docs = settings.server.docs_enabled
    app = SlipstreamApp(
        title="Slipstream",
        version=__version__,
        description="A latency-optimizing agent gateway.",
        lifespan=lifespan,
        docs_url="/docs" if docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if docs else None,
    )
    app.hot, app.native = {}, {}
    problems.install(app)
    parts = (
        *(models, cache_entries, cache, cache_transfer, feedback),
        *(jobs, observe, upstreams, prompts, runs),
    )
    for part in parts:
        app.include_router(part.router)
    app.openapi = partial(describe_inference, app, app.openapi)  # type: ignore[method-assign]
    app.router.routes.append(Route("/", _console_page, include_in_schema=False))
    app.mount("/console", ConsoleFiles(directory=_CONSOLE), name="console")
    app.add_middleware(Admin)
    if origins:
        app.add_middleware(CrossOrigin, origins=origins)
    if siblings is not None:
        app.add_middleware(Siblings, folder=siblings, shared=bool(settings.state.redis_url))
    most = settings.server.max_body_bytes
    bodies = Bodies(max(most, settings.server.max_bodies_bytes // _ADMIN_PART), most)
    app.add_middleware(BodyLimit, most_body_bytes=most, bodies=bodies)
    return app


class ConsoleFiles(StaticFiles):
    """The console's static files; the package's own Python is none of them."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Find the file of ``path``."""
        return ("", None) if path.endswith(".py") else super().lookup_path(path)


async def _console_page(_: object) -> Response:
    page = (_CONSOLE / "index.html").read_bytes()
    return Response(page, media_type="text/html")


class Admin:
    """Pure ASGI: gives every administrative answer its request id and the console its policy."""

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
        console = scope["path"] == "/" or scope["path"].startswith("/console/")

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


__all__ = ["create_app"]
