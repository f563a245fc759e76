"""A client may leave at any moment: the upstream call stops at once, and the turn counts as 499.

Real sockets on both sides: the client closes its connection, and the upstream reports that its peer hung up.
"""

from __future__ import annotations

import asyncio
import json
import time
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.gateway import Running, configuration, running_gateway
from tests.support.raw_server import PATIENCE_S, Peer, raw_server
from tests.support.scripted_model import Speaking, scripted_model

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FRAME = (
    b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":%s,"finish_reason":%s}]}\n\n'
)
ROLE = FRAME % (b'{"role":"assistant","content":"Hello"}', b"null")
END = FRAME % (b"{}", b'"stop"') + b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


async def ask(
    gateway: Running, *, stream: bool, model: str = "small", text: str = "hi"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a chat request over a connection of its own and leave it open."""
    url = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    body = json.dumps(
        {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}
    ).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s"
        % (len(body), body)
    )
    await writer.drain()
    return reader, writer


async def gone_after_leaving(writer: asyncio.StreamWriter, peer: Peer) -> float:
    """Leave, and wait until the upstream has seen it; seconds in between."""
    began = time.perf_counter()
    writer.transport.abort()
    await asyncio.wait_for(peer.gone.wait(), PATIENCE_S)
    return time.perf_counter() - began


async def settled(gateway: Running) -> dict[str, object]:
    """The newest trace, once there is one."""
    async with asyncio.timeout(PATIENCE_S):
        # A settled turn owes a test no event.
        while not (found := gateway.context.telemetry.traces.latest(1)):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    return found[0]


@pytest.mark.parametrize("native", [True, False], ids=["our protocol", "any ASGI server"])
@pytest.mark.parametrize("window", ["before_headers", "before_first_token", "mid_stream", "json"])
async def test_a_client_that_leaves_stops_the_upstream_and_counts_as_499(
    window: str, native: bool
) -> None:
    """In all four windows."""
    reached: asyncio.Queue[Peer] = asyncio.Queue()

    async def upstream(peer: Peer) -> None:
        await peer.request()
        if window in {"before_first_token", "mid_stream"}:
            await peer.send(HEAD)
        if window == "mid_stream":
            await peer.send(chunk(ROLE))
        reached.put_nowait(peer)
        await peer.gone.wait()

    async with (
        raw_server(upstream) as server,
        running_gateway(configuration(f"http://127.0.0.1:{server.port}"), native=native) as gateway,
    ):
        reader, writer = await ask(gateway, stream=window != "json")
        peer = await asyncio.wait_for(reached.get(), PATIENCE_S)
        if window == "mid_stream":
            await reader.readuntil(b"Hello")
        await gone_after_leaving(writer, peer)
        trace = await settled(gateway)
        assert trace["status"] == 499
        assert trace["disconnect"] == window or (trace["disconnect"], window) == (
            "before_headers",
            "before_first_token",
        )
        assert gateway.context.edge.in_flight.now == 0
        assert len(gateway.context.edge.gateway.flights) == 0


async def test_the_next_request_works_after_clients_have_left() -> None:
    """Nothing of a broken-off call is left behind for the next one."""
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    silent = asyncio.Event()

    async def upstream(peer: Peer) -> None:
        while True:
            await peer.request()
            if not silent.is_set():
                peers.put_nowait(peer)
                await peer.gone.wait()
                return
            await peer.send(
                HEAD,
                chunk(ROLE),
                chunk(END),
                b"0\r\n\r\n",
            )

    async with (
        raw_server(upstream) as server,
        running_gateway(configuration(f"http://127.0.0.1:{server.port}")) as gateway,
    ):
        for _ in range(20):
            _, writer = await ask(gateway, stream=True)
            await gone_after_leaving(writer, await asyncio.wait_for(peers.get(), PATIENCE_S))
        silent.set()
        reader, writer = await ask(gateway, stream=True)
        answer = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), PATIENCE_S)
        assert b"Hello" in answer
        assert answer.rstrip().endswith(b"0")
        writer.close()


async def test_the_first_client_leaving_does_not_end_a_stream_that_others_follow() -> None:
    """The second client gets what was said and then the live rest; the last to leave ends the call."""
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    go_on = asyncio.Event()
    more = ROLE.replace(b"Hello", b" world")

    async def upstream(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD, chunk(ROLE))
        peers.put_nowait(peer)
        await go_on.wait()
        await peer.send(chunk(more))
        await peer.gone.wait()

    async with (
        raw_server(upstream) as server,
        running_gateway(configuration(f"http://127.0.0.1:{server.port}")) as gateway,
    ):
        first, first_writer = await ask(gateway, stream=True)
        peer = await asyncio.wait_for(peers.get(), PATIENCE_S)
        await first.readuntil(b"Hello")
        second, second_writer = await ask(gateway, stream=True)
        head = await asyncio.wait_for(second.readuntil(b"Hello"), PATIENCE_S)
        assert b"x-slipstream-cache: coalesced" in head
        first_writer.transport.abort()
        await asyncio.sleep(0.02)
        go_on.set()
        await asyncio.wait_for(second.readuntil(b" world"), PATIENCE_S)
        assert not peer.gone.is_set()
        await gone_after_leaving(second_writer, peer)
        assert len(gateway.context.edge.gateway.flights) == 0


async def test_a_first_client_that_reads_slowly_neither_slows_nor_misses_what_others_follow() -> (
    None
):
    """The second client gets all of it while the first reads nothing; then the first reads all of it too."""
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    go_on = asyncio.Event()
    much = ROLE.replace(b"Hello", b"x" * 65_536)
    last = ROLE.replace(b'"finish_reason":null', b'"finish_reason":"stop"') + b"data: [DONE]\n\n"

    async def upstream(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD, chunk(ROLE))
        peers.put_nowait(peer)
        await go_on.wait()
        for _ in range(_MUCH):
            await peer.send(chunk(much))
        await peer.send(chunk(last), b"0\r\n\r\n")
        await peer.gone.wait()

    async with (
        raw_server(upstream) as server,
        running_gateway(configuration(f"http://127.0.0.1:{server.port}")) as gateway,
    ):
        first, first_writer = await ask(gateway, stream=True)
        await asyncio.wait_for(peers.get(), PATIENCE_S)
        await first.readuntil(b"Hello")
        second, second_writer = await ask(gateway, stream=True)
        await asyncio.wait_for(second.readuntil(b"Hello"), PATIENCE_S)
        go_on.set()
        for reader in (second, first):
            got = 0
            async with asyncio.timeout(PATIENCE_S):
                while not (data := await reader.read(1 << 20)).endswith(b"0\r\n\r\n"):
                    assert data
                    got += data.count(b"x")
            assert got + data.count(b"x") >= _MUCH * 65_536
        first_writer.close()
        second_writer.close()


_MUCH = 200
"""Frames of 64 KiB: more than the sockets' buffers hold."""


async def test_whoever_has_the_dialect_s_end_may_leave_before_the_body_s_end() -> None:
    """The packages do: it is a whole answer, kept and counted as one, though the upstream dawdles."""
    left = asyncio.Event()

    async def dawdle(speaking: Speaking) -> None:
        await speaking.text("Because of the air.")
        raw = (
            b'data: {"id":"x1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
            b'[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        )
        speaking.asked.writer.write(b"%x\r\n%s\r\n" % (len(raw), raw))
        await speaking.asked.writer.drain()
        await left.wait()
        speaking.asked.writer.write(b"0\r\n\r\n")
        await speaking.asked.writer.drain()

    body = {
        "model": "small",
        "stream": True,
        "messages": [{"role": "user", "content": "Why is it blue?"}],
    }
    async with (
        scripted_model(dawdle) as upstream,
        running_gateway(configuration(upstream.url)) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=20) as client,
    ):
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            text = "".join([piece async for piece in answer.aiter_text()])
        assert text.endswith("data: [DONE]\n\n")  # whole, while the upstream has not ended
        again = await client.post("/v1/chat/completions", json=body)
        assert again.headers["x-slipstream-cache"] == "exact"
        traces = (await client.get("/v1/traces")).json()["traces"]
        assert [trace["status"] for trace in traces] == [200, 200]
        left.set()
