"""What a taker takes wakes nobody; what it refuses is read as usual; nothing is lost or overtaken."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.raw_server import PATIENCE_S, Peer, raw_server
from tests.unit.upstream.conftest import MakePool

pytestmark = pytest.mark.anyio

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class Taker:
    """Takes what begins with ``a``, and writes down in order what was taken and what was read."""

    def __init__(self) -> None:
        self.log: list[tuple[str, bytes]] = []
        self._news = asyncio.Event()

    def __call__(self, data: bytes, _chunk: bytes) -> bool:
        if not data.startswith(b"a"):
            return False
        self.put("taken", data)
        return True

    def put(self, how: str, data: bytes) -> None:
        self.log.append((how, data))
        self._news.set()

    async def has(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.log) < count:
                self._news.clear()
                await self._news.wait()


async def test_the_reader_sleeps_through_what_is_taken_and_wakes_for_the_rest(pool_to: MakePool):
    peers: asyncio.Queue[Peer] = asyncio.Queue()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        peers.put_nowait(peer)
        await peer.gone.wait()

    async with raw_server(script) as server, pool_to(server) as pool:
        exchange = await pool.request(path=b"/", headers=[], body=b"")
        peer, taker = await asyncio.wait_for(peers.get(), PATIENCE_S), Taker()

        async def reading() -> None:
            while data := await exchange.read(taker):
                taker.put("read", data)

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            group.create_task(reading())
            await asyncio.sleep(0)
            for number, piece in enumerate((b"a1", b"b1", b"a2"), 1):
                await peer.send(chunk(piece))
                await taker.has(number)
            assert taker.log == [("taken", b"a1"), ("read", b"b1"), ("taken", b"a2")]
            await peer.send(chunk(b"b2a3"), chunk(b"a4"), b"0\r\n\r\n")
        assert b"".join(data for _, data in taker.log) == b"a1b1a2b2a3a4"


async def test_a_reader_with_a_taker_that_is_cancelled_closes_the_socket(pool_to: MakePool):
    reached: asyncio.Queue[Peer] = asyncio.Queue()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        reached.put_nowait(peer)
        await peer.gone.wait()

    async with raw_server(script) as server, pool_to(server) as pool:
        exchange = await pool.request(path=b"/", headers=[], body=b"")
        peer, taker = await asyncio.wait_for(reached.get(), PATIENCE_S), Taker()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(exchange.read(taker))
            await asyncio.sleep(0)
            await peer.send(chunk(b"a1"))
            await taker.has(1)
            task.cancel()
        assert task.cancelled()
        await asyncio.wait_for(peer.gone.wait(), PATIENCE_S)
