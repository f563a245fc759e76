"""What the frame splitter promises for every byte stream and every split of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import UpstreamProtocol
from app.wire.sse import (
    FrameSplitter,
    comment_frame,
    count_data_lines,
    data_frame,
    read_events,
    split_frames,
)

line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
soup = st.lists(
    st.sampled_from(
        [b"data: ", b"x", b"\n", b"\r", b"\r\n", b"\n\n", b"event: e", b":", b"{}", b"\xff"]
    ),
    max_size=30,
).map(b"".join)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *marks], [*marks, len(data)], strict=True)]


@given(soup, st.lists(st.integers(0, 10**6), max_size=8))
def test_no_byte_is_lost_added_or_moved_however_the_stream_is_split(data, cuts):
    splitter = FrameSplitter()
    out = b"".join(splitter.feed(piece) for piece in pieces(data, cuts))
    assert out + splitter.flush() == data


@given(soup, st.lists(st.integers(0, 10**6), max_size=8))
def test_what_is_complete_does_not_depend_on_the_split(data, cuts):
    whole = FrameSplitter()
    expected = whole.feed(data)
    splitter = FrameSplitter()
    assert b"".join(splitter.feed(piece) for piece in pieces(data, cuts)) == expected
    single = FrameSplitter()
    assert b"".join(single.feed(data[i : i + 1]) for i in range(len(data))) == expected


@given(
    st.lists(st.binary(max_size=10).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b""))),
    line_ends,
)
def test_events_come_out_as_they_were_written_whatever_the_line_ends(payloads, end):
    stream = b"".join(b"event: e" + end + b"data: " + payload + end + end for payload in payloads)
    splitter = FrameSplitter()
    frames = b"".join(splitter.feed(stream[i : i + 3]) for i in range(0, len(stream), 3))
    assert frames == stream
    assert [event.data for event in read_events(frames)] == payloads
    assert count_data_lines(frames) == len(payloads)
    assert b"".join(split_frames(frames)) == frames


@given(st.text())
def test_a_comment_never_breaks_the_framing(text):
    frames = comment_frame(text) + data_frame(b"{}")
    assert [event.data for event in read_events(frames)] == [b"{}"]
    assert len(split_frames(comment_frame(text))) == 1


def test_a_frame_without_an_end_is_refused_at_the_limit():
    splitter = FrameSplitter(limit_bytes=100)
    assert splitter.feed(b"data: " + b"x" * 90) == b""
    with pytest.raises(UpstreamProtocol, match="100 bytes"):
        splitter.feed(b"x" * 20)


def test_the_usual_chunk_is_given_back_as_the_same_object():
    chunk = b'data: {"a": 1}\n\n'
    assert FrameSplitter().feed(chunk) is chunk


def test_several_data_lines_are_joined_and_comments_skipped():
    frames = b": hi\ndata: a\ndata:b\nid: 3\n\ndata\n\nretry: 5\n\nevent: x\ndata: c\n\n"
    assert [(event.event, event.data) for event in read_events(frames)] == [
        ("", b"a\nb"),
        ("", b""),
        ("x", b"c"),
    ]


@pytest.mark.parametrize("name", [b" ping", b"ping ", b"\x0bping", b"ping"])
def test_an_events_name_is_read_alike_alone_and_among_others(name):
    """One blank behind the colon is the field's, all others are the name's; found by the fuzzer."""
    frame = b"event: " + name + b"\ndata: {}\n\n"
    alone = read_events(frame)
    assert alone == read_events(frame + frame)[:1] == read_events(frame.replace(b"\n", b"\r\n"))
    assert alone[0].event == name.decode()
