"""What ends a stream waits for the requests of its turn, and nothing of its connection overtakes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from app.upstream import Exchange
from app.upstream.connection import Connection
from app.upstream.rounds import LATE_READS
from tests.support.raw_server import idle, raw_server
from tests.unit.upstream.conftest import MakePool, settle

pytestmark = pytest.mark.anyio
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TOKEN, OTHER, END = b"5\r\ntoken\r\n", b"5\r\nother\r\n", b"0\r\n\r\n"
UNASKED = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


async def until(reached: Callable[[], bool]) -> None:
    """Turn the loop until ``reached``, and not once more."""
    for _ in range(100):
        if reached():
            return
        await asyncio.sleep(0)
    raise AssertionError("not reached in 100 turns")


class Ignoring:
    """Somebody else's connection."""

    def data_received(self, data: bytes) -> None: ...

    def receive_failed(self, error: Exception) -> None:
        raise error


class Stream:
    """One exchange under way whose tokens are known by their bytes, and what was taken of it."""

    def __init__(self, connection: Connection, exchange: Exchange) -> None:
        self.connection, self.exchange = connection, exchange
        self.taken: list[bytes] = []
        exchange.on_body, exchange.on_known_chunk = self.take, self.take_alike

    def take(self, data: bytes, _chunk: bytes) -> bool:
        self.taken.append(data)
        self.exchange.on_known_chunk = self.take_alike
        return True

    def take_alike(self, chunk: bytes) -> bool:
        if chunk == TOKEN:
            self.taken.append(b"token")
        return chunk == TOKEN


@asynccontextmanager
async def streaming(pool_to: MakePool) -> AsyncIterator[Stream]:
    async with raw_server(idle) as server, pool_to(server) as pool:
        for reads in ((HEAD, END), (HEAD, END), (HEAD, OTHER)):  # the head is known after that
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(pool.request(path=b"/", headers=[], body=b"?"))
                await settle(pool, in_flight=1)
                (connection,) = pool._open
                for data in reads:
                    connection.data_received(data)
                    connection._rounds.run_all()
            exchange = asked.result()
        assert await exchange.read() == b"other"
        yield Stream(connection, exchange)


async def test_later_reads_of_the_stream_wait_behind_it(pool_to: MakePool):
    """Also those that could have been taken as they came; tokens alone never wait."""
    async with streaming(pool_to) as stream:
        stream.connection.data_received(TOKEN)
        assert stream.taken == [b"token"]
        for data in (OTHER, TOKEN, OTHER, TOKEN, OTHER, OTHER, TOKEN):
            stream.connection.data_received(data)
        assert stream.taken == [b"token"]
        await until(lambda: len(stream.taken) == 8)
        o, t = b"other", b"token"
        assert stream.taken == [t, o, t, o, t, o, o, t]
        stream.connection.data_received(TOKEN)
        assert stream.taken[8:] == [t]


@pytest.mark.parametrize("how", ["eof", "lost"])
async def test_an_end_of_the_connection_does_not_overtake_the_end_of_the_answer(
    pool_to: MakePool, how: str
):
    async with streaming(pool_to) as stream:
        for data in (OTHER, END):
            stream.connection.data_received(data)
        if how == "eof":
            stream.connection.eof_received()
        else:
            stream.connection.connection_lost(None)
        assert stream.taken == [b"other"]
        assert stream.exchange.is_complete


@pytest.mark.parametrize("behind", [b"", UNASKED], ids=["nothing", "something unasked"])
async def test_a_connection_rests_only_when_all_of_its_late_reads_were_processed(
    pool_to: MakePool, behind: bytes
):
    """Else what waits would be taken for the next request's answer."""
    async with streaming(pool_to) as stream:
        for _ in range(LATE_READS - 1):  # the end of the answer is the last read of its turn
            stream.connection._rounds.enqueue_late_read(Ignoring(), b"")
        stream.connection.data_received(OTHER + END)
        if behind:
            stream.connection.data_received(behind)
        await until(lambda: stream.exchange.is_complete)
        assert stream.connection.closed is bool(behind)
