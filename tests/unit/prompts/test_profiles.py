"""What models can do, as contracts and breakpoints read it."""

from __future__ import annotations

import pytest

from app.providers.profiles import abilities


@pytest.mark.parametrize(
    ("model", "goes_on"),
    [
        ("claude-haiku-4-5", True),
        ("claude-sonnet-4-5-20250929", True),
        ("claude-opus-4-6", False),
        ("claude-sonnet-4-6", False),
        ("claude-opus-5-5", False),
        ("us.anthropic.claude-opus-4-6-v1:0", False),
        ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", True),
    ],
)
def test_only_older_claude_models_go_on_from_an_answer_that_was_begun(model, goes_on):
    assert abilities("anthropic", model, {}).prefill is goes_on


@pytest.mark.parametrize(
    ("model", "takes"),
    [("gpt-4o", False), ("o3", False), ("gpt-5", True), ("gpt-6.1-sol", True), ("qwen3", True)],
)
def test_verbosity_is_told_to_models_that_know_the_word(model, takes):
    assert abilities("openai", model, {}).verbosity is takes
    assert not abilities("anthropic", "claude-opus-5-5", {}).verbosity
