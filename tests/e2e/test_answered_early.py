"""A request may be refused before its body has come; the connection serves the next one all the same."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from tests.support.gateway import configuration, running_gateway
from tests.support.raw_server import PATIENCE_S

pytestmark = pytest.mark.anyio

KEYED = {"required": True, "keys": [{"key": "right", "tenant": "t"}]}
BODY = b" " * 40
FRAMED = {
    "length": (b"content-length: 40", BODY),
    "chunked": (b"transfer-encoding: chunked", b"28\r\n%s\r\n0\r\n\r\n" % BODY),
}


async def answer(reader: asyncio.StreamReader) -> bytes:
    """The next response's status line; its body is read."""
    head = await reader.readuntil(b"\r\n\r\n")
    size = next(
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    await reader.readexactly(size)
    return head.partition(b"\r\n")[0]


@pytest.mark.parametrize("framing", list(FRAMED))
async def test_a_refusal_before_the_body_costs_no_connection(framing):
    """Clients send head and body apart: what comes behind the answer belongs to it, not to the next."""
    field, body = FRAMED[framing]
    values = configuration("http://127.0.0.1:9", auth=KEYED)
    async with running_gateway(values) as gateway, asyncio.timeout(PATIENCE_S):
        url = urlsplit(gateway.url)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        try:
            for _ in range(3):
                writer.write(
                    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer wrong\r\n"
                    b"%s\r\n\r\n" % field
                )
                assert b"401" in await answer(reader)
                writer.write(body)
                writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
                assert b"200" in await answer(reader)
        finally:
            writer.close()
