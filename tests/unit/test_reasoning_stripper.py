"""Reasoning that a model writes into its text is taken out, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.reasoning_stripper import ReasoningStripper, strip_reasoning

PIECES = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<thinking>", "</thinking>", "<thi", "a", " ", "\n", "<"]
    )
    | st.text(max_size=5),
    max_size=12,
)


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("<think>so</think>\n\nYes.", "Yes."),
        ("\n<think>so</think>Yes.", "Yes."),
        ("<think></think><thinking>and</thinking> Yes.", "Yes."),
        ("<think>a < b </thinking> c</think>Yes.", "Yes."),
        ("<think>cut off", ""),
        ("<think>so</think>", ""),
        ("A <think> tag.", "A <think> tag."),
        ("<thin ice", "<thin ice"),
        ("  Yes.", "  Yes."),
        ("", ""),
    ],
)
def test_blocks_at_the_beginning_go_and_all_else_stays(said, heard):
    assert strip_reasoning(said) == heard


@given(PIECES)
def test_the_same_is_left_however_the_text_is_cut(pieces):
    reader = ReasoningStripper()
    assert "".join(map(reader.feed, pieces)) + reader.flush() == strip_reasoning("".join(pieces))


@given(st.text())
def test_a_text_that_does_not_begin_with_such_a_tag_is_not_changed(text):
    if not text.lstrip().startswith(("<think>", "<thinking>")):
        assert strip_reasoning(text) == text
