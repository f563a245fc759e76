"""What the reader refuses, by name, and how it says so."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from app.errors import UpstreamClosed, UpstreamProtocol
from app.upstream.http1 import (
    MAX_CHUNK_OVERHEAD_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_INTERIM,
    ResponseReader,
    split_head,
)

OK = b"HTTP/1.1 200 OK\r\n"


def fed(raw: bytes, method: bytes = b"POST") -> ResponseReader:
    reader = ResponseReader("http://model.test")
    reader.begin(method)
    reader.feed(raw)
    return reader


def dribbled(raw: bytes) -> ResponseReader:
    return fed_pieces(bytes([byte]) for byte in raw)


def fed_pieces(pieces: Iterable[bytes]) -> ResponseReader:
    reader = ResponseReader()
    reader.begin(b"POST")
    for piece in pieces:
        reader.feed(piece)
    return reader


SMUGGLING = {
    "length and chunked": (
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "framing",
    ),
    "chunked and length": (
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        "framing",
    ),
    "two lengths": (OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", "framing"),
    "the same length twice": (OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n", "framing"),
    "a list of lengths": (OK + b"Content-Length: 5, 5\r\n\r\n", "framing"),
    "a signed length": (OK + b"Content-Length: +5\r\n\r\n", "framing"),
    "a negative length": (OK + b"Content-Length: -5\r\n\r\n", "framing"),
    "a hexadecimal length": (OK + b"Content-Length: 0x5\r\n\r\n", "framing"),
    "an underscored length": (OK + b"Content-Length: 1_0\r\n\r\n", "framing"),
    "an empty length": (OK + b"Content-Length:\r\n\r\n", "framing"),
    "a length beyond 64 bits": (OK + b"Content-Length: 18446744073709551616\r\n\r\n", "framing"),
    "chunked not last": (OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n", "framing"),
    "a coding before chunked": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "framing"),
    "chunked twice": (OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n", "framing"),
    "two chunked headers": (
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "framing",
    ),
    "an unknown coding": (OK + b"Transfer-Encoding: xchunked\r\n\r\n", "framing"),
    "identity": (OK + b"Transfer-Encoding: identity\r\n\r\n", "framing"),
    "chunked in HTTP/1.0": (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "framing"),
    "a folded header": (OK + b"A: b\r\n c\r\n\r\n", "malformed"),
    "a folded header with a tab": (OK + b"A: b\r\n\tc\r\n\r\n", "malformed"),
    "a space before the first header": (OK + b" A: b\r\n\r\n", "malformed"),
    "a space before the colon": (OK + b"Content-Length : 5\r\n\r\n", "malformed"),
    "a bare LF after the status line": (b"HTTP/1.1 200 OK\nA: b\r\n\r\n", "malformed"),
    "a bare LF after a header": (OK + b"A: b\nB: c\r\n\r\n", "malformed"),
    "a head of bare LFs": (b"HTTP/1.1 200 OK\nA: b\n\n", "malformed"),
    "a bare CR in a value": (OK + b"A: b\rc\r\n\r\n", "malformed"),
    "a NUL in a value": (OK + b"A: b\0c\r\n\r\n", "malformed"),
    "a NUL in a name": (OK + b"A\0: b\r\n\r\n", "malformed"),
    "no header name": (OK + b": b\r\n\r\n", "malformed"),
    "a blank line first": (b"\r\n" + OK + b"Content-Length: 0\r\n\r\n", "malformed"),
    "a space first": (b" " + OK + b"Content-Length: 0\r\n\r\n", "malformed"),
    "HTTP/2.0": (b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", "malformed"),
    "HTTP/0.9": (b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n", "malformed"),
    "status 000": (b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n", "malformed"),
    "status 999": (b"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n", "malformed"),
    "a four-digit status": (b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", "malformed"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "malformed"),
    "a request": (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", "malformed"),
    "switching protocols": (
        b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "switching",
    ),
    "switching, with bytes": (
        b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxx",
        "switching",
    ),
    "switching to nothing": (b"HTTP/1.1 101 S\r\n\r\n", "switching"),
    "a hexadecimal prefix on a chunk": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        "malformed",
    ),
    "a space after a chunk size": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
        "malformed",
    ),
    "a negative chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", "malformed"),
    "a chunk size beyond 64 bits": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n10000000000000001\r\n",
        "malformed",
    ),
    "a chunk longer than it says": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        "malformed",
    ),
    "bare LFs between chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n", "malformed"),
    "a length in the trailers": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\n\r\n",
        "framing",
    ),
    "a bare LF in a trailer": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n",
        "malformed",
    ),
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_two_readings_of_one_response_are_refused(name: str):
    raw, kind = SMUGGLING[name]
    with pytest.raises(UpstreamProtocol) as caught:
        fed(raw)
    assert caught.value.code == f"upstream_{kind}"
    assert "http://model.test" in str(caught.value)


@pytest.mark.parametrize("name", SMUGGLING)
def test_and_refused_byte_by_byte_too(name: str):
    with pytest.raises(UpstreamProtocol) as caught:
        dribbled(SMUGGLING[name][0])
    assert caught.value.code == f"upstream_{SMUGGLING[name][1]}"


def test_the_error_text_holds_none_of_the_upstreams_bytes():
    with pytest.raises(UpstreamProtocol) as caught:
        fed(OK + b"Set-Cookie: secret\r\nX: b\x01secret\r\n\r\n")
    assert "secret" not in str(caught.value)


def test_names_are_lowered_order_and_repeats_are_kept_and_values_are_trimmed():
    reader = fed(
        OK + b"B: 1\r\nSet-Cookie:  x \t\r\na:\r\nSET-COOKIE: y\r\nContent-Length: 0\r\n\r\n"
    )
    assert split_head(reader.head) == (
        (b"b", b"1"),
        (b"set-cookie", b"x"),
        (b"a", b""),
        (b"set-cookie", b"y"),
        (b"content-length", b"0"),
    )


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_content_ends_with_its_head(status: int):
    reader = fed(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status)
    assert reader.reusable


def test_the_answer_to_a_head_request_ends_with_its_head_and_the_next_is_read():
    reader = fed(OK + b"Content-Length: 5\r\n\r\n", b"HEAD")
    assert reader.reusable
    reader.begin(b"POST")
    reader.feed(OK + b"Content-Length: 2\r\n\r\nhi")
    assert (reader.take(), reader.reusable) == (b"hi", True)


def test_a_body_that_follows_the_answer_to_a_head_request_is_excess():
    reader = fed(OK + b"Content-Length: 5\r\n\r\nhello", b"HEAD")
    assert (reader.excess, reader.take()) == (True, b"")


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_keep_alive_is_the_upstreams_to_allow(head: bytes, reusable: bool):
    reader = fed(head + b"Content-Length: 0\r\n\r\n")
    assert reader.complete
    assert reader.reusable is reusable


@pytest.mark.parametrize(
    "rest",
    [b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
)
@pytest.mark.parametrize(
    "message",
    [
        OK + b"Content-Length: 2\r\n\r\n\r\n",
        OK + b"Content-Length: 0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n",
        OK + b"Connection: close\r\nContent-Length: 1\r\n\r\na",
        b"HTTP/1.1 304 X\r\n\r\n",
    ],
)
def test_whatever_follows_the_end_forbids_reuse(message: bytes, rest: bytes):
    for at in (len(message), len(message) - 1, len(message) + 1):
        reader = ResponseReader()
        reader.begin(b"POST")
        for piece in ((message + rest)[:at], (message + rest)[at:]):
            if piece:
                reader.feed(piece)
        assert reader.complete
        assert reader.excess


def test_a_body_of_line_ends_alone_is_no_excess():
    for raw in (
        OK + b"Content-Length: 4\r\n\r\n\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n",
    ):
        reader = fed(raw)
        assert (reader.take(), reader.reusable) == (b"\r\n\r\n", True)


def test_trailers_are_read_and_dropped():
    reader = fed(OK + b"Transfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\nX-Sum: 9\r\n\r\n")
    assert split_head(reader.head) == ((b"transfer-encoding", b"chunked"),)
    assert (reader.take(), reader.reusable) == (b"a", True)


def test_a_head_at_the_limit_is_read_and_one_byte_more_is_refused():
    def head(size: int) -> bytes:
        start = OK + b"Content-Length: 0\r\nA: "
        return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"

    assert fed(head(MAX_HEAD_BYTES)).complete
    for pieces in (
        [head(MAX_HEAD_BYTES + 1)],
        [head(MAX_HEAD_BYTES + 1)[:30], b"x" * MAX_HEAD_BYTES],
    ):
        with pytest.raises(UpstreamProtocol) as caught:
            fed_pieces(pieces)
        assert caught.value.code == "upstream_oversize"


def test_too_many_headers_are_refused():
    with pytest.raises(UpstreamProtocol) as caught:
        fed(OK + b"A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n")
    assert caught.value.code == "upstream_oversize"


def test_interim_heads_are_skipped_up_to_a_limit():
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    reader = fed(interim * MAX_INTERIM + OK + b"Content-Length: 0\r\n\r\n")
    assert split_head(reader.head) == ((b"content-length", b"0"),)
    with pytest.raises(UpstreamProtocol) as caught:
        fed(interim * (MAX_INTERIM + 1))
    assert caught.value.code == "upstream_oversize"


def test_chunk_framing_without_a_body_is_bounded():
    start = OK + b"Transfer-Encoding: chunked\r\n\r\n1;"
    extension = [b"x" * 1000] * (MAX_CHUNK_OVERHEAD_BYTES // 1000 + 1)
    with pytest.raises(UpstreamProtocol) as caught:
        fed_pieces([start, *extension])
    assert caught.value.code == "upstream_oversize"


def test_an_end_before_the_first_byte_is_told_from_one_within():
    reader = ResponseReader("http://model.test")
    reader.begin(b"POST")
    with pytest.raises(UpstreamClosed, match="without an answer"):
        reader.feed_eof()
    with pytest.raises(UpstreamClosed, match="within the response head"):
        fed(b"HTTP/1.1 200").feed_eof()
    with pytest.raises(UpstreamClosed, match="within the response head"):
        fed(b"HTTP/1.1 100 Continue\r\n\r\n").feed_eof()
    with pytest.raises(UpstreamClosed, match="before the end of the body"):
        fed(OK + b"Content-Length: 5\r\n\r\nhell").feed_eof()
