"""Whatever an upstream does on a connection, nobody ever reads another's answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UpstreamError
from app.upstream import Origin, Pool, PoolLimits, Timeouts
from tests.support.raw_server import Peer, raw_server

WITHIN = Timeouts(connect_s=5, tls_s=5, first_byte_s=5, between_bytes_s=5, total_s=10)


@dataclass(frozen=True)
class Act:
    """How the upstream answers one request."""

    framing: str
    cut: float
    after: str

    @property
    def sound(self) -> bool:
        """Whether the caller must get the whole answer."""
        return self.after != "truncate"


ACTS = st.builds(
    Act,
    framing=st.sampled_from(["length", "chunked", "eof", "interim"]),
    cut=st.floats(0, 1),
    after=st.sampled_from(["", "", "", "close", "half_close", "blank line", "second", "truncate"]),
)


def framed(act: Act, body: bytes) -> bytes:
    match act.framing:
        case "chunked":
            head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
            return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        case "eof":
            return b"HTTP/1.1 200 OK\r\n\r\n" + body
        case "interim":
            start = b"HTTP/1.1 100 Continue\r\n\r\n"
        case _:
            start = b""
    return start + b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def play(peer: Peer, acts: list[Act]) -> None:
    while True:
        request = await peer.request()
        act = acts[int(request.body.split(b":")[0])]
        raw = framed(act, request.body)
        # What follows the end comes together with it: what comes later, when the next request is
        # already on its way, is the one thing that HTTP/1.1 leaves no client to tell.
        at = int(act.cut * (len(raw) - 1))
        if act.after == "truncate":
            raw = raw[:-1]
        elif act.after == "blank line":
            raw += b"\r\n"
        elif act.after == "second":
            raw += b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen"
        await peer.send(raw[:at], raw[at:])
        if act.after == "truncate":
            peer.reset()
            return
        if act.after == "half_close":
            peer.half_close()
            return
        if act.after == "close" or act.framing == "eof":
            peer.close()
            return


async def call(pool: Pool, number: int) -> bytes | UpstreamError:
    body = b"%d:" % number + bytes([65 + number]) * (number * 13)
    try:
        exchange = await pool.request(path=b"/", headers=[], body=body)
        return await exchange.read_all(1 << 20)
    except UpstreamError as exc:
        return exc


@settings(max_examples=40)
@given(st.lists(ACTS, min_size=1, max_size=12), st.integers(1, 3))
async def test_every_call_gets_its_own_answer_or_an_error(acts: list[Act], connections: int):
    async with raw_server(lambda peer: play(peer, acts)) as server:
        limits = PoolLimits(max_connections=connections, max_idle=connections)
        pool = Pool(Origin("http", "127.0.0.1", server.port), limits, WITHIN)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call(pool, number)) for number in range(len(acts))]
        for number, (act, task) in enumerate(zip(acts, tasks, strict=True)):
            result = task.result()
            whole = b"%d:" % number + bytes([65 + number]) * (number * 13)
            if act.framing == "eof" and act.after in {"blank line", "second"}:
                assert isinstance(result, bytes)
                assert result.startswith(whole)  # With no length, all that comes is the body.
            elif act.sound:
                assert result == whole
            else:
                assert isinstance(result, UpstreamError)
        stats = pool.stats
        assert (stats.waiting, stats.in_flight) == (0, 0)
        await pool.aclose()
        assert pool.stats.open == 0
