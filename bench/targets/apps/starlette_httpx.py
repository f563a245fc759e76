"""The least proxy that Starlette and httpx make: no key, no cache, no metric, no log."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

_PASSED_ON = ("content-type", "authorization", "accept")


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)
    base_url = os.environ["BENCH_UPSTREAM"]
    async with httpx.AsyncClient(base_url=base_url, limits=limits, timeout=600) as client:
        app.state.client = client
        yield


async def _forward(request: Request) -> Response:
    client: httpx.AsyncClient = request.app.state.client
    body = await request.body()
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    upstream = client.build_request("POST", request.url.path, content=body, headers=headers)
    answer = await client.send(upstream, stream=True)
    content_type = answer.headers.get("content-type", "")
    if content_type.startswith("text/event-stream"):
        return StreamingResponse(
            answer.aiter_raw(),
            status_code=answer.status_code,
            media_type=content_type,
            background=BackgroundTask(answer.aclose),
        )
    content = await answer.aread()
    await answer.aclose()
    return Response(content, status_code=answer.status_code, media_type=content_type)


def create_app() -> Starlette:
    """The application, for `uvicorn --factory`."""
    routes = [
        Route("/v1/chat/completions", _forward, methods=["POST"]),
        Route("/v1/messages", _forward, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=_lifespan)
