"""The least proxy that our own parts make: pure ASGI and our pool; no key, no cache, no metric, no log.

What the gateway's features cost is measured against it: server, client library and language are the same.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping

from app.upstream import Exchange, Origin, Pool, PoolLimits, Timeouts

Message = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_LIMITS = PoolLimits(max_connections=1000, max_idle=1000)
_TIMEOUTS = Timeouts(connect_s=5, tls_s=5, first_byte_s=60, between_bytes_s=60, total_s=600)
_MAX_ANSWER_BYTES = 64 << 20
_HEADERS = ((b"content-type", b"application/json"),)


class BareWire:
    """An ASGI application that forwards bodies and nothing else."""

    def __init__(self, base_url: str) -> None:
        """Forward to ``base_url``."""
        origin, _ = Origin.parse(base_url)
        self._pool = Pool(origin, _LIMITS, _TIMEOUTS)
        self._starts: dict[str, bytes] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or the server's own start and end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = b""
        more: object = True
        while more:
            message = await receive()
            piece = message.get("body", b"")
            assert isinstance(piece, bytes)
            body += piece
            more = message.get("more_body")
        path = str(scope["path"])
        start = self._starts.get(path)
        if start is None:
            start = self._starts[path] = self._pool.head_start(path.encode(), _HEADERS)
        exchange = self._pool.try_send(start, body, _TIMEOUTS)
        if exchange is not None:
            await exchange.wait_for_head()
        if exchange is None or not exchange.status:
            exchange = await self._pool.send_or_replay(exchange, start, body, _TIMEOUTS)
        await _forward(exchange, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            kind = (await receive())["type"]
            if kind == "lifespan.shutdown":
                await self._pool.aclose()
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return


async def _forward(exchange: Exchange, send: Send) -> None:
    kind = dict(exchange.headers).get(b"content-type", b"")
    head: Message = {"type": "http.response.start", "status": exchange.status}
    if kind.startswith(b"text/event-stream"):
        await send({**head, "headers": [(b"content-type", kind)]})
        while data := await exchange.read():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body"})
        return
    body = exchange.take_unread() or await exchange.read_all(_MAX_ANSWER_BYTES)
    length = (b"content-length", b"%d" % len(body))
    await send({**head, "headers": [(b"content-type", kind), length]})
    await send({"type": "http.response.body", "body": body})


def create_app() -> BareWire:
    """The application, for `uvicorn --factory`."""
    return BareWire(os.environ["BENCH_UPSTREAM"])
