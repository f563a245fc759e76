"""What bodies hold together is bounded, also by who has no key, and what was held is given back."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.body_memory import BodyMemory
from app.api.json_memory import json_memory_bytes
from app.errors import Overloaded, TooLarge
from tests.support.gateway import configuration, running_gateway
from tests.support.raw_server import PATIENCE_S

pytestmark = pytest.mark.anyio
CHAT, FEEDBACK = "/v1/chat/completions", "/v1/feedback"


def _head(path: str, size: int, *lines: str) -> bytes:
    all_lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json"]
    return "\r\n".join([*all_lines, f"content-length: {size}", *lines, "", ""]).encode()


def _question(size: int) -> bytes:
    content = "why? " * (size // 5)
    return json.dumps(
        {"model": "small", "messages": [{"role": "user", "content": content}]}
    ).encode()


class Sender:
    """A client on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int, sent: bytes) -> Sender:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await writer.drain()
        return cls(reader, writer)

    async def status(self) -> tuple[int, bytes]:
        """The answer's status and head."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head[9:12]), head

    def close(self) -> None:
        self.writer.transport.abort()


@pytest.fixture
def small_sum(upstream):
    return configuration(
        upstream.base_url, server={"max_body_bytes": 400_000, "max_bodies_bytes": 1_000_000}
    )


async def _held(gateway, at_least: int, at_most: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not at_least <= gateway.context.edge.bodies.held_bytes <= at_most:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_bodies_that_hold_too_much_together_are_told_to_come_back(small_sum):
    async with running_gateway(small_sum) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        half = _question(380_000)
        slow = [await Sender.to(port, _head(CHAT, len(half) + 1_000) + half) for _ in range(2)]
        await _held(gateway, 700_000, 1_000_000)
        refused = await Sender.to(port, _head(CHAT, len(half)) + half)
        status, head = await refused.status()
        assert status == 503
        assert b"retry-after: 1\r\n" in head
        for each in (*slow, refused):
            each.close()
        await _held(gateway, 0, 0)
        again = await Sender.to(port, _head(CHAT, len(half)) + half)
        assert (await again.status())[0] == 200
        again.close()
        assert gateway.context.edge.bodies.held_bytes == 0


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'"",'])
async def test_a_body_that_would_swell_when_it_is_read_is_too_large(small_sum, piece):
    async with running_gateway(small_sum) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        body = b'{"model":"small","messages":[' + piece * 130_000 + b"1]}"
        client = await Sender.to(port, _head(CHAT, len(body)) + body)
        assert (await client.status())[0] == 413
        client.close()
        assert gateway.context.edge.bodies.held_bytes == 0


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_stranger_cannot_fill_the_memory_by_an_administrative_route(upstream, framing):
    """FastAPI reads a body before it asks who calls; it was held without a limit."""
    values = configuration(
        upstream.base_url,
        server={"max_body_bytes": 100_000},
        auth={"required": True, "keys": [{"key": "k" * 40, "tenant": "acme"}]},
    )
    async with running_gateway(values) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        if framing == "length":
            sent = _head(FEEDBACK, 90_000_000)
        else:
            sent = _head(FEEDBACK, 0).replace(b"content-length: 0", b"transfer-encoding: chunked")
            sent += b"10000\r\n" + b" " * 65_536 + b"\r\n" + b"10000\r\n" + b" " * 65_536 + b"\r\n"
        client = await Sender.to(port, sent)
        status, head = await client.status()
        assert status == 413
        assert b"application/problem+json" in head
        client.close()


async def test_an_administrative_body_that_fits_reaches_its_route(upstream):
    async with running_gateway(configuration(upstream.base_url)) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        body = b'{"request_id": "req_unknown", "verdict": "good"}'
        client = await Sender.to(port, _head(FEEDBACK, len(body))[:-2] + b"\r\n" + body)
        assert (await client.status())[0] in {404, 422}
        client.close()


def test_a_lease_gives_back_what_it_took_however_it_ended() -> None:
    bodies = BodyMemory(1_000, 400, json_memory_bytes)
    with bodies.lease() as lease:
        lease.take(b"x" * 500)
        with pytest.raises(TooLarge):
            lease.take(b"x" * 500)
    assert bodies.held_bytes == 0
    with bodies.lease() as one, bodies.lease() as two, bodies.lease() as three:
        one.take(b"x" * 800)
        with pytest.raises(Overloaded):
            two.take(b"x" * 300)
        three.take(b"x" * 200)
        assert bodies.held_bytes == 1_000
    assert bodies.held_bytes == 0


def test_text_weighs_about_its_length_and_structure_more() -> None:
    assert json_memory_bytes(b"Plain prose, with a comma. " * 100) < 1.5 * 2_700
    assert json_memory_bytes(b"[]," * 100) > 20 * 300
    assert json_memory_bytes(b'\\"' * 100) == 200


@given(
    st.lists(
        st.sampled_from([b"{", b"[", b'"', b'\\"', b"\\", b",", b"a", b"\xc3\xa9"]), max_size=40
    ),
    st.integers(200, 400),
)
def test_a_large_piece_weighs_what_its_signs_weigh(signs: list[bytes], times: int) -> None:
    """Whole registers are compared where ``bytes.count`` would go byte by byte: the sum is the same."""
    piece = b"".join(signs) * times
    containers = piece.count(b"{") + piece.count(b"[")
    quotes = max(0, piece.count(b'"') - piece.count(b'\\"'))
    weight = len(piece) + 64 * containers + 50 * quotes // 2 + 8 * piece.count(b",")
    assert json_memory_bytes(piece) == weight
    assert json_memory_bytes(bytearray(piece)) == weight
