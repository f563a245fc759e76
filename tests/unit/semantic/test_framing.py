"""Frames between the gateway and its vector process, however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stores.vectors import MAX_FRAME_BYTES, Framing, collection_name, framed


@given(st.lists(st.binary(max_size=60), max_size=6), st.data())
def test_every_message_comes_whole_and_in_order(messages, data):
    stream, read, framing = b"".join(map(framed, messages)), [], Framing()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        read += framing.feed(stream[:size])
        stream = stream[size:]
    assert read == messages


def test_a_frame_over_the_limit_is_refused_before_it_is_read():
    head = (MAX_FRAME_BYTES + 1).to_bytes(4, "little")
    with pytest.raises(ValueError, match="limit"):
        list(Framing().feed(head))


@given(st.text(min_size=1, max_size=200))
def test_a_collection_is_named_by_the_build_in_letters_that_any_store_takes(build):
    name = collection_name(build)
    assert name.isascii()
    assert all(c.isalnum() or c == "-" for c in name)
    assert len(name) < 110
