"""Where the values of a JSON text stand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.prompts.spans import Span, UnreadableError, fields, items, line_at, whole

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), VALUES), st.sampled_from([None, 0, 1, 3]), st.booleans())
def test_every_value_of_an_object_is_found_where_it_stands(value, indent, ascii_only):
    raw = (" " + json.dumps(value, indent=indent, ensure_ascii=ascii_only) + "\n").encode(
        "utf-8", "surrogatepass"
    )
    try:
        found = fields(raw, whole(raw))
    except UnreadableError:
        assert "\\ud" in json.dumps(value)  # half a surrogate pair is no text
        return
    assert {key: json.loads(raw[at.start : at.end]) for key, at in found.items()} == value


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES), st.sampled_from([None, 2]))
def test_every_value_of_an_array_is_found_where_it_stands(value, indent):
    raw = json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass")
    try:
        found = items(raw, whole(raw))
    except UnreadableError:
        return
    assert [json.loads(raw[at.start : at.end]) for at in found] == value


@pytest.mark.parametrize(
    "text", [b'{"a":1,"a":1}', b'{"a":1,"b":2,"a":33}', b"[1]", b"{", b'{"a":1}x', b""]
)
def test_what_is_no_object_or_holds_a_key_twice_is_refused(text):
    with pytest.raises(UnreadableError):
        fields(text, Span(0, len(text)))


def test_the_line_around_a_place_is_read_as_its_words_are():
    raw = json.dumps({"system": "One.\nNow: 12:30 \u00e9\nThree."}).encode()
    start = raw.index(b"12:30")
    assert line_at(raw, Span(start, start + 5)) == "Now: 12:30 \u00e9"
    start = raw.index(b"One")
    assert line_at(raw, Span(start, start + 3)) == "One."
    start = raw.index(b"Three")
    assert line_at(raw, Span(start, start + 5)) == "Three."
