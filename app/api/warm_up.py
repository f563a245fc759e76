"""Does what FastAPI leaves to an application's first request, in a thread before one arrives.

Each route's plan and some imports: 20 ms and more, for which every stream of the process would stand still
at the first scrape or health check after a start, and again after each reload.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Message

WARM_UP = "slipstream.first"
"""In the scope of this request alone: it runs beside the event loop, whose own it must leave alone."""
_PATH = "/readyz"
_SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.4"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": _PATH,
    "raw_path": _PATH.encode(),
    "query_string": b"",
    "root_path": "",
    "headers": [],
    "client": ("127.0.0.1", 0),
    "server": ("127.0.0.1", 0),
    WARM_UP: True,
}


async def send_first_request(app: ASGIApp) -> None:
    """Send ``app`` a readiness request from a thread; cancelled, it lets the thread finish by itself."""
    await asyncio.to_thread(_ask, app)


@asynccontextmanager
async def warming_up(app: ASGIApp) -> AsyncIterator[None]:
    """The same in the background of the ``async with`` body; ends when the body does."""
    asking = asyncio.get_running_loop().create_task(send_first_request(app), name="first request")
    try:
        yield
    finally:
        await asyncio.wait({asking})
        asking.result()


def _ask(app: ASGIApp) -> None:
    asyncio.run(_asked(app))


async def _asked(app: ASGIApp) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Message) -> None:
        pass

    await app(dict(_SCOPE), receive, send)
