"""Reading a written plan gives the same lines however the text is cut into pieces."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.plan_lines import PlanLine, PlanReader

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
CALLS = st.fixed_dictionaries(
    {
        "id": st.text("abc", min_size=1, max_size=3),
        "tool": st.text("xyz", min_size=1, max_size=3),
        "arguments": st.dictionaries(st.text(max_size=4), VALUES, max_size=3),
    }
)
LINES = st.lists(
    CALLS.map(json.dumps) | st.sampled_from(["```", "", "[", "],", "well then", '{"id": 1', "{}"]),
    max_size=6,
)


def read(pieces: list[str]) -> tuple[list[PlanLine], str]:
    """The lines, and the prose joined."""
    reader = PlanReader()
    found = [each for piece in pieces for each in reader.feed(piece)] + list(reader.end())
    lines = [each for each in found if isinstance(each, PlanLine)]
    return lines, "".join(each for each in found if isinstance(each, str))


@given(LINES, st.lists(st.integers(0, 400), max_size=12))
def test_pieces_do_not_matter(lines: list[str], cuts: list[int]) -> None:
    text = "\n".join(lines)
    at = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in itertools.pairwise(at)]
    assert read(pieces) == read([text]) == read(list(text))


@given(CALLS)
def test_a_call_is_whole_with_its_last_brace(call: dict[str, object]) -> None:
    reader, text = PlanReader(), json.dumps(call)
    assert [*reader.feed(text[:-1])] == []
    (line,) = reader.feed(text[-1])
    assert isinstance(line, PlanLine)
    assert line.node is not None
    assert (line.node.id, line.node.name) == (call["id"], call["tool"])


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    read([text])


@pytest.mark.parametrize("value", ['"\\ud800"', "1e999", "NaN"])
def test_a_value_that_no_client_could_be_told_is_a_fault_of_its_line(value: str) -> None:
    """Half a surrogate pair, or no number: it could not be written as JSON again."""
    (line,), _ = read([f'{{"id": "a", "tool": "t", "arguments": {{"n": {value}}}}}'])
    assert line.node is None
    assert "JSON" in line.error
