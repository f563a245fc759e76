"""What a lane may answer in one ready text, and what asks for more than that."""

from __future__ import annotations

import pytest

from app.wire.answered_by_text import is_answered_by_text

TEXT = "12 * 12 = 144"
SAID = {"messages": [{"role": "user", "content": "What is 12 * 12?"}]}
PDF = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA"}}


def asked(**more: object) -> bool:
    return is_answered_by_text({"model": "auto", **SAID, **more}, TEXT)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"temperature": 0.2, "seed": 7, "top_p": 1, "user": "me", "metadata": {"a": "b"}},
        {"n": 1, "logprobs": False, "stop": None, "tools": [], "store": False},
        {"max_tokens": 500, "stop_sequences": ["\n\nHuman:"], "thinking": {"type": "adaptive"}},
        {"response_format": {"type": "text"}, "modalities": ["text"], "reasoning_effort": "low"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is 2+2?"}]}]},
    ],
    ids=str,
)
def test_what_does_not_bend_the_answer_leaves_it_to_a_lane(more: dict[str, object]):
    assert asked(**more)


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"max_tokens": 12},
        {"max_completion_tokens": 1},
        {"stop": "="},
        {"stop_sequences": ["x", "144"]},
        {"functions": [{"name": "f", "parameters": {}}]},
        {"tools": [{"type": "web_search"}]},
        {"web_search_options": {}},
        {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
        {"prediction": {"type": "content", "content": "x"}},
        {"logit_bias": {"1": -100}},
        {"store": True},
        {"mcp_servers": [{"type": "url", "url": "http://x"}]},
        {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
        {"a_field_of_next_year": 1},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, PDF]}]},
        {"messages": [*SAID["messages"], {"role": "tool", "tool_call_id": "1", "content": "x"}]},
    ],
    ids=str,
)
def test_what_asks_for_more_or_for_less_than_the_text_is_a_models(more: dict[str, object]):
    assert not asked(**more)


@pytest.mark.parametrize(
    ("body", "plain"),
    [
        ({"input": "hi"}, True),
        ({"input": "hi", "text": {"verbosity": "low"}, "max_output_tokens": 64}, True),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}, True),
        ({"input": "hi", "text": {"format": {"type": "json_object"}}}, False),
        ({"input": "hi", "prompt": {"id": "pmpt_1"}}, False),
        ({"input": "hi", "max_tool_calls": 2}, False),
        (
            {
                "input": [
                    {"role": "user", "content": "hi"},
                    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "1", "output": "x"},
                ]
            },
            False,
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, False),
    ],
    ids=str,
)
def test_a_responses_request_is_read_alike(body: dict[str, object], plain: bool):
    assert is_answered_by_text({"model": "auto", **body}, TEXT) is plain
