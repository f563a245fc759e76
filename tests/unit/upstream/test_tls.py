"""Over TLS the host is who it says it is, the handshake is timed, and nothing else changes."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import weakref
from collections.abc import Callable

import pytest
import trustme

from app.errors import UpstreamClosed, UpstreamRefused, UpstreamTimeout
from app.upstream import Origin, Pool, PoolLimits, Timeouts
from tests.support.raw_server import Peer, RawServer, idle, raw_server
from tests.unit.upstream.conftest import LONG, settle


@pytest.fixture
def anyio_backend_options(anyio_backend: tuple[str, dict[str, bool]]) -> dict[str, bool]:
    return anyio_backend[1]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


def serving(authority: trustme.CA, name: str, *protocols: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    authority.configure_trust(context)
    return context


async def echo(peer: Peer) -> None:
    while True:
        request = await peer.request()
        await peer.answer(request.body)


def pool_to(server: RawServer, context: ssl.SSLContext | None, host: str = "localhost") -> Pool:
    return Pool(Origin("https", host, server.port), PoolLimits(), LONG, context)


async def call(pool: Pool, body: bytes = b"x") -> bytes:
    return await (await pool.request(path=b"/", headers=[], body=body)).read_all(1 << 24)


async def test_the_handshake_is_timed_once_and_the_connection_reused(authority: trustme.CA):
    names: list[str | None] = []
    context = serving(authority, "localhost", "h2", "http/1.1")
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    async with raw_server(echo, tls=context, host="localhost") as server:
        pool = pool_to(server, trusting(authority))
        first = await pool.request(path=b"/", headers=[], body=b"1")
        assert await first.read_all(10) == b"1"
        second = await pool.request(path=b"/", headers=[], body=b"2")
        assert await second.read_all(10) == b"2"
        assert first.timing.connected < first.timing.tls <= first.timing.sent
        assert second.timing.reused
        assert second.timing.tls == 0
        assert names == ["localhost"]
        await pool.aclose()


async def test_bodies_of_any_size_survive(authority: trustme.CA):
    async with raw_server(echo, tls=serving(authority, "localhost"), host="localhost") as server:
        pool = pool_to(server, trusting(authority))
        for size in (0, 1, 16_384, 65_536, 65_537, 3_000_000):
            body = bytes(size)
            assert await call(pool, body) == body
        assert len(server.peers) == 1
        await pool.aclose()


async def test_a_certificate_for_another_host_is_refused(authority: trustme.CA):
    context = serving(authority, "elsewhere.test")
    async with raw_server(echo, tls=context, host="localhost") as server:
        pool = pool_to(server, trusting(authority))
        with pytest.raises(UpstreamRefused) as caught:
            await call(pool)
        assert "tls" in str(caught.value)
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        assert pool.stats.open == 0
        await pool.aclose()


async def test_a_certificate_of_an_unknown_authority_is_refused(authority: trustme.CA):
    context = serving(trustme.CA(), "localhost")
    async with raw_server(echo, tls=context, host="localhost") as server:
        for trust in (trusting(authority), None):
            pool = pool_to(server, trust)
            with pytest.raises(UpstreamRefused):
                await call(pool)
            await pool.aclose()


async def test_an_address_is_verified_too(authority: trustme.CA):
    async with raw_server(echo, tls=serving(authority, "127.0.0.1")) as server:
        pool = pool_to(server, trusting(authority), "127.0.0.1")
        assert await call(pool) == b"x"
        await pool.aclose()


async def test_plain_http_behind_an_https_origin_is_refused(authority: trustme.CA):
    async def plain(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    async with raw_server(plain, host="localhost") as server:
        pool = pool_to(server, trusting(authority))
        with pytest.raises(UpstreamRefused):
            await call(pool)
        await pool.aclose()


async def test_a_handshake_that_hangs_has_its_own_limit(authority: trustme.CA):
    async with raw_server(idle, host="localhost") as server:
        short = Timeouts(5, 0.05, 5, 5, 10)
        pool = Pool(
            Origin("https", "localhost", server.port), PoolLimits(), short, trusting(authority)
        )
        with pytest.raises(UpstreamTimeout) as caught:
            await call(pool)
        assert caught.value.phase == "tls"
        await server.peers[0].wait_gone()
        assert pool.stats.open == 0
        await pool.aclose()


async def test_leaving_closes_the_socket_under_the_tls(authority: trustme.CA):
    async with raw_server(idle, tls=serving(authority, "localhost"), host="localhost") as server:
        pool = pool_to(server, trusting(authority))
        task = asyncio.get_running_loop().create_task(call(pool))
        peer = await server.peer()
        await peer.request()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await peer.wait_gone()
        assert pool.stats.open == 0
        await pool.aclose()


async def test_a_truncated_body_is_an_error_over_tls_too(authority: trustme.CA):
    async def cut(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")
        peer.reset()

    async with raw_server(cut, tls=serving(authority, "localhost"), host="localhost") as server:
        pool = pool_to(server, trusting(authority))
        with pytest.raises(UpstreamClosed):
            await call(pool)
        await pool.aclose()


async def test_a_body_without_a_length_ends_only_with_a_tls_goodbye(
    authority: trustme.CA, anyio_backend_options: dict[str, bool]
):
    """Whoever cuts the wire cannot shorten an answer."""

    async def end(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await cut.wait()
        if peer.number == 0:
            peer.close()
        else:
            fd = os.dup(peer.writer.get_extra_info("socket").fileno())
            with socket.socket(fileno=fd) as behind_the_tls:
                behind_the_tls.shutdown(socket.SHUT_WR)

    # A fixture of a wider scope elsewhere that is still open would hold every test on its own loop.
    uvloop = type(asyncio.get_running_loop()).__module__.startswith("uvloop")
    assert uvloop == anyio_backend_options["use_uvloop"]
    cut = asyncio.Event()
    async with raw_server(end, tls=serving(authority, "localhost"), host="localhost") as server:
        pool = pool_to(server, trusting(authority))
        for whole in (True, False):
            cut.clear()
            exchange = await pool.request(path=b"/", headers=[], body=b"")
            assert await exchange.read() == b"hello"
            cut.set()
            if whole:
                assert await exchange.read() == b""
            else:
                with pytest.raises(UpstreamClosed):
                    await exchange.read()
        await pool.aclose()


async def test_an_idle_connection_whose_peer_leaves_is_dropped(authority: trustme.CA):
    async with raw_server(echo, tls=serving(authority, "localhost"), host="localhost") as server:
        pool = pool_to(server, trusting(authority))
        await call(pool)
        server.peers[0].close()
        await settle(pool, open=0)
        assert await call(pool) == b"x"
        assert len(server.peers) == 2
        await pool.aclose()


async def test_warm_connections_have_their_handshake_behind_them(authority: trustme.CA):
    async with raw_server(echo, tls=serving(authority, "localhost"), host="localhost") as server:
        pool = Pool(
            Origin("https", "localhost", server.port), PoolLimits(warm=1), LONG, trusting(authority)
        )
        await pool.start()
        await settle(pool, idle=1)
        exchange = await pool.request(path=b"/", headers=[], body=b"x")
        assert exchange.timing.reused
        assert exchange.timing.tls == 0
        assert await exchange.read_all(10) == b"x"
        await pool.aclose()


async def test_an_answer_in_many_records_comes_in_the_pieces_in_which_it_was_read(
    authority: trustme.CA,
):
    """Records that came together are handed on together, and half a record is waited for."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 50000\r\n\r\n" + bytes(50_000)

    async def dribble(peer: Peer) -> None:
        while True:
            await peer.request()
            for start in range(0, len(answer), 1_000):
                await peer.send(answer[start : start + 1_000])

    async with raw_server(dribble, tls=serving(authority, "localhost"), host="localhost") as server:
        pool = pool_to(server, trusting(authority))
        for _ in range(3):
            assert await call(pool) == bytes(50_000)
        assert len(server.peers) == 1
        await pool.aclose()


async def test_a_broken_record_loses_the_connection(authority: trustme.CA):
    async def spoil(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")
        fd = os.dup(peer.writer.get_extra_info("socket").fileno())
        with socket.socket(fileno=fd) as behind_the_tls:
            behind_the_tls.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        await peer.wait_gone()

    async with raw_server(spoil, tls=serving(authority, "localhost"), host="localhost") as server:
        pool = pool_to(server, trusting(authority))
        with pytest.raises(UpstreamClosed):
            await call(pool)
        assert pool.stats.open == 0
        await pool.aclose()


async def test_a_peer_that_leaves_within_the_handshake_is_refused_and_holds_no_place(
    authority: trustme.CA,
):
    async def leave(peer: Peer) -> None:
        await peer.reader.readexactly(5)
        peer.reset()

    async with raw_server(leave, host="localhost") as server:
        pool = pool_to(server, trusting(authority))
        with pytest.raises(UpstreamRefused):
            await call(pool)
        assert pool.stats.open == 0
        await pool.aclose()


async def test_both_versions_of_tls_are_spoken(authority: trustme.CA):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = serving(authority, "localhost")
        context.minimum_version = context.maximum_version = version
        async with raw_server(echo, tls=context, host="localhost") as server:
            pool = pool_to(server, trusting(authority))
            for size in (0, 5, 700_000):
                assert await call(pool, bytes(size)) == bytes(size)
            await pool.aclose()


async def test_a_connection_over_tls_leaves_nothing_to_the_garbage_collector(
    authority: trustme.CA,
):
    async with raw_server(echo, tls=serving(authority, "localhost"), host="localhost") as server:
        pool = pool_to(server, trusting(authority))
        await call(pool)
        [connection] = pool._open
        seen = weakref.ref(connection._transport)
        gc.disable()
        try:
            del connection
            server.peers[0].close()
            await settle(pool, open=0)
            for _ in range(10):
                await asyncio.sleep(0)
            assert seen() is None
        finally:
            gc.enable()
        await pool.aclose()


class ByHand:
    """The server's side of TLS, whose records a test cuts itself."""

    def __init__(self, peer: Peer, context: ssl.SSLContext) -> None:
        self._peer = peer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def greeted(self) -> bool:
        """The client was greeted; no where it left before."""
        return await self._done(self._tls.do_handshake)

    async def asked(self) -> bool:
        """The client asked something; no where it left instead."""
        return await self._done(lambda: self._tls.read(1 << 16))

    def record(self, text: bytes) -> bytes:
        """``text`` as it would go out."""
        self._tls.write(text)
        return self._outgoing.read()

    async def _done(self, step: Callable[[], object]) -> bool:
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                self._peer.writer.write(self._outgoing.read())
                data = await self._peer.reader.read(1 << 16)
                if not data:
                    return False
                self._incoming.write(data)
            else:
                self._peer.writer.write(self._outgoing.read())
                return True


GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood"
BAD = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad"


@pytest.mark.parametrize("waiting", [False, True])
async def test_what_begins_behind_an_answer_and_ends_later_is_never_the_next_answer(
    authority: trustme.CA, waiting: bool
):
    """Half a record cannot be read, so the connection looks idle; and its rest would come as an answer.

    Nor where somebody waits for that connection, to whom it would be handed with the answer's last byte.
    """
    context = serving(authority, "localhost")

    async def script(peer: Peer) -> None:
        side = ByHand(peer, context)
        await side.greeted()
        await side.asked()
        answer, unasked = side.record(GOOD), side.record(BAD)
        peer.writer.write(answer + unasked[:20])
        while await side.asked():
            peer.writer.write(unasked[20:])

    async with raw_server(script, host="localhost") as server:
        limits = PoolLimits(max_connections=1)
        pool = Pool(Origin("https", "localhost", server.port), limits, LONG, trusting(authority))
        if waiting:
            async with asyncio.TaskGroup() as group:
                both = [group.create_task(call(pool)) for _ in range(2)]
            assert [one.result() for one in both] == [b"good", b"good"]
        else:
            assert [await call(pool), await call(pool)] == [b"good", b"good"]
        assert (pool.stats.opened_total, pool.stats.open) == (2, 0)
        await pool.aclose()


async def test_what_begins_before_the_first_question_and_ends_behind_it_is_no_answer(
    authority: trustme.CA,
):
    """It may be half a ticket, until its text is there."""
    context = serving(authority, "localhost")

    async def script(peer: Peer) -> None:
        side = ByHand(peer, context)
        await side.greeted()
        rest = b"" if peer.number else side.record(BAD)
        peer.writer.write(rest[:20])
        while await side.asked():
            peer.writer.write(rest[20:] or side.record(GOOD))

    async with raw_server(script, host="localhost") as server:
        limits = PoolLimits(warm=1)
        origin = Origin("https", "localhost", server.port)
        pool = Pool(origin, limits, LONG, trusting(authority))
        await pool.start()
        async with asyncio.timeout(10):
            while not any(conn._transport._record_head for conn in pool._idle):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        assert await call(pool) == b"good"
        assert pool.stats.replayed_total == 1
        await pool.aclose()
