"""The application: its endpoints and its lifespan, nothing else.

The inference endpoints are pure ASGI and are found by one dict lookup before FastAPI's router; everything
else (administration, the console, the OpenAPI document) is FastAPI's (``app.api.admin_routes``).

Importing this module loads little more than FastAPI. ``create_app`` loads the gateway; ``app.server`` starts
the vector process and the simulator before that, so that they load on another CPU meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__
from app.api.cross_origin import CrossOrigin
from app.api.draining import RELOAD_REFUSED_FILE, drain_on_sigterm, wait_for_last_responses
from app.api.head_requests import answer_head
from app.api.openapi import describe_inference
from app.api.warm_up import WARM_UP, warming_up
from app.domain.chat import Dialect

if TYPE_CHECKING:
    from app.api.head_template import Endpoint
    from app.settings import Settings
    from app.stores.sidecar_start import StartedProcess

_INFERENCE = {
    "/v1/chat/completions": Dialect.CHAT,
    "/v1/responses": Dialect.RESPONSES,
    "/v1/messages": Dialect.MESSAGES,
}


class SlipstreamApp(FastAPI):
    """FastAPI, with the inference endpoints in front of its router."""

    hot: dict[str, ASGIApp]
    native: dict[str, Endpoint]
    """Endpoints that our own protocol class calls without ASGI if it knows a request's head."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an inference endpoint at once, everything else as FastAPI does."""
        if scope["type"] == "http":
            endpoint = self.hot.get(scope["path"])
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
            if WARM_UP not in scope:
                await (
                    self.state.context.edge.finish_deferred_work()
                )  # administrative routes read its results
            if scope["method"] == "HEAD":
                await answer_head(super().__call__, scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def create_app(
    settings: Settings,
    *,
    simulated: bool = False,
    siblings: Path | None = None,
    alone: bool = False,
    encoder: StartedProcess | None = None,
) -> SlipstreamApp:
    """Build the application; ``simulated``: its models are simulated.

    ``siblings`` is the folder of the workers' sockets; None: there is one worker. ``alone``: it is a gateway
    of a single process, whose shutdown ``app.reloading`` handles. ``encoder``: the vector process, if already
    started.
    """
    # The gateway: here and not above, so that an import of this module costs a third of all this.
    from app.api.admin_routes import add_admin_routes
    from app.api.agent import AgentEndpoint
    from app.api.count_tokens import CountTokens
    from app.api.inference import Inference
    from app.api.sibling_approvals import ForSiblings, SiblingApprovals
    from app.api.siblings import serve_siblings
    from app.bootstrap import open_gateway

    origins = settings.server.cors_origins

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_gateway(settings, simulated=simulated, encoder=encoder) as context:
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
                    context.runs.siblings = SiblingApprovals(siblings)
                    served = ForSiblings(app, context.runs)
                    await beside.enter_async_context(serve_siblings(served, siblings))
                    context.readiness.reload_refused_file = siblings / RELOAD_REFUSED_FILE
                with drain_on_sigterm(lambda: [context], lambda: settings.server.drain_s, siblings):
                    async with warming_up(app):
                        yield
                context.readiness.draining = True
                await wait_for_last_responses(context)

    docs = settings.server.docs_enabled
    app = SlipstreamApp(
        title="Slipstream",
        version=__version__,
        description="A latency-optimizing agent gateway.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own loads its scripts from elsewhere; ours is in administration
        redoc_url=None,
        openapi_url="/openapi.json" if docs else None,
    )
    app.hot, app.native = {}, {}
    add_admin_routes(app, settings, siblings)
    app.openapi = partial(describe_inference, app, app.openapi)  # type: ignore[method-assign]
    return app


__all__ = ["create_app"]
