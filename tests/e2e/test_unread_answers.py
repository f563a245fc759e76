"""A client that asks and asks, and reads nothing, holds no more of the gateway than a little memory."""

from __future__ import annotations

import asyncio
import json
import socket
from urllib.parse import urlsplit

import pytest

from app.api.protocol import GatewayProtocol
from tests.e2e.test_fast_path import ANSWER, connect, house
from tests.support.gateway import Running
from tests.support.raw_server import PATIENCE_S, Peer

pytestmark = pytest.mark.anyio

BIG = ANSWER.replace(b"Four.", b"Four." * 4_000)
SAME = "same" * 900
"""Long, so that few of them fill the buffers on their way."""
MOST_UNREAD_BYTES = 1 << 20
"""Unsent, of which one answer may be the last that was begun."""
MOST_WAITING = 1_000
"""Requests that were read and not begun: as many as two reads hold."""


async def answering(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.answer(BIG, head=b"content-type: application/json\r\n")


def request(text: str, more: bytes = b"") -> bytes:
    asked = {"model": "small", "messages": [{"role": "user", "content": text}]}
    body = json.dumps(asked, separators=(",", ":")).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n"
    return head % (more, len(body)) + body


async def send_until_nobody_reads(sock: socket.socket, data: bytes, at_once: int) -> int:
    """How many bytes of ``data`` went out before the other side stopped reading."""
    sent = blocked = 0
    while sent < len(data) and blocked < 100:
        try:
            sent += sock.send(data[sent : sent + at_once])
            blocked = 0
            await asyncio.sleep(0)
        except BlockingIOError:
            blocked += 1
            await asyncio.sleep(0.005)  # that nobody reads is no event
    return sent


def of_the_client(gateway: Running, sock: socket.socket) -> GatewayProtocol:
    name = sock.getsockname()
    return next(c for c in gateway.server.server_state.connections if c.client == name)  # type: ignore[return-value,union-attr]


@pytest.mark.parametrize("more", [b"", b"x-slipstream-tags: a\r\n"], ids=["straight", "general"])
async def test_answers_that_nobody_reads_do_not_pile_up(more: bytes) -> None:
    """The gateway stops reading; once the client reads, all that was asked is answered."""
    async with house(answering) as gateway:
        client = await connect(gateway, more)
        for _ in range(4):
            await client.ask(SAME)
        url, loop = urlsplit(gateway.url), asyncio.get_running_loop()
        with socket.create_connection((url.hostname, url.port)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
            sock.setblocking(False)  # noqa: FBT003 - the socket's own signature
            each = request(SAME, more)
            sent = await send_until_nobody_reads(sock, each * 2_300, len(each))
            connection = of_the_client(gateway, sock)
            assert connection.transport.get_write_buffer_size() < MOST_UNREAD_BYTES
            assert len(connection.pipeline) < MOST_WAITING
            assert sent > 200 * len(each)
            said, tail = 0, b""
            async with asyncio.timeout(PATIENCE_S):
                while said < sent // len(each):
                    came = await loop.sock_recv(sock, 1 << 20)
                    assert came
                    said += (tail + came).count(b"HTTP/1.1 200 OK")
                    tail = came[-14:]
            assert said == sent // len(each)
        assert (await client.ask(SAME))[0] == 200
