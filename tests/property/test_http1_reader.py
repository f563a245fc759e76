"""The reader gives one answer for one response, however it is split, and refuses the rest."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import UpstreamClosed, UpstreamProtocol
from app.upstream.http1 import ResponseReader, split_head

# Names that a careless search would take for the ones that frame a message are among them.
NAMES = st.sampled_from(
    [
        b"Date",
        b"Set-Cookie",
        b"set-cookie",
        b"X-Content-Length",
        b"Content-Length-X",
        b"Transfer-Encoding-X",
        b"X-Transfer-Encoding",
        b"Content",
        b"x",
    ]
)
VALUES = st.one_of(
    st.sampled_from([b"", b"content-length: 5", b"chunked", b"7", b"a:b", b"\xff\x80"]),
    st.text('abcXYZ019 :;,="\xe4', max_size=8).map(lambda text: text.strip().encode("latin-1")),
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=4)
BODIES = st.binary(max_size=60)


@dataclass(frozen=True)
class Message:
    """A well-formed response and what must be read from it."""

    raw: bytes
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    ends_with_eof: bool = False


def chunked(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces if p) + b"0\r\n\r\n"


@st.composite
def messages(draw: st.DrawFn, *, eof: bool = True) -> Message:
    fields = draw(FIELDS)
    status = draw(st.sampled_from([200, 201, 302, 400, 404, 429, 500, 529]))
    kinds = ["length", "chunked", "no content"] + (["eof"] if eof else [])
    kind = draw(st.sampled_from(kinds))
    body = b"" if kind == "no content" else draw(BODIES)
    framed = body
    if kind == "length":
        fields.insert(draw(st.integers(0, len(fields))), (b"Content-Length", b"%d" % len(body)))
    elif kind == "chunked":
        fields.insert(draw(st.integers(0, len(fields))), (b"Transfer-Encoding", b"Chunked"))
        cut = draw(st.integers(0, len(body)))
        framed = chunked([body[:cut], body[cut:]])
    elif kind == "no content":
        status = 204
    interim = draw(
        st.sampled_from(
            [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 E\r\nLink: x\r\n\r\n"]
        )
    )
    head = b"HTTP/1.1 %d Fine\r\n" % status
    head += b"".join(b"%b: %b\r\n" % field for field in fields)
    headers = tuple((name.lower(), value) for name, value in fields)
    return Message(interim + head + b"\r\n" + framed, status, headers, body, kind == "eof")


def read(reader: ResponseReader, pieces: list[bytes]) -> bytes:
    reader.begin(b"POST")
    body = b""
    for piece in pieces:
        if piece:
            reader.feed(piece)
            body += reader.take()
    return body


def check(reader: ResponseReader, message: Message, body: bytes) -> None:
    if message.ends_with_eof:
        assert not reader.complete
        reader.feed_eof()
    assert reader.complete
    assert not reader.excess
    assert reader.reusable is not message.ends_with_eof
    assert (reader.status, split_head(reader.head), body) == (
        message.status,
        message.headers,
        message.body,
    )


@given(messages())
def test_a_split_at_every_byte_gives_the_same_message(message: Message):
    raw = message.raw
    for at in range(len(raw)):
        reader = ResponseReader()
        check(reader, message, read(reader, [raw[:at], raw[at:]]))


@given(messages())
def test_a_message_that_dribbles_in_byte_by_byte_is_the_same_message(message: Message):
    reader = ResponseReader()
    check(reader, message, read(reader, [bytes([byte]) for byte in message.raw]))


@given(messages(), st.data())
def test_any_number_of_splits_gives_the_same_message(message: Message, data: st.DataObject):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(message.raw)), max_size=8)))
    edges = [0, *cuts, len(message.raw)]
    reader = ResponseReader()
    check(
        reader,
        message,
        read(reader, [message.raw[a:b] for a, b in itertools.pairwise(edges)]),
    )


@given(st.lists(messages(eof=False), min_size=2, max_size=4), st.data())
def test_one_reader_reads_message_after_message_without_a_trace_of_the_one_before(
    sequence: list[Message], data: st.DataObject
):
    reader = ResponseReader()
    for message in sequence:
        at = data.draw(st.integers(0, len(message.raw)))
        check(reader, message, read(reader, [message.raw[:at], message.raw[at:]]))


@given(messages(eof=False), st.binary(min_size=1, max_size=40), st.data())
@example(Message(b"HTTP/1.1 204 N\r\n\r\n", 204, (), b""), b"\r\n", None)
@example(Message(b"HTTP/1.1 204 N\r\n\r\n", 204, (), b""), b"HTTP/1.1 200 OK\r\n", None)
def test_bytes_after_the_end_are_never_read_and_forbid_reuse(
    message: Message, extra: bytes, data: st.DataObject | None
):
    raw = message.raw + extra
    at = len(raw) if data is None else data.draw(st.integers(0, len(raw)))
    reader = ResponseReader()
    body = read(reader, [raw[:at], raw[at:]])
    assert reader.complete
    assert reader.excess
    assert not reader.reusable
    assert (reader.status, split_head(reader.head), body) == (
        message.status,
        message.headers,
        message.body,
    )


@given(messages(), st.data())
def test_a_message_cut_short_is_never_taken_for_whole(message: Message, data: st.DataObject):
    at = data.draw(st.integers(0, len(message.raw) - 1))
    reader = ResponseReader()
    read(reader, [message.raw[:at]])
    if message.ends_with_eof and reader.head_complete:
        return  # Such a body has no other end than this; HTTP/1.0 could not tell either.
    assert not reader.complete
    with pytest.raises(UpstreamClosed):
        reader.feed_eof()


def digest(garbage: list[bytes]) -> None:
    reader = ResponseReader()
    reader.begin(b"POST")
    try:
        for piece in garbage:
            reader.feed(piece)
            reader.take()
        reader.feed_eof()
    except (UpstreamProtocol, UpstreamClosed):
        assert not reader.reusable


@given(st.lists(st.binary(min_size=1, max_size=80), max_size=6))
def test_garbage_raises_nothing_but_a_protocol_error(garbage: list[bytes]):
    digest(garbage)


@given(messages(), st.data())
def test_a_message_with_changed_bytes_raises_nothing_but_a_protocol_error(
    message: Message, data: st.DataObject
):
    raw = bytearray(message.raw)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["set", "drop", "repeat", "insert"])):
            case "set":
                raw[at] = data.draw(st.integers(0, 255))
            case "drop" if len(raw) > 1:
                del raw[at]
            case "repeat":
                raw[at:at] = raw[at : at + 20]
            case _:
                raw[at:at] = data.draw(st.sampled_from([b"\r\n", b"\n", b"\r", b"\0", b" ", b":"]))
    at = data.draw(st.integers(0, len(raw)))
    digest([bytes(p) for p in (raw[:at], raw[at:]) if p])


@given(messages(), st.data())
def test_a_changed_message_is_the_same_whole_or_split(message: Message, data: st.DataObject):
    """Acceptance itself does not depend on the splits: that is what smugglers need."""
    raw = bytearray(message.raw)
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at : at + data.draw(st.integers(0, 2))] = data.draw(
        st.sampled_from([b"\n", b"\r", b"\r\n", b"\r\n ", b"\0", b"1", b";", b","])
    )
    outcomes = set()
    for split in range(0, len(raw), 1 + len(raw) // 12):
        reader = ResponseReader()
        try:
            body = read(reader, [bytes(raw[:split]), bytes(raw[split:])])
        except UpstreamProtocol:
            outcomes.add("refused")
        else:
            outcomes.add(
                (reader.status, split_head(reader.head), body, reader.complete, reader.excess)
            )
    assert len(outcomes) == 1
