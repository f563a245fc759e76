"""Clients that do not read, and bodies that are answered before they are whole, do not hold a connection."""

from __future__ import annotations

import asyncio
import json
import socket
from types import MappingProxyType

import pytest

from app.api.protocol import GatewayProtocol, Phase
from bench.chaos.clients import BIG_BODY, BIG_CHUNKS
from tests.support.gateway import Running, configuration, running_gateway
from tests.support.raw_server import PATIENCE_S, Peer, raw_server

pytestmark = pytest.mark.anyio
ASK = (
    b'POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n{"model":"small",'
    b'"stream":true,"messages":[{"role":"user","content":"hi"}]}'
)


async def all_that_comes(gateway: Running, sent: bytes) -> bytes:
    """What the gateway says to ``sent`` until it ends the connection."""
    port = int(gateway.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    async with asyncio.timeout(PATIENCE_S):
        got = await reader.read()
    writer.close()
    return got


@pytest.mark.parametrize("sent", [BIG_BODY, BIG_CHUNKS], ids=["length", "chunks"])
async def test_a_body_over_its_limit_is_told_so_and_its_connection_ends(sent: bytes) -> None:
    """The 413 said ``connection: close`` and left it open for 75 s."""
    values = configuration("http://127.0.0.1:9", server={"max_body_bytes": 1 << 20})
    async with running_gateway(values) as gateway:
        got = await all_that_comes(gateway, sent)
    assert got.startswith(b"HTTP/1.1 413 ")
    assert b"request_too_large" in got


class Impatient(GatewayProtocol):
    """Waits a tenth of a second for a client to read."""

    read_within_s = 0.1
    check_interval_s = 0.02


class Hasty(GatewayProtocol):
    """Waits a tenth of a second for a head or a body."""

    phase_limit_s = MappingProxyType(dict.fromkeys(Phase, 0.1))
    check_interval_s = 0.02


@pytest.mark.parametrize(
    "sent",
    [b"POST /v1/messages HT", ASK % 9000],
    ids=["head", "body"],
)
async def test_a_slow_sender_is_told_in_a_form_that_every_dialect_reads(sent: bytes) -> None:
    """The 408 had no body and no ``retry-after``."""
    async with running_gateway(configuration("http://127.0.0.1:9"), protocol=Hasty) as gateway:
        got = await all_that_comes(gateway, sent)
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"retry-after: 1" in head
    told = json.loads(body)
    assert told["type"] == "error"
    assert {"message", "type", "code"} <= told["error"].keys()


async def test_a_slow_body_behind_a_head_that_is_known_is_told_the_same() -> None:
    """The second request like the first has its head held until its body comes."""
    async with running_gateway(configuration("http://127.0.0.1:9"), protocol=Hasty) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"
        async with asyncio.timeout(PATIENCE_S):
            writer.write(head + b"{}")
            first = await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            rest = await reader.read()
        writer.close()
    assert first.startswith(b"HTTP/1.1 400 ")
    assert b"HTTP/1.1 408 " in rest


async def test_a_client_that_reads_nothing_is_cut_off() -> None:
    """And the call upstream that was made for it ends too."""
    event = b'data: {"id":"a","choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (b"x" * 9000)

    async def endless(peer: Peer) -> None:
        await peer.request()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        await peer.send(head + b"transfer-encoding: chunked\r\n\r\n")
        while not peer.gone.is_set():
            await peer.send(b"%x\r\n%s\r\n" % (len(event), event))

    async with raw_server(endless) as upstream:
        values = configuration(f"http://127.0.0.1:{upstream.port}")
        async with running_gateway(values, protocol=Impatient) as gateway:
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(0)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", int(gateway.url.rpartition(":")[2])))
            length = len(ASK.partition(b"\r\n\r\n")[2])
            await loop.sock_sendall(client, ASK % length)
            peer = await upstream.peer()
            await peer.wait_gone()
            assert gateway.context.edge.in_flight.now == 0
            client.close()
