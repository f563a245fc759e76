"""Connections are reused, bounded, handed on in order, kept warm, and never trusted when stale."""

from __future__ import annotations

import asyncio
import socket

import pytest

from app.errors import GatewayError, UpstreamClosed, UpstreamRefused, UpstreamTimeout
from app.upstream import Exchange, Origin, Pool, PoolLimits, Timeouts
from tests.support.raw_server import Peer, idle, raw_server
from tests.unit.upstream.conftest import LONG, MakePool, settle


async def echo(peer: Peer) -> None:
    while True:
        request = await peer.request()
        await peer.answer(request.body)


async def post(pool: Pool, body: bytes = b"", **more: object) -> bytes:
    exchange = await pool.request(path=b"/v1", headers=[(b"x-a", b"b")], body=body, **more)
    assert exchange.status == 200
    return await exchange.read_all(1 << 20)


async def test_a_second_request_reuses_the_connection_and_says_so(pool_to: MakePool):
    async with raw_server(echo) as server, pool_to(server) as pool:
        first = await pool.request(path=b"/", headers=[], body=b"1")
        assert await first.read_all(10) == b"1"
        second = await pool.request(path=b"/", headers=[], body=b"2")
        assert await second.read_all(10) == b"2"
        assert len(server.peers) == 1
        one, two = first.timing, second.timing
        assert (one.reused, two.reused) == (False, True)
        assert one.queued <= one.connected <= one.sent <= one.first_byte <= one.ended
        assert two.connected == two.tls == one.tls == 0
        assert one.ended <= two.queued <= two.sent <= two.first_byte <= two.ended


async def test_the_request_arrives_as_it_was_given(pool_to: MakePool):
    async with raw_server(idle) as server, pool_to(server) as pool:
        for size in (0, 10, 70_000, 3_000_000):
            body = b"x" * size
            async with asyncio.TaskGroup() as group:
                answer = group.create_task(post(pool, body))
                peer = server.peers[0] if server.peers else await server.peer()
                request = await peer.request()
                await peer.answer(b"ok")
            assert request.line == b"POST /v1 HTTP/1.1"
            assert request.headers == {
                b"host": b"127.0.0.1:%d" % server.port,
                b"x-a": b"b",
                b"content-length": b"%d" % size,
            }
            assert request.body == body
            assert answer.result() == b"ok"


async def test_nagle_is_off(pool_to: MakePool):
    async with raw_server(echo) as server, pool_to(server) as pool:
        await post(pool)
        (conn,) = pool._open
        sock = conn._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_200_requests_over_10_connections_each_get_their_own_answer(pool_to: MakePool):
    async with raw_server(echo) as server, pool_to(server, max_connections=10, max_idle=10) as pool:

        async def check(number: int) -> None:
            body = b"%d:" % number + b"x" * (number * 37 % 5000)
            assert await post(pool, body) == body

        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(check(number))
        assert len(server.peers) == 10
        assert pool.stats.idle == 10
        assert pool.stats.waiting == 0


async def test_waiters_are_served_in_the_order_they_came(pool_to: MakePool):
    seen: list[bytes] = []

    async def record(peer: Peer) -> None:
        while True:
            request = await peer.request()
            seen.append(request.body)
            await peer.answer(b"")

    async with raw_server(record) as server, pool_to(server, max_connections=1) as pool:
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(post(pool, b"%d" % number))
        assert seen == [b"%d" % number for number in range(20)]


async def test_the_last_used_connection_is_used_first(pool_to: MakePool):
    async with raw_server(echo) as server, pool_to(server) as pool:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(post(pool))
        before = [peer.requests for peer in server.peers]
        for _ in range(5):
            await post(pool)
        used = sorted(peer.requests - was for peer, was in zip(server.peers, before, strict=True))
        assert used == [0, 0, 5]


async def test_no_more_than_max_idle_rest(pool_to: MakePool):
    async with raw_server(echo) as server, pool_to(server, max_idle=2) as pool:
        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(post(pool))
        assert pool.stats.idle == pool.stats.open == 2


async def test_max_idle_zero_means_one_request_per_connection(pool_to: MakePool):
    async with raw_server(echo) as server, pool_to(server, max_idle=0) as pool:
        await post(pool)
        await post(pool)
        assert len(server.peers) == 2
        await server.peers[0].wait_gone()


async def test_an_idle_connection_ages_out(pool_to: MakePool):
    async with raw_server(echo) as server, pool_to(server, idle_ttl_s=0.05) as pool:
        await post(pool)
        await server.peers[0].wait_gone()
        assert pool.stats.open == 0


@pytest.mark.parametrize("how", ["close", "half_close", "reset", "say something"])
async def test_an_idle_connection_that_hears_anything_is_dropped_at_once(
    pool_to: MakePool, how: str
):
    async with raw_server(echo) as server, pool_to(server) as pool:
        await post(pool)
        peer = server.peers[0]
        if how == "say something":
            await peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        else:
            getattr(peer, how)()
        await settle(pool, open=0)
        assert await post(pool, b"again") == b"again"
        assert len(server.peers) == 2
        assert pool.stats.replayed_total == 0


async def test_the_kernel_is_asked_before_a_connection_is_used_again(pool_to: MakePool):
    """The loop has not yet told the connection that its peer has gone; the pool finds out."""
    async with raw_server(echo) as server, pool_to(server) as pool:
        await post(pool)
        # Speak behind the loop's back: the byte is in the kernel before our loop can look.
        sock = socket.socket(
            fileno=socket.dup(server.peers[0].writer.get_extra_info("socket").fileno())
        )
        with sock:
            sock.send(b"!")
            assert await post(pool, b"x") == b"x"
        assert len(server.peers) == 2
        assert server.peers[0].requests == 1


async def test_the_keep_alive_race_is_lost_once_and_replayed_on_a_new_connection(
    pool_to: MakePool,
):
    async def once(peer: Peer) -> None:
        request = await peer.request()
        await peer.answer(request.body)
        if peer.number == 0:
            await peer.request()  # The second request arrives, and the answer is a reset.
            peer.reset()
        else:
            await echo(peer)

    async with raw_server(once) as server, pool_to(server) as pool:
        await post(pool)
        exchange = await pool.request(path=b"/", headers=[], body=b"2")
        assert await exchange.read_all(10) == b"2"
        assert exchange.timing.replayed
        assert not exchange.timing.reused
        assert exchange.timing.connected
        assert pool.stats.replayed_total == 1
        assert len(server.peers) == 2


async def test_a_replay_uses_a_new_connection_even_when_the_pool_is_full(pool_to: MakePool):
    async def one_answer(peer: Peer) -> None:
        request = await peer.request()
        await peer.answer(request.body)
        if peer.number < 3:
            await peer.request()
            peer.reset()
        else:
            await echo(peer)

    async with raw_server(one_answer) as server, pool_to(server, max_connections=3) as pool:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(post(pool, b"%d" % number))
        assert await post(pool, b"again") == b"again"
        assert pool.stats.replayed_total == 1
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(post(pool, b"%d" % number)) for number in range(9)]
        assert [task.result() for task in tasks] == [b"%d" % number for number in range(9)]
        assert pool.stats.open <= 3


async def test_a_replay_that_is_handed_a_dying_connection_waits_on(pool_to: MakePool):
    """The full pool stays full: a slot is neither lost nor used twice."""

    async def script(peer: Peer) -> None:
        if peer.number == 0:
            await peer.request()
            await peer.answer(b"")
            await peer.request()
            peer.reset()
        elif peer.number > 1:
            await echo(peer)

    async with raw_server(script) as server, pool_to(server, max_connections=1) as pool:
        await post(pool)
        async with asyncio.TaskGroup() as group:
            replayed = group.create_task(post(pool, b"replayed"))
            other = group.create_task(post(pool, b"other"))
            await settle(pool, replayed_total=1, waiting=1, in_flight=1)
            (conn,) = pool._open
            conn.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            conn._rounds.run_all()
            conn.abort()  # After it was handed to the replay, before that can run.
        assert (replayed.result(), other.result()) == (b"replayed", b"")
        assert pool.stats.open == pool._slots == 1
        assert len(server.peers) == 3


async def test_what_is_read_behind_a_whole_answer_in_one_turn_answers_nobody(pool_to: MakePool):
    """Another's request is dealt with between the two, and the kernel has nothing to tell of the second."""
    begun: list[Exchange | None] = []

    class Asks:
        def data_received(self, data: bytes) -> None:
            begun.append(pool.try_send(b"POST / HTTP/1.1\r\n", data, LONG))

        def receive_failed(self, error: Exception) -> None:
            raise error

    async with raw_server(idle) as server, pool_to(server) as pool:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(post(pool, b"first"))
            await settle(pool, in_flight=1)
            (conn,) = pool._open
            conn.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none")
            conn._rounds.enqueue_read(Asks(), b"second")
            conn.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad")
        assert first.result() == b"one"
        (second,) = begun
        assert second is not None
        assert isinstance(second.failure, UpstreamClosed)
        assert (second.status, conn.closed) == (0, True)


async def test_a_request_is_never_replayed_from_a_new_connection(pool_to: MakePool):
    async def slam(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async with raw_server(slam) as server, pool_to(server) as pool:
        with pytest.raises(GatewayError) as caught:
            await post(pool)
        assert caught.value.code == "upstream_closed"
        assert len(server.peers) == 1


async def test_a_request_is_never_replayed_once_a_byte_has_come(pool_to: MakePool):
    async def tease(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"")
        await peer.request()
        await peer.send(b"H")
        peer.close()

    async with raw_server(tease) as server, pool_to(server) as pool:
        await post(pool)
        with pytest.raises(GatewayError) as caught:
            await post(pool)
        assert caught.value.code == "upstream_closed"
        assert len(server.peers) == 1
        assert pool.stats.replayed_total == 0


async def test_a_request_is_replayed_at_most_once(pool_to: MakePool):
    async def mean(peer: Peer) -> None:
        await peer.request()
        if peer.number == 0:
            await peer.answer(b"")
            await peer.request()
        peer.reset()

    async with raw_server(mean) as server, pool_to(server) as pool:
        await post(pool)
        with pytest.raises(GatewayError) as caught:
            await post(pool)
        assert caught.value.code == "upstream_closed"
        assert len(server.peers) == 2


async def test_a_timeout_is_never_replayed(pool_to: MakePool):
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"")
        await peer.request()

    async with raw_server(silent) as server, pool_to(server) as pool:
        await post(pool)
        short = Timeouts(1, 1, 0.03, 1, 1)
        with pytest.raises(UpstreamTimeout):
            await post(pool, timeouts=short)
        assert len(server.peers) == 1


async def test_leftovers_of_one_response_are_never_read_as_the_next(pool_to: MakePool):
    async def smuggle(peer: Peer) -> None:
        if peer.number:
            await echo(peer)
        await peer.request()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine"
            b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
        )

    async with raw_server(smuggle) as server, pool_to(server) as pool:
        assert await post(pool, b"1") == b"mine"
        assert await post(pool, b"2") == b"2"
        assert len(server.peers) == 2
        await server.peers[0].wait_gone()


async def test_late_leftovers_are_never_read_as_the_next_either(pool_to: MakePool):
    async with raw_server(idle) as server, pool_to(server) as pool:
        async with asyncio.TaskGroup() as group:
            group.create_task(post(pool, b"1"))
            peer = await server.peer()
            await peer.request()
            await peer.answer(b"mine")
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen")
        await settle(pool, open=0)
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(post(pool, b"2"))
            second = await server.peer()
            await second.request()
            await second.answer(b"2")
        assert answer.result() == b"2"


@pytest.mark.parametrize("head", [b"connection: close\r\n", b"connection: x, close\r\n"])
async def test_a_connection_that_the_upstream_wants_closed_is_not_reused(
    pool_to: MakePool, head: bytes
):
    async def closing(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(b"ok", head=head)

    async with raw_server(closing) as server, pool_to(server) as pool:
        assert await post(pool) == b"ok"
        assert await post(pool) == b"ok"
        assert len(server.peers) == 2
        await server.peers[0].wait_gone()


async def test_an_answer_that_overtakes_its_request_ends_the_connection(pool_to: MakePool):
    async def refuse(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")

    async with raw_server(refuse) as server, pool_to(server) as pool:
        exchange = await pool.request(path=b"/", headers=[], body=b"x" * 30_000_000)
        assert (exchange.status, await exchange.read_all(10)) == (413, b"no")
        assert pool.stats.open == 0
        assert len(server.peers) == 1


async def test_waiting_for_a_connection_has_a_deadline(pool_to: MakePool):
    async with raw_server(idle) as server, pool_to(server, max_connections=1) as pool:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(post(pool))
            peer = await server.peer()
            await peer.request()
            for within, phase in (
                (Timeouts(1, 1, 1, 1, 5, queue_s=0.02), "queue"),
                (Timeouts(1, 1, 1, 1, total_s=0.02), "total"),
            ):
                with pytest.raises(UpstreamTimeout) as caught:
                    await post(pool, timeouts=within)
                assert caught.value.phase == phase
            assert pool.stats.waiting == 0
            await peer.answer(b"ok")
        assert first.result() == b"ok"
        assert await_free(pool)


def await_free(pool: Pool) -> bool:
    stats = pool.stats
    return (stats.waiting, stats.in_flight, stats.idle) == (0, 0, 1)


async def test_a_slot_whose_connection_breaks_goes_to_the_next_in_line(pool_to: MakePool):
    async def slam_first(peer: Peer) -> None:
        if peer.number == 0:
            await peer.request()
            peer.reset()
        else:
            await echo(peer)

    async with raw_server(slam_first) as server, pool_to(server, max_connections=1) as pool:
        results: list[bytes | GatewayError] = []

        async def attempt(number: int) -> None:
            try:
                results.append(await post(pool, b"%d" % number))
            except GatewayError as exc:
                results.append(exc)

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(attempt(number))
        assert isinstance(results[0], GatewayError)
        assert results[1:] == [b"1", b"2"]


async def test_nobody_listening_is_a_refusal_and_costs_no_slot():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    pool = Pool(Origin("http", "127.0.0.1", port), PoolLimits(max_connections=1, max_idle=1), LONG)
    for _ in range(3):
        with pytest.raises(UpstreamRefused) as caught:
            await post(pool)
        assert str(port) in str(caught.value)
    assert pool.stats.open == 0
    await pool.aclose()


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a" * 64 + ".test", ".."])
async def test_an_unknown_name_is_a_refusal(name: str):
    pool = Pool(Origin("http", name, 80), PoolLimits(), LONG)
    with pytest.raises(UpstreamRefused):
        await post(pool)
    await pool.aclose()


async def test_warm_connections_are_opened_ahead_used_first_and_replaced(pool_to: MakePool):
    async with raw_server(echo) as server, pool_to(server, warm=2, max_idle=4) as pool:
        await pool.start()
        peers = [await server.peer(), await server.peer()]
        await settle(pool, idle=2)
        exchange = await pool.request(path=b"/", headers=[], body=b"x")
        assert await exchange.read_all(10) == b"x"
        assert exchange.timing.reused
        assert not exchange.timing.connected
        peers[0].close()
        replacement = await server.peer()
        await settle(pool, idle=2)
        assert replacement.number == 2


async def test_what_requests_use_up_is_warm_again_soon_however_often(pool_to: MakePool):
    """Clients that leave end their upstream connections: the next must not find cold ones for it."""
    async with raw_server(idle) as server, pool_to(server, warm=1, max_idle=4) as pool:
        await pool.start()
        for number in range(9):  # where each pause is twice the last, the ninth takes 25 s
            peer = await server.peer()
            await settle(pool, idle=1)
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(pool.request(path=b"/", headers=[], body=b"x"))
                assert (await peer.request()).body == b"x"
                asking.cancel()
            await peer.wait_gone()
            assert peer.number == number


async def test_warming_survives_an_upstream_that_is_not_there_yet():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    pool = Pool(Origin("http", "127.0.0.1", port), PoolLimits(warm=1), LONG)
    await pool.start()
    await settle(pool, warm_failures_total=1)
    async with raw_server(echo, port=port) as server:
        await server.peer()
        await settle(pool, idle=1)
        await pool.aclose()


async def test_warming_an_upstream_that_hangs_up_at_once_is_no_busy_loop():
    async def hang_up(peer: Peer) -> None:
        peer.close()

    async with raw_server(hang_up) as server:
        pool = Pool(Origin("http", "127.0.0.1", server.port), PoolLimits(warm=1), LONG)
        await pool.start()
        await server.peer()
        await server.peer()
        began = asyncio.get_running_loop().time()
        await server.peer()
        assert asyncio.get_running_loop().time() - began > 0.1
        await pool.aclose()


async def test_closing_ends_the_idle_refuses_the_waiting_and_drains_the_running():
    async with raw_server(idle) as server:
        pool = Pool(
            Origin("http", "127.0.0.1", server.port),
            PoolLimits(max_connections=1, max_idle=1),
            LONG,
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(post(pool))
            peer = await server.peer()
            await peer.request()
            refused = group.create_task(refusal(pool))
            await settle(pool, waiting=1)
            closing = group.create_task(pool.aclose(drain_s=5))
            assert (await refused).code == "upstream_pool_closed"
            assert (await refusal(pool)).code == "upstream_pool_closed"
            await peer.answer(b"done")
            await closing
        assert running.result() == b"done"
        assert pool.stats.open == 0
        await peer.wait_gone()


async def test_closing_does_not_wait_longer_than_it_was_told():
    async with raw_server(idle) as server:
        pool = Pool(Origin("http", "127.0.0.1", server.port), PoolLimits(), LONG)
        async with asyncio.TaskGroup() as group:
            cut = group.create_task(failure(pool))
            peer = await server.peer()
            await peer.request()
            await pool.aclose(drain_s=0.02)
            await peer.wait_gone()
        assert cut.result().code == "upstream_closed"
        await pool.aclose()


async def refusal(pool: Pool) -> UpstreamRefused:
    with pytest.raises(UpstreamRefused) as caught:
        await post(pool)
    return caught.value


async def failure(pool: Pool) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await post(pool)
    return caught.value


async def test_a_request_over_a_closed_server_socket_says_where(pool_to: MakePool):
    async with raw_server(idle) as server, pool_to(server) as pool:
        async with asyncio.TaskGroup() as group:
            failed = group.create_task(failure(pool))
            peer = await server.peer()
            await peer.request()
            peer.close()
        assert f"127.0.0.1:{server.port}" in str(failed.result())


def test_an_origin_is_split_from_its_path():
    assert Origin.parse("https://api.test/v1/") == (Origin("https", "api.test", 443), b"/v1")
    assert Origin.parse("http://[::1]:8000") == (Origin("http", "::1", 8000), b"")
    assert Origin("http", "::1", 8000).host_header == b"[::1]:8000"
    assert Origin("https", "api.test", 443).host_header == b"api.test"
    assert str(Origin("http", "api.test", 443)) == "http://api.test:443"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "https://",
        "http://a b/",
        "http://u:p@x/",
        "http://x/?q",
        "http://x:99999/",
        "http://x\r\n/",
        "/v1",
    ],
)
def test_what_is_no_origin_is_refused(url: str):
    with pytest.raises(ValueError):
        Origin.parse(url)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_connections": 0},
        {"warm": 65},
        {"warm": -1},
        {"idle_ttl_s": 0},
        {"max_connections": 1, "warm": 2},
    ],
)
def test_limits_that_contradict_themselves_are_refused(limits: dict[str, float]):
    with pytest.raises(ValueError, match="must be"):
        PoolLimits(**limits)
