"""A silent stream is kept alive by SSE comments, also before the upstream has said anything at all."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from tests.e2e.asking import DIALECTS, PATHS, body_of
from tests.e2e.conftest import NO_TLS
from tests.e2e.test_passthrough import MODELS, STREAMS
from tests.support.gateway import configuration, running_gateway
from tests.support.raw_server import Peer, raw_server

pytestmark = pytest.mark.anyio

SERVER = {"sse_comment_s": 0.1}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize("native", [True, False], ids=["our protocol", "any ASGI server"])
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("silent", ["before the headers", "before the first event", "mid-stream"])
async def test_silence_is_filled_with_comments(dialect, silent, native):
    """The upstream speaks only once a comment has reached the client; the frames stay whole around it."""
    heard = asyncio.Event()
    data = STREAMS[dialect]
    cut = data.index(b"\n\n", 20) + 2

    async def upstream(peer: Peer) -> None:
        await peer.request()
        first, rest = (b"", data) if silent != "mid-stream" else (data[:cut], data[cut:])
        if silent != "before the headers":
            await peer.send(HEAD, first)
        await heard.wait()
        await peer.send(HEAD if silent == "before the headers" else b"", rest)
        peer.close()

    async with (
        raw_server(upstream) as server,
        running_gateway(
            configuration(f"http://127.0.0.1:{server.port}", server=SERVER), native=native
        ) as gateway,
        httpx2.AsyncClient(verify=NO_TLS, base_url=gateway.url) as http,
    ):
        body = body_of(dialect, MODELS[dialect], "hi", stream=True)
        if dialect == "chat":
            body["stream_options"] = {"include_usage": True}
        got = b""
        async with http.stream("POST", PATHS[dialect], json=body) as reply:
            assert reply.status_code == 200
            async for piece in reply.aiter_bytes():
                got += piece
                if b": keep-alive\n\n" in got:
                    heard.set()
    assert got.replace(b": keep-alive\n\n", b"") == data


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_failure_after_a_comment_is_told_within_the_stream(dialect):
    """The status was fixed at 200 by the comment; the official package raises all the same."""
    heard = asyncio.Event()

    async def upstream(peer: Peer) -> None:
        await peer.request()
        await heard.wait()
        said = b'{"error":{"message":"not this one"}}'
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        await peer.send(head % len(said) + said)

    async with (
        raw_server(upstream) as server,
        running_gateway(configuration(f"http://127.0.0.1:{server.port}", server=SERVER)) as gateway,
        httpx2.AsyncClient(verify=NO_TLS, base_url=gateway.url) as http,
    ):
        got = b""
        body = body_of(dialect, MODELS[dialect], "hi", stream=True)
        async with http.stream("POST", PATHS[dialect], json=body) as reply:
            async for piece in reply.aiter_bytes():
                got += piece
                heard.set()
        assert reply.status_code == 200
        assert b"error" in got
        assert b"[DONE]" not in got
        assert b"message_stop" not in got
