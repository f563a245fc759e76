"""A response is read as it comes, at the reader's pace, and ends in one true way."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import UpstreamClosed, UpstreamProtocol, UpstreamTimeout
from app.upstream import Exchange, Pool, Timeouts
from app.upstream.connection import MAX_UNREAD_BYTES
from tests.support.raw_server import PATIENCE_S, Peer, Script, idle, raw_server
from tests.unit.upstream.conftest import MakePool

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def sends(*pieces: bytes, then: str = "") -> Script:
    """A script that answers the first request with ``pieces`` and ends the connection so."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*pieces)
        if then:
            getattr(peer, then)()

    return script


async def get(pool: Pool, timeouts: Timeouts | None = None) -> Exchange:
    return await pool.request(path=b"/", headers=[], body=b"", timeouts=timeouts)


async def test_the_head_is_there_before_the_body_and_reads_bring_what_has_come(pool_to: MakePool):
    async with raw_server(idle) as server, pool_to(server) as pool:
        async with asyncio.TaskGroup() as group:
            head = group.create_task(get(pool))
            peer = await server.peer()
            await peer.request()
            await peer.send(CHUNKED)
        exchange = head.result()
        assert exchange.status == 200
        assert exchange.headers == ((b"transfer-encoding", b"chunked"),)
        for text in (b"one", b"two"):
            await peer.send(b"3\r\n" + text + b"\r\n")
            assert await exchange.read() == text
        assert exchange.timing.ended == 0
        await peer.send(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
        assert await exchange.read() == b"ab"
        assert await exchange.read() == b""
        assert await exchange.read() == b""
        assert exchange.timing.ended
        assert pool.stats.idle == 1


async def test_a_response_split_at_every_byte_is_the_same_over_a_socket(pool_to: MakePool):
    raw = CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"

    async def dribble(peer: Peer) -> None:
        for at in range(1, len(raw)):
            await peer.request()
            await peer.send(raw[:at], raw[at:])
        await peer.request()
        await peer.send(*(bytes([byte]) for byte in raw))

    async with raw_server(dribble) as server, pool_to(server) as pool:
        for _ in range(len(raw)):
            assert await (await get(pool)).read_all(10) == b"hello"
        assert len(server.peers) == 1


async def test_a_body_without_a_length_ends_with_the_connection(pool_to: MakePool):
    script = sends(b"HTTP/1.1 200 OK\r\n\r\n", b"all of", b" it", then="close")
    async with raw_server(script) as server, pool_to(server) as pool:
        assert await (await get(pool)).read_all(100) == b"all of it"
        assert pool.stats.open == 0


async def test_a_half_close_after_a_whole_answer_is_no_error(pool_to: MakePool):
    script = sends(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", then="half_close")
    async with raw_server(script) as server, pool_to(server) as pool:
        assert await (await get(pool)).read_all(100) == b"ok"
        await server.peers[0].wait_gone()
        assert pool.stats.open == 0


@pytest.mark.parametrize("then", ["close", "half_close", "reset"])
@pytest.mark.parametrize(
    "piece", [CHUNKED + b"5\r\nhello\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello"]
)
async def test_a_truncated_body_is_an_error_after_what_came(
    pool_to: MakePool, piece: bytes, then: str
):
    async with raw_server(idle) as server, pool_to(server) as pool:
        async with asyncio.TaskGroup() as group:
            head = group.create_task(get(pool))
            peer = await server.peer()
            await peer.request()
            await peer.send(piece)
        exchange = head.result()
        assert await exchange.read() == b"hello"
        getattr(peer, then)()
        for _ in range(2):
            with pytest.raises(UpstreamClosed):
                await exchange.read()
        assert pool.stats.open == 0


async def test_a_reset_within_a_body_without_a_length_is_no_end(pool_to: MakePool):
    async with raw_server(idle) as server, pool_to(server) as pool:
        async with asyncio.TaskGroup() as group:
            head = group.create_task(get(pool))
            peer = await server.peer()
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhel")
        exchange = head.result()
        assert await exchange.read() == b"hel"
        peer.reset()
        with pytest.raises(UpstreamClosed):
            await exchange.read()


async def test_garbage_after_a_good_start_is_an_error_and_closes(pool_to: MakePool):
    script = sends(CHUNKED + b"5\r\nhello\r\n", b"zz\r\n")
    async with raw_server(script) as server, pool_to(server) as pool:
        with pytest.raises(UpstreamProtocol) as caught:
            await (await get(pool)).read_all(100)
        assert caught.value.code == "upstream_malformed"
        await server.peers[0].wait_gone()


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\n\n"])
async def test_an_answer_that_is_not_http_is_a_protocol_error(pool_to: MakePool, garbage: bytes):
    async with raw_server(sends(garbage)) as server, pool_to(server) as pool:
        with pytest.raises(UpstreamProtocol):
            await get(pool)
        await server.peers[0].wait_gone()
        assert pool.stats.open == 0


@pytest.mark.parametrize(
    ("pieces", "phase"),
    [
        ((), "first_byte"),
        ((b"HTTP/1.1 200",), "first_byte"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n",), "first_byte"),
        ((CHUNKED,), "between_bytes"),
        ((CHUNKED + b"1\r\na\r\n",), "between_bytes"),
    ],
)
async def test_silence_has_a_limit_in_each_phase(
    pool_to: MakePool, pieces: tuple[bytes, ...], phase: str
):
    short = Timeouts(1, 1, first_byte_s=0.04, between_bytes_s=0.04, total_s=5)
    async with raw_server(sends(*pieces)) as server, pool_to(server) as pool:
        with pytest.raises(UpstreamTimeout) as caught:
            await (await get(pool, short)).read_all(10)
        assert caught.value.phase == phase
        await server.peers[0].wait_gone()
        assert pool.stats.open == 0


async def test_a_dribble_cannot_outlast_the_total(pool_to: MakePool):
    async def dribble(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        while not peer.gone.is_set():
            await peer.send(b"1\r\na\r\n")

    short = Timeouts(1, 1, first_byte_s=1, between_bytes_s=1, total_s=0.05)
    async with raw_server(dribble) as server, pool_to(server) as pool:
        with pytest.raises(UpstreamTimeout) as caught:
            await (await get(pool, short)).read_all(1 << 30)
        assert caught.value.phase == "total"
        await server.peers[0].wait_gone()


async def test_a_dribbled_head_cannot_outlast_the_first_byte(pool_to: MakePool):
    async def dribble(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n")
        while not peer.gone.is_set():
            await peer.send(b"a: b\r\n")
            await asyncio.sleep(0.005)

    short = Timeouts(1, 1, first_byte_s=0.05, between_bytes_s=1, total_s=5)
    async with raw_server(dribble) as server, pool_to(server) as pool:
        with pytest.raises(UpstreamTimeout) as caught:
            await get(pool, short)
        assert caught.value.phase == "first_byte"


async def test_the_deadlines_of_one_exchange_do_not_reach_into_the_next(pool_to: MakePool):
    """The timer outlives its exchange; a fired timer of a finished one must not hurt."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"1")
        await peer.request()
        await fired.wait()
        await peer.answer(b"2")

    fired = asyncio.Event()
    short = Timeouts(1, 1, first_byte_s=0.03, between_bytes_s=0.03, total_s=0.03)
    async with raw_server(script) as server, pool_to(server) as pool:
        assert await (await get(pool, short)).read_all(10) == b"1"
        asyncio.get_running_loop().call_later(0.1, fired.set)
        exchange = await get(pool)
        assert await exchange.read_all(10) == b"2"
        assert exchange.timing.reused


async def test_a_slow_reader_stops_the_upstream_and_gets_every_byte(pool_to: MakePool):
    sent_bytes = 0
    body_bytes = 40 * 1024 * 1024
    piece = b"x" * 65536

    async def flood(peer: Peer) -> None:
        nonlocal sent_bytes
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % body_bytes)
        while sent_bytes < body_bytes:
            await peer.send(piece)
            sent_bytes += len(piece)

    async with raw_server(flood) as server, pool_to(server) as pool:
        exchange = await get(pool)
        before = -1
        async with asyncio.timeout(PATIENCE_S):
            while sent_bytes != before:  # Until the upstream stands still.
                before = sent_bytes
                await asyncio.sleep(0.05)
        assert sent_bytes < body_bytes
        (conn,) = pool._open
        unread_bytes = sum(map(len, conn._reader.pieces))
        assert MAX_UNREAD_BYTES <= unread_bytes <= 2 * MAX_UNREAD_BYTES
        assert len(await exchange.read_all(body_bytes)) == body_bytes
        assert pool.stats.idle == 1


async def test_while_nobody_reads_the_silence_is_not_the_upstreams(pool_to: MakePool):
    async def flood(peer: Peer) -> None:
        await peer.request()
        await peer.send(
            b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (4 << 20), b"x" * (4 << 20)
        )

    short = Timeouts(1, 1, first_byte_s=1, between_bytes_s=0.03, total_s=5)
    async with raw_server(flood) as server, pool_to(server) as pool:
        exchange = await get(pool, short)
        await asyncio.sleep(0.15)  # Five times the limit: the deadline itself is under test.
        assert len(await exchange.read_all(4 << 20)) == 4 << 20


async def test_a_body_over_the_callers_limit_is_cut_off(pool_to: MakePool):
    script = sends(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", b"x" * 50_000)
    async with raw_server(script) as server, pool_to(server) as pool:
        exchange = await get(pool)
        with pytest.raises(UpstreamProtocol) as caught:
            await exchange.read_all(1000)
        assert caught.value.code == "upstream_oversize"
        await server.peers[0].wait_gone()


async def test_two_readers_at_once_are_a_mistake_and_said_to_be(pool_to: MakePool):
    async with raw_server(sends(CHUNKED)) as server, pool_to(server) as pool:
        exchange = await get(pool)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(exchange.read())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError):
                await exchange.read()
            await server.peers[0].send(b"1\r\na\r\n")
        assert first.result() == b"a"
        exchange.abort()


async def test_a_connection_whose_rest_was_let_go_serves_again_after_its_end(pool_to: MakePool):
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await told.wait()
        await peer.send(b"0\r\n\r\n")
        await peer.request()
        await peer.answer(b"again")

    told = asyncio.Event()
    async with raw_server(serve) as server, pool_to(server) as pool:
        first = await pool.request(path=b"/", headers=[], body=b"1")
        assert await first.read() == b"hi"
        first.drain()
        told.set()
        async with asyncio.timeout(PATIENCE_S):
            await given_back(pool)
        second = await pool.request(path=b"/", headers=[], body=b"2")
        assert await second.read_all(10) == b"again"
        assert len(server.peers) == 1


async def test_one_whose_end_does_not_come_is_closed(pool_to: MakePool):
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await peer.gone.wait()

    async with raw_server(serve) as server, pool_to(server) as pool:
        exchange = await pool.request(path=b"/", headers=[], body=b"1")
        assert await exchange.read() == b"hi"
        exchange.drain()
        async with asyncio.timeout(PATIENCE_S):
            await server.peers[0].gone.wait()
        assert pool.stats.in_flight == 0


async def given_back(pool: Pool) -> None:
    """Turn the loop until a connection is idle."""
    while not pool.stats.idle:  # noqa: ASYNC110 - the pool tells nobody
        await asyncio.sleep(0)
