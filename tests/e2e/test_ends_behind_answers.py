"""How a connection ends behind an answer: whoever still sends hears the answer, and nobody is kept for long.

And of a client that has begun to ask for more while it is being answered nothing is asked until it was.
"""

from __future__ import annotations

import asyncio
import json
from types import MappingProxyType

import pytest

from app.api.protocol import GatewayProtocol, Phase
from tests.e2e.test_fast_path import ANSWER, OPEN, Client, connect
from tests.support.gateway import configuration, running_gateway
from tests.support.raw_server import PATIENCE_S, Peer, raw_server

pytestmark = pytest.mark.anyio
LARGE = 3_000_000
NOWHERE = configuration("http://127.0.0.1:9", server={"max_body_bytes": 70_000})


def asked(size: int, text: str = "", *, more: bytes = b"") -> bytes:
    """A request with a body of ``size`` bytes, or of ``text``."""
    said = {"model": "small", "messages": [{"role": "user", "content": text}]}
    body = json.dumps(said).encode() if text else b" " * size
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n"
    return head % (more, len(body)) + body


REFUSED = {
    "a body that is told to be too large": (asked(200_000) + asked(LARGE), b"413"),
    "one that turns out to be": (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        b"%x\r\n%b\r\n0\r\n\r\n" % (200_000, b" " * 200_000) + asked(LARGE),
        b"413",
    ),
    "one that is there at once": (asked(70_001) + asked(LARGE), b"413"),
    "a head": (b"GET / HTTP/1.1\r\nx: " + b"y" * LARGE, b"431"),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
async def test_who_is_refused_while_it_sends_can_send_on_and_reads_why(
    sent: bytes, status: bytes
) -> None:
    """It is neither reset nor answered again, and the connection ends for it behind the answer."""
    async with running_gateway(NOWHERE) as gateway, asyncio.timeout(PATIENCE_S):
        client = await connect(gateway)
        for start in range(0, len(sent), 100_000):
            client.writer.write(sent[start : start + 100_000])
            await client.writer.drain()
            await asyncio.sleep(0)
        said = await client.reader.read()
        assert said.startswith(b"HTTP/1.1 %b " % status)
        assert said.count(b"HTTP/1.1 ") == 1
        assert said.endswith(b"}")
        OPEN.remove(client)
        client.writer.close()
        await no_connections(gateway.server.server_state.connections)


async def no_connections(connections: set[object]) -> None:
    """Wait until there are none."""
    async with asyncio.timeout(PATIENCE_S):
        while connections:  # noqa: ASYNC110 - the end of a connection owes a test no event
            await asyncio.sleep(0.002)


class Hasty(GatewayProtocol):
    """Waits no time for what a client begins, and long for it to begin."""

    phase_limit_s = MappingProxyType(
        {
            Phase.HEAD: 0.1,
            Phase.BODY: 0.1,
            Phase.ANSWER: float("inf"),
            Phase.NEXT: 3_600.0,
            Phase.REST: 0.1,
        }
    )
    check_interval_s = 0.01
    looks = 0

    def _check_phase(self) -> None:
        Hasty.looks += 1
        super()._check_phase()


async def looked(count: int = 30) -> None:
    """Wait for more looks than the patience for anything lasts."""
    until = Hasty.looks + count
    async with asyncio.timeout(PATIENCE_S):
        while Hasty.looks < until:  # noqa: ASYNC110 - of the gateway's own clock
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("how", ["its patience", "a shutdown"])
async def test_who_sends_and_sends_is_closed_all_the_same(how: str) -> None:
    """After ten seconds, here a tenth of one; or at once where the server ends."""
    patient = GatewayProtocol if how == "a shutdown" else Hasty
    async with running_gateway(NOWHERE, protocol=patient) as gateway, asyncio.timeout(PATIENCE_S):
        client = await connect(gateway)
        OPEN.remove(client)
        client.writer.write(asked(70_001))
        said = await client.reader.read()
        assert said.startswith(b"HTTP/1.1 413 ")
        (connection,) = gateway.server.server_state.connections
        client.writer.write(b"more")
        if how == "a shutdown":
            connection.shutdown()
        await no_connections(gateway.server.server_state.connections)
        client.writer.transport.abort()


async def test_half_a_head_behind_an_answer_has_the_time_of_a_head() -> None:
    """It had that between two requests."""
    async with running_gateway(NOWHERE, protocol=Hasty) as gateway, asyncio.timeout(PATIENCE_S):
        client = await connect(gateway)
        OPEN.remove(client)
        client.writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\nGET /livez HT")
        said = await client.reader.read()
        assert said.startswith(b"HTTP/1.1 200 ")
        assert said.count(b"HTTP/1.1 ") == 2
        assert b"HTTP/1.1 408 " in said
        client.writer.close()


HALVES = {"of a head": -40, "of a body": -5, "of a large body": -200_000}


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_half_a_request_behind_one_that_is_being_answered_may_wait(
    half: str, stream: bool
) -> None:
    """Its time begins when it is its turn: the answer under way was cut by a 408."""
    go = asyncio.Event()
    frames = [
        b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n',
        b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
    ]

    async def upstream(peer: Peer) -> None:
        while True:
            if b'"stream"' not in (await peer.request()).body:
                await go.wait()
                await peer.answer(ANSWER, head=b"content-type: application/json\r\n")
                continue
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            first, last = [b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames]
            await peer.send(head + first)
            await go.wait()
            await peer.send(last + b"0\r\n\r\n")

    second = asked(0, "second" + " " * 300_000 * ("large" in half))
    cut = HALVES[half]
    if half == "of a head":
        cut = -(len(second) - second.index(b"\r\n\r\n") + 5)
    async with raw_server(upstream) as server:
        values = configuration(f"http://127.0.0.1:{server.port}")
        async with running_gateway(values, protocol=Hasty) as gateway, asyncio.timeout(PATIENCE_S):
            client = await connect(gateway)
            OPEN.remove(client)
            client.send("first", **({"stream": True} if stream else {}))
            client.writer.write(second[:cut])
            await looked()
            go.set()
            client.writer.write(second[cut:])
            assert await answer_of(client) == 200
            assert await answer_of(client) == 200
            client.writer.close()


async def answer_of(client: Client) -> int:
    """The status of the next answer, which must be whole."""
    head = await client.reader.readuntil(b"\r\n\r\n")
    if b"content-length" in head:
        size = head.partition(b"content-length: ")[2].partition(b"\r")[0]
        await client.reader.readexactly(int(size))
    else:
        assert b"[DONE]" in await client.reader.readuntil(b"\r\n0\r\n\r\n")
    return int(head.split()[1])
