"""Who leaves, at whatever moment, takes the upstream call along: its socket closes at once."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from app.errors import UpstreamClosed
from app.upstream import Exchange, Origin, Pool, PoolLimits
from tests.support.raw_server import Peer, RawServer, idle, raw_server
from tests.unit.upstream.conftest import LONG, MakePool

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def get(pool: Pool) -> Exchange:
    return await pool.request(path=b"/", headers=[], body=b"hello")


async def get_all(pool: Pool) -> bytes:
    return await (await get(pool)).read_all(1 << 20)


async def cancelled(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


WINDOWS = {
    "before the head": (),
    "within the head": (b"HTTP/1.1 200 OK\r\n",),
    "after an interim head": (b"HTTP/1.1 100 Continue\r\n\r\n",),
    "before the first token": (CHUNKED,),
    "mid-stream": (CHUNKED, b"3\r\none\r\n"),
    "within a JSON body": (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n", b'{"a":'),
}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("reused", [False, True], ids=["new", "reused"])
async def test_a_cancelled_call_closes_the_upstreams_socket(
    pool_to: MakePool, window: str, reused: bool
):
    async with raw_server(idle) as server, pool_to(server) as pool:
        if reused:
            async with asyncio.TaskGroup() as group:
                group.create_task(get_all(pool))
                peer = await server.peer()
                await peer.request()
                await peer.answer(b"")
        async with asyncio.TaskGroup() as group:
            call = group.create_task(get_all(pool))
            if not reused:
                peer = await server.peer()
            await peer.request()
            await peer.send(*WINDOWS[window])
            for _ in range(5):
                await asyncio.sleep(0)
            await cancelled(call)
            assert pool.stats.open == 0
            await peer.wait_gone()
        assert len(server.peers) == 1


async def test_the_peer_hears_of_it_within_the_same_turn_of_the_loop(pool_to: MakePool):
    async with raw_server(idle) as server, pool_to(server) as pool:
        call = asyncio.get_running_loop().create_task(get_all(pool))
        peer = await server.peer()
        await peer.request()
        await cancelled(call)
        # What the loop does next is hear it from the other end: no timer, no linger in between.
        for _ in range(3):
            await asyncio.sleep(0)
        assert peer.gone.is_set()


async def test_an_abort_closes_at_once_and_again_changes_nothing(pool_to: MakePool):
    async with raw_server(idle) as server, pool_to(server) as pool:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(get(pool))
            peer = await server.peer()
            await peer.request()
            await peer.send(CHUNKED, b"3\r\none\r\n")
        exchange = call.result()
        exchange.abort()
        exchange.abort()
        assert pool.stats.open == 0
        with pytest.raises(UpstreamClosed) as caught:
            await exchange.read()
        assert caught.value.code == "aborted"
        await peer.wait_gone()


async def test_an_abort_after_the_end_leaves_the_connection_alone(pool_to: MakePool):
    async with raw_server(idle) as server, pool_to(server) as pool:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(get(pool))
            peer = await server.peer()
            await peer.request()
            await peer.answer(b"ok")
        exchange = call.result()
        exchange.abort()
        assert pool.stats.idle == 1
        assert await exchange.read() == b"ok"


async def test_an_abort_from_outside_wakes_the_reader(pool_to: MakePool):
    async with raw_server(idle) as server, pool_to(server) as pool:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(get(pool))
            peer = await server.peer()
            await peer.request()
            await peer.send(CHUNKED)
            exchange = await call
            read = group.create_task(failed_read(exchange))
            await asyncio.sleep(0)
            exchange.abort()
        assert read.result() == "aborted"


async def failed_read(exchange: Exchange) -> str:
    with pytest.raises(UpstreamClosed) as caught:
        await exchange.read()
    return caught.value.code


async def test_leaving_the_line_passes_the_turn_on(pool_to: MakePool):
    async with raw_server(idle) as server, pool_to(server, max_connections=1) as pool:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(get_all(pool))
            peer = await server.peer()
            await peer.request()
            second = group.create_task(get_all(pool))
            third = group.create_task(get_all(pool))
            await asyncio.sleep(0)
            assert pool.stats.waiting == 2
            await cancelled(second)
            assert pool.stats.waiting == 1
            await peer.answer(b"1")
            await peer.request()
            await peer.answer(b"3")
        assert (first.result(), third.result()) == (b"1", b"3")
        assert peer.requests == 2


async def test_a_turn_that_comes_in_the_moment_of_leaving_is_passed_on(pool_to: MakePool):
    async with raw_server(idle) as server, pool_to(server, max_connections=1) as pool:
        first = await started(pool, server)
        async with asyncio.TaskGroup() as group:
            second = group.create_task(get_all(pool))
            third = group.create_task(get_all(pool))
            await asyncio.sleep(0)
            # One turn: the slot is freed for the second, which is cancelled before it can run.
            first.abort()
            await cancelled(second)
            peer = await server.peer()
            await peer.request()
            await peer.answer(b"3")
        assert third.result() == b"3"
        assert pool.stats.open == 1


async def started(pool: Pool, server: RawServer) -> Exchange:
    async with asyncio.TaskGroup() as group:
        call = group.create_task(get(pool))
        peer = await server.peer()
        await peer.request()
        await peer.send(CHUNKED)
    return call.result()


async def test_a_connection_that_comes_in_the_moment_of_leaving_is_kept(pool_to: MakePool):
    async with raw_server(idle) as server, pool_to(server, max_connections=1) as pool:
        exchange = await started(pool, server)
        second = asyncio.get_running_loop().create_task(get_all(pool))
        await asyncio.sleep(0)
        (conn,) = pool._open
        conn.data_received(b"0\r\n\r\n")  # The message ends: the connection goes to the second.
        await cancelled(second)
        assert await exchange.read() == b""
        assert pool.stats.idle == 1


async def test_leaving_while_connecting_leaves_nothing_behind():
    # TLS to a server that does not answer the handshake: the connection is open, the call is not.
    async with raw_server(idle) as server:
        pool = Pool(
            Origin("https", "127.0.0.1", server.port),
            PoolLimits(max_connections=1, max_idle=1),
            LONG,
            ssl.create_default_context(),
        )
        for _ in range(2):
            call = asyncio.get_running_loop().create_task(get_all(pool))
            peer = await server.peer()
            await cancelled(call)
            await peer.wait_gone()
            assert pool.stats.open == 0
        await pool.aclose()


async def test_a_call_that_is_cancelled_before_it_began_sends_nothing(pool_to: MakePool):
    async with raw_server(idle) as server, pool_to(server) as pool:
        call = asyncio.get_running_loop().create_task(get_all(pool))
        await cancelled(call)
        assert not server.peers
        assert pool.stats.open == 0


async def test_cancelling_at_every_turn_of_a_call_never_leaks_and_never_mixes(pool_to: MakePool):
    async def echo(peer: Peer) -> None:
        while True:
            request = await peer.request()
            await peer.answer(request.body)

    async def call(pool: Pool, body: bytes) -> bytes:
        return await (await pool.request(path=b"/", headers=[], body=body)).read_all(100)

    async with raw_server(echo) as server, pool_to(server, max_connections=2, max_idle=2) as pool:
        loop = asyncio.get_running_loop()
        for turns in range(25):
            tasks = [loop.create_task(call(pool, b"%d-%d" % (turns, n))) for n in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0)
            tasks[0].cancel()
            tasks[2].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)  # noqa: TID251
            for number, result in enumerate(results):
                if isinstance(result, asyncio.CancelledError):
                    assert number in {0, 2}
                else:
                    assert result == b"%d-%d" % (turns, number)
            stats = pool.stats
            assert (stats.waiting, stats.in_flight) == (0, 0)
            assert stats.open <= 2
