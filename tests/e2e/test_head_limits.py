"""A request's head may be 64 KiB, however it is cut; bodies and pipelined neighbours do not count."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from tests.support.gateway import Running, configuration, running_gateway
from tests.support.raw_server import PATIENCE_S

pytestmark = pytest.mark.anyio

NOWHERE = configuration("http://127.0.0.1:9")


def head(kib: int) -> bytes:
    """A head of about ``kib`` KiB."""
    lines = b"".join(b"x-%d: %s\r\n" % (number, b"y" * 1010) for number in range(kib))
    return b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + lines + b"\r\n"


async def answers(gateway: Running, *reads: bytes) -> bytes:
    """What comes back for ``reads``, each sent after the one before has surely been read."""
    url = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    got = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            for part in reads:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.02)  # a read of its own, as far as one can arrange it
            got = await reader.read(4096)
            while got.startswith(b"HTTP/1.1 400 ") and (more := await reader.read(4096)):
                got += (
                    more  # answers to neighbours come in writes of their own; the last one closes
                )
    except ConnectionError:
        pass
    finally:
        writer.close()
    return got


@pytest.mark.parametrize("cut", [None, 60_000, 10])
async def test_a_head_over_64_kib_is_refused_however_it_is_cut(cut: int | None) -> None:
    """In one read, in two, with nearly all of it in the second."""
    large = head(100)
    async with running_gateway(NOWHERE) as gateway:
        got = await answers(gateway, *([large] if cut is None else [large[:cut], large[cut:]]))
        assert got.startswith(b"HTTP/1.1 431 ")


async def test_one_header_without_an_end_is_cut_off() -> None:
    """The parser would collect it for ever."""
    async with running_gateway(NOWHERE) as gateway:
        endless = [b"GET / HTTP/1.1\r\nx: ", *[b"z" * 30_000] * 6]
        got = await answers(gateway, *endless)
        assert got.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("cut", [None, 30_000])
async def test_a_head_under_64_kib_is_read_however_it_is_cut(cut: int | None) -> None:
    """Just the same as a small one."""
    large = head(50)
    async with running_gateway(NOWHERE) as gateway:
        got = await answers(gateway, *([large] if cut is None else [large[:cut], large[cut:]]))
        assert got.startswith(b"HTTP/1.1 ")
        assert not got.startswith(b"HTTP/1.1 431 ")


async def test_a_large_body_before_half_a_pipelined_head_counts_for_neither() -> None:
    """One read may bring the end of one request and the beginning of the next."""
    spaces = b"{" + b" " * 99_999
    first = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n" + spaces
    )
    async with running_gateway(NOWHERE) as gateway:
        got = await answers(
            gateway, first + b"GET /v1/mod", b"els HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        assert got.startswith(b"HTTP/1.1 400 ")
        assert b"HTTP/1.1 200 " in got
