"""What request codecs promise for every body: our own errors only, and stable translation."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.chat import Conversation, Dialect, Message, Role
from app.errors import GatewayError, Unsupported
from app.wire.codecs import CODECS
from tests.wire.bodies import BODIES
from tests.wire.mutation import places, replaced
from tests.wire.samples import json_values, model, names, texts

CHAT, MESSAGES = CODECS[Dialect.CHAT], CODECS[Dialect.MESSAGES]
OPENAI = model(prefill=True, cache_breakpoints="openai", thinking="effort")
CLAUDE = model(
    prefill=True, cache_breakpoints="anthropic", thinking="budget", default_max_tokens=777
)

field_names = st.sampled_from(
    [
        "model", "messages", "input", "instructions", "max_tokens", "stream", "tools", "tool_choice",
        "system",
        "temperature", "stop", "stop_sequences", "response_format", "text", "reasoning", "thinking",
        "metadata",
        "stream_options", "output_config", "n", "user", "include", "modalities", "service_tier", "verbosity",
        "role", "content", "type", "tool_calls", "function", "name", "arguments", "id", "source", "image_url",
        "url", "call_id", "output", "tool_use_id", "file", "refusal", "parameters", "input_schema", "summary",
    ]
)  # fmt: skip
words = st.sampled_from(
    [
        "user", "assistant", "system", "tool", "text", "image", "image_url", "file", "document", "tool_use",
        "tool_result", "thinking", "function", "function_call", "function_call_output", "message",
        "reasoning", "base64", "input_text", "json_schema", "auto", "none", "", "data:image/png;base64,AA==",
    ]
)  # fmt: skip
scalars = st.none() | st.booleans() | st.integers(-2, 5) | st.floats(allow_nan=False) | words
loose = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(field_names, inner, max_size=5),
    max_leaves=20,
)
bodies = st.dictionaries(field_names, loose, max_size=8) | st.builds(
    lambda rest, items: {
        "model": "m", "max_tokens": 5, "messages": items, "input": items, **rest
    },
    st.dictionaries(field_names, loose, max_size=2),
    st.lists(
        st.builds(
            lambda role, content, rest: {"role": role, "content": content, **rest},
            st.sampled_from(["user", "assistant", "system", "tool"]),
            st.text(max_size=3) | st.lists(st.dictionaries(field_names, loose, max_size=4), max_size=2),
            st.dictionaries(field_names, loose, max_size=2),
        ),
        max_size=3,
    ),
)  # fmt: skip


def refusal_of(attempt):
    """The error that ``attempt`` was refused with, None when it went through."""
    try:
        attempt()
    except GatewayError as refused:
        return refused
    return None


def translate(codec, body):
    """Check, look at and read ``body``, and write it for both vendors."""
    codec.check(body)
    codec.view(body)
    conversation = codec.read(body)
    for target, target_model in ((CHAT, OPENAI), (MESSAGES, CLAUDE)):
        written, _ = target.write(conversation, target_model, stream=True)
        msgspec.json.encode(written)


@given(st.sampled_from(list(Dialect)), bodies | json_values)
def test_any_json_is_read_or_refused_with_an_error_of_ours(dialect, body):
    refused = refusal_of(lambda: translate(CODECS[dialect], body))
    if refused is not None:
        assert refused.status == 400
        assert refused.message
        assert refused.param or not isinstance(body, dict)


marks = st.sampled_from([None, {"type": "ephemeral"}])


def block(kind, **rest):
    return {"type": kind, **rest}


def marked(one, mark):
    return one if mark is None else {**one, "cache_control": mark}


inputs = st.dictionaries(names, json_values, max_size=3)


@st.composite
def message_bodies(draw):
    """Messages requests that both vendors can carry."""
    turns = []
    for number in range(draw(st.integers(1, 3))):
        user = [marked(block("text", text=draw(texts)), draw(marks))]
        if draw(st.booleans()):
            source = {"type": "base64", "media_type": "image/png", "data": "iVBO"}
            user.append(block("image", source=source))
        turns.append({"role": "user", "content": user})
        assistant = []
        if draw(st.booleans()):
            assistant.append(block("text", text=draw(texts)))
        calls = draw(st.integers(0, 2))
        assistant += [
            block("tool_use", id=f"t{number}_{index}", name=draw(names), input=draw(inputs))
            for index in range(calls)
        ]
        if assistant:
            turns.append({"role": "assistant", "content": assistant})
        if calls:
            results = [
                block(
                    "tool_result",
                    tool_use_id=f"t{number}_{index}",
                    content=[block("text", text=draw(texts))],
                )
                for index in range(calls)
            ]
            turns.append({"role": "user", "content": [*results, block("text", text=draw(texts))]})
    body = {"model": "m", "max_tokens": draw(st.integers(1, 9)), "messages": turns}
    if draw(st.booleans()):
        body["system"] = [marked(block("text", text=draw(texts)), draw(marks))]
    if draw(st.booleans()):
        body["temperature"] = draw(st.sampled_from([0, 0.5, 1]))
    if draw(st.booleans()):
        body["stop_sequences"] = draw(st.lists(texts, min_size=1, max_size=4))
    if draw(st.booleans()):
        schema = {
            "type": "object",
            "properties": {"z": {"type": "string"}, "a": {"type": "string"}},
        }
        body["tools"] = [{"name": draw(names), "description": "d", "input_schema": schema}]
        choice = draw(
            st.sampled_from([{"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "f"}])
        )
        body["tool_choice"] = {**choice, "disable_parallel_tool_use": draw(st.booleans())}
    return body


def plain(conversation: Conversation) -> Conversation:
    """Neighbouring messages of one role joined: the grouping that dialects do not keep."""
    joined: list[Message] = []
    for message in conversation.messages:
        if joined and joined[-1].role is message.role is not Role.TOOL:
            joined[-1] = Message(message.role, (*joined[-1].parts, *message.parts))
        else:
            joined.append(message)
    return dataclasses.replace(conversation, messages=tuple(joined), hints=())


@given(message_bodies())
def test_a_messages_request_survives_the_way_to_chat_and_back(body):
    MESSAGES.check(body)
    conversation = MESSAGES.read(body)
    written, dropped = CHAT.write(conversation, OPENAI, stream=False)
    assert dropped == ()
    CHAT.check(written)
    assert plain(CHAT.read(written)) == plain(conversation)


@given(message_bodies())
def test_a_messages_request_read_and_written_again_reads_the_same(body):
    conversation = MESSAGES.read(body)
    written, dropped = MESSAGES.write(conversation, CLAUDE, stream=False)
    assert dropped == ()
    MESSAGES.check(written)
    assert MESSAGES.read(written) == conversation


@given(message_bodies())
def test_translation_is_stable_after_the_first_way_through_both_dialects(body):
    first, _ = CHAT.write(MESSAGES.read(body), OPENAI, stream=False)
    back, _ = MESSAGES.write(CHAT.read(first), CLAUDE, stream=False)
    second, _ = CHAT.write(MESSAGES.read(back), OPENAI, stream=False)
    assert second == first


@given(message_bodies())
def test_the_order_of_keys_in_tool_inputs_and_schemas_is_kept(body):
    written, _ = CHAT.write(MESSAGES.read(body), OPENAI, stream=False)
    for tool in written.get("tools", []):
        assert list(tool["function"]["parameters"]["properties"]) == ["z", "a"]
    told = [
        msgspec.json.encode(one["input"]).decode()
        for message in body["messages"]
        for one in message["content"]
        if one["type"] == "tool_use"
    ]
    kept = [
        call["function"]["arguments"]
        for message in written["messages"]
        for call in message.get("tool_calls", [])
    ]
    assert kept == told


@given(st.sampled_from(list(Dialect)), st.data())
def test_any_one_wrong_value_in_a_good_request_is_read_or_refused_by_name(dialect, data):
    good = BODIES[dialect]
    path = data.draw(st.sampled_from([path for path in places(good) if path]))
    body = replaced(good, path, data.draw(loose))
    refused = refusal_of(lambda: translate(CODECS[dialect], body))
    assert refused is None or (refused.status == 400 and refused.param)


@given(st.sampled_from(list(Dialect)), st.data(), names.map(lambda name: f"zz_{name}"))
def test_an_unknown_field_at_the_top_is_never_silently_lost(dialect, data, name):
    value = data.draw(st.just(1.5) | st.integers(1, 3) | texts | st.just({"a": 1}))
    body = {**BODIES[dialect], name: value}
    CODECS[dialect].check(body)
    with pytest.raises(Unsupported) as refused:
        CODECS[dialect].read(body)
    assert refused.value.param == name
