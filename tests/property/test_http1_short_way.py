"""A connection that knows the heads it is sent reads what one that knows nothing reads, byte for byte."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import UpstreamError
from app.upstream.connection import Connection
from app.upstream.exchange import Exchange, Timeouts
from app.upstream.head_shapes import HeadShapes

WITHIN = Timeouts(connect_s=5, tls_s=5, first_byte_s=5, between_bytes_s=5, total_s=10)


def length(number: bytes, size: int = 5) -> bytes:
    """An answer with a length."""
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: %b\r\n"
        b"content-length: %d\r\n\r\n%b" % (number, size, b"x" * size)
    )


def chunked(number: bytes) -> bytes:
    """The head of a chunked one."""
    return (
        b"HTTP/1.1 200 OK\r\nx-request-id: %b\r\ntransfer-encoding: chunked\r\n"
        b"date: now\r\n\r\n" % number
    )


LENGTH = length(b"abc")[:-5]
CHUNKED = chunked(b"xyz")
CLOSING = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\n"


class Wire:
    """A transport that writes nowhere."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.aborted = False

    def get_extra_info(self, _name: str) -> socket.socket:
        return self._sock

    def write(self, _data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.aborted = True


@dataclass
class Owner:
    """A pool of one connection."""

    head_shapes: HeadShapes
    rests: bool = False
    gone: bool = False

    def connection_released(self, _connection: Connection) -> None:
        self.rests = True

    def connection_lost(self, _connection: Connection) -> None:
        self.gone = True


@dataclass(frozen=True)
class Heard:
    """All that a caller and the pool can tell of one exchange."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    failure: tuple[str, str] | None
    over: bool
    rests: bool
    gone: bool


@contextmanager
def on_a_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.close()


def hear(  # noqa: C901 - all that can be told of an exchange
    known: HeadShapes, pieces: list[bytes], *, method: bytes, eof: bool, taker: bool
) -> Heard:
    """What one exchange on a fresh connection makes of ``pieces``."""
    with on_a_loop() as loop, socket.socket() as ours:
        owner = Owner(known)
        connection = Connection(owner, loop, "http://model.test")
        wire = Wire(ours)
        connection.connection_made(wire)  # type: ignore[arg-type]
        exchange = Exchange(loop, WITHIN)
        connection.send(exchange, b"", b"", method, WITHIN.first_byte_ns)
        body: list[bytes] = []

        def take(data: bytes, whole: bytes) -> bool:
            assert whole in {b"", b"%b\r\n%b\r\n" % (whole.partition(b"\r\n")[0], data)}
            body.append(data)
            return True

        for piece in pieces:
            if exchange.status and taker and exchange.connection is not None:
                body.append(exchange.connection.take())
                exchange.on_body = take
            if not owner.gone:
                connection.data_received(piece)
                connection._rounds.run_all()
            exchange.on_body = None
        if eof and not owner.gone:
            connection.eof_received()
        over = exchange.connection is None
        error: tuple[str, str] | None = None

        async def rest() -> bytes:
            return await exchange.read()

        if over:
            try:
                while data := loop.run_until_complete(rest()):
                    body.append(data)
            except UpstreamError as exc:
                error = (exc.code, exc.message)
        elif exchange.connection is not None:
            body.append(exchange.connection.take())
        heard = Heard(
            exchange.status,
            exchange.headers if exchange.status else (),
            b"".join(body),
            error,
            over,
            owner.rests,
            owner.gone,
        )
        connection.abort()
        return heard


def split(raw: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [raw[a:b] for a, b in itertools.pairwise(edges)]


SIZES = st.sampled_from(
    [b"%x", b"%X", b"0%x", b"%x;a=b", b"%x ", b" %x", b"+%x", b"0x%x", b"-%x", b"%x\r", b"_%x"]
)


@st.composite
def chunk(draw: st.DrawFn) -> bytes:
    data = draw(st.binary(max_size=20))
    line = draw(st.one_of(st.just(b"%x"), st.just(b"%x"), SIZES)) % len(data)
    end = draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"", b"\r\n\r\n"]))
    return line + b"\r\n" + data + end


ENDINGS = st.sampled_from(
    [b"0\r\n\r\n", b"0\r\n\r\n", b"", b"0\r\n", b"00\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"0;a\r\n\r\n"]
)
AFTER = st.sampled_from([b"", b"", b"\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"0"])
BODIES = st.one_of(
    st.builds(lambda body, after: LENGTH + body + after, st.binary(max_size=9), AFTER),
    st.builds(lambda body: CLOSING + body, st.binary(max_size=7)),
    st.builds(
        lambda chunks, end, after: CHUNKED + b"".join(chunks) + end + after,
        st.lists(chunk(), max_size=4),
        ENDINGS,
        AFTER,
    ),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A response, perhaps with a byte taken out, put in or changed anywhere."""
    raw = draw(BODIES)
    at = draw(st.integers(0, len(raw)))
    put = draw(st.sampled_from([b"\r", b"\n", b" ", b"0", b":", b"\0", b"a", b"\r\n", b"\xff"]))
    match draw(st.sampled_from(["", "", "insert", "delete", "replace"])):
        case "insert":
            return raw[:at] + put + raw[at:]
        case "delete":
            return raw[:at] + raw[at + 1 :]
        case "replace":
            return raw[:at] + put + raw[at + 1 :]
    return raw


@cache
def warm() -> HeadShapes:
    """What a connection learns from ordinary answers; what it is shown later must not change that."""
    known = HeadShapes()
    for number in (b"1", b"22"):
        hear(known, [length(number)], method=b"POST", eof=False, taker=False)
        raw = chunked(number) + b"1\r\na\r\n0\r\n\r\n"
        hear(known, [raw], method=b"POST", eof=False, taker=False)
        hear(known, [CLOSING + b"hello"], method=b"POST", eof=False, taker=False)
    return known


def copy_of(known: HeadShapes) -> HeadShapes:
    new = HeadShapes()
    new.shapes += known.shapes
    new.chunk_sizes |= known.chunk_sizes
    return new


def test_heads_of_a_known_shape_are_used_and_closing_ones_are_none():
    known = copy_of(warm())
    assert known.match(LENGTH) is not None
    assert known.match(length(b"another id", 77)[:-77]) is not None
    assert known.match(CHUNKED) is not None
    assert known.match(CLOSING) is None
    known.shapes[:] = [replace(shape, status=201) for shape in known.shapes]
    heard = hear(known, [LENGTH + b"again"], method=b"POST", eof=False, taker=False)
    assert (heard.status, heard.body, heard.rests) == (201, b"again", True)


@given(
    line=st.sampled_from(
        [
            b"content-length: 6",
            b"content-length: 05",
            b"content-length: +5",
            b"Content-Length: 5",
            b"content-length : 5",
            b"content-length: 5\r\ncontent-length: 5",
            b"content-length: 5\r\ntransfer-encoding: chunked",
            b"transfer-encoding: chunked",
            b"connection: close",
            b"x-request-id: a\nb",
            b"x-request-id: a\rb",
            b"x-request-id: a\r\n b",
            b"x-request-id: a\0b",
            b"x-request-id : a",
            b"x-request-id: ",
            b"x-request-id: \xff",
            b"x-request-id: a\r\nconnection: close",
        ]
    ),
    place=st.integers(1, 4),
    insert=st.booleans(),
    framing=st.booleans(),
)
def test_no_line_changes_what_the_strict_way_makes_of_a_head(
    line: bytes, place: int, insert: bool, framing: bool
):
    lines = (CHUNKED if framing else LENGTH).split(b"\r\n")
    lines[place : place + (0 if insert else 1)] = [line]
    raw = b"\r\n".join(lines) + (b"5\r\nhello\r\n0\r\n\r\n" if framing else b"hello")
    short = hear(copy_of(warm()), [raw], method=b"POST", eof=True, taker=True)
    assert short == hear(HeadShapes(), [raw], method=b"POST", eof=True, taker=True)


@given(
    raw=mutated(),
    cuts=st.lists(st.integers(0, 400), max_size=5),
    method=st.sampled_from([b"POST", b"POST", b"GET", b"HEAD"]),
    eof=st.booleans(),
    taker=st.booleans(),
)
@example(raw=LENGTH + b"hello", cuts=[], method=b"HEAD", eof=False, taker=False)
@example(raw=LENGTH + b"hello!", cuts=[], method=b"POST", eof=False, taker=False)
@example(
    raw=CHUNKED + b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
    cuts=[len(CHUNKED)],
    method=b"POST",
    eof=False,
    taker=True,
)
@example(
    raw=CHUNKED + b"5\r\nhello\r\n5;x\r\nthere\r\n0\r\n\r\n",
    cuts=[len(CHUNKED), len(CHUNKED) + 10],
    method=b"POST",
    eof=False,
    taker=True,
)
def test_the_short_way_reads_what_the_strict_one_reads(
    raw: bytes, cuts: list[int], method: bytes, eof: bool, taker: bool
):
    pieces = split(raw, cuts)
    short = hear(copy_of(warm()), pieces, method=method, eof=eof, taker=taker)
    strict = hear(HeadShapes(), pieces, method=method, eof=eof, taker=taker)
    assert short == strict


@given(cut=st.integers(0, 200), data=st.lists(st.binary(min_size=1, max_size=40), max_size=4))
def test_whole_chunks_are_cut_as_the_parser_cuts_them_at_every_split(cut: int, data: list[bytes]):
    raw = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(d), d) for d in data) + b"0\r\n\r\n"
    heard = hear(copy_of(warm()), split(raw, [cut]), method=b"POST", eof=False, taker=True)
    assert (heard.body, heard.failure, heard.over, heard.rests) == (
        b"".join(data),
        None,
        True,
        True,
    )


def test_a_server_that_changes_its_ways_is_learned_again_and_shapes_stay_bounded():
    known = HeadShapes()
    for number in range(2000):
        name = b"x-%d" % (number if number < 1000 else 0)
        head = b"HTTP/1.1 200 OK\r\n%b: a\r\ncontent-length: 5\r\n\r\n" % name
        known.learn(head, 200, chunked=False)
    assert known.match(b"HTTP/1.1 200 OK\r\nx-0: a\r\ncontent-length: 7\r\n\r\n") is not None
    assert len(known.shapes) <= 16
