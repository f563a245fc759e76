"""No body breaks the simulator: arbitrary JSON gets an answer or an error that is the client's."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.providers.simulator import SimulatorSettings, create_simulator

PATHS = [
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        [
            "user",
            "assistant",
            "tool",
            "system",
            "text",
            "tool_use",
            "tool_result",
            "function",
            "auto",
        ]
    ),
    st.text(max_size=8),
)
KEYS = st.sampled_from([
    "type", "role", "content", "text", "name", "id", "function", "arguments", "tool_calls",
    "tool_call_id", "tool_use_id", "input", "parameters", "properties", "required", "schema",
    "cache_control", "ttl", "input_schema", "call_id", "output", "source", "effort", "format",
])  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=12,
)
FIELDS = st.sampled_from([
    "messages", "input", "tools", "tool_choice", "stream", "max_tokens", "stop", "system",
    "thinking", "reasoning", "text", "response_format", "output_config", "cache_control", "n",
    "stream_options", "instructions", "prompt_cache_options", "reasoning_effort",
    "stop_sequences", "previous_response_id", "metadata", "include", "temperature",
])  # fmt: skip
TEXT_BLOCK = st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=5))
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]),
        "content": st.one_of(
            st.text(max_size=5), st.lists(st.one_of(TEXT_BLOCK, ANYTHING), max_size=2)
        ),
    }
)
BODIES = st.builds(
    lambda extra, messages: {
        "model": "sim-fast",
        "max_tokens": 9,
        "messages": messages,
        "input": messages,
        **extra,
    },
    st.dictionaries(FIELDS, ANYTHING, max_size=4),
    st.lists(MESSAGE, min_size=1, max_size=3),
)


async def post(path, body):
    """The status and body of one request to the bare app."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(b"anthropic-version", b"2023-06-01")],
        "query_string": b"",
    }
    await create_simulator(SimulatorSettings(time_scale=0))(scope, receive, send)
    assert sent[-1].get("more_body") is False
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("depth", [200, 300, 900])
def test_a_body_that_is_nested_too_deeply_is_a_400(path, depth):
    """It closed the connection, which a gateway's breaker takes for an upstream that is down."""
    said = {
        "model": "sim-fast",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "x"}],
        "input": "x",
    }
    raw = orjson.dumps(said)[:-1] + b',"deep":' + b"[" * depth + b"]" * depth + b"}"
    status, reply = asyncio.run(post(path, raw))
    assert status == (200 if depth == 200 else 400)
    assert depth == 200 or b"nested" in reply


@pytest.mark.parametrize("path", PATHS)
@given(body=BODIES)
def test_any_body_gets_an_answer_or_a_named_fault(path, body):
    status, reply = asyncio.run(post(path, orjson.dumps(body)))
    assert status in (200, 400, 404)
    if status != 200:
        assert orjson.loads(reply)["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
@given(body=st.binary(max_size=40))
def test_any_bytes_get_a_400(path, body):
    status, _ = asyncio.run(post(path, body))
    assert status == 400
