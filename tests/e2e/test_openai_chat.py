"""The official ``openai`` package on ``/v1/chat/completions``, over both kinds of upstream."""

from __future__ import annotations

import json

import pytest
from jsonschema import validate

from app.providers.simulator import expected_answer
from tests.e2e.conversations import (
    ANTHROPIC_KIND,
    BOTH_KINDS,
    CHAT_TOOLS,
    EXPECTED_CALLS,
    OPENAI_KIND,
    PICTURE_URL,
    SCHEMA,
    TOOL_QUESTION,
    user,
)

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("model", BOTH_KINDS)]


@pytest.fixture
def chat(openai_client):
    return openai_client.chat.completions


async def test_an_answer_is_the_models_own_whole_or_streamed(chat, model):
    """And whole means the system prompt and the earlier turns reached the model."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "What is TCP?"},
    ]
    wanted = expected_answer(
        "What is TCP?",
        "sim-fast",
        system="Be brief.",
        history=[("user", "Hello"), ("assistant", "Hi.")],
    )
    whole = await chat.create(model=model, messages=messages)
    assert whole.choices[0].message.content == wanted
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].finish_reason == "stop"
    assert whole.object == "chat.completion"
    assert whole.usage.prompt_tokens > 0
    assert whole.usage.completion_tokens + whole.usage.prompt_tokens == whole.usage.total_tokens
    stream = await chat.create(model=model, messages=messages, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == wanted
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert len({chunk.id for chunk in chunks}) == 1


async def test_usage_comes_last_in_a_stream_and_only_when_asked_for(chat, model):
    asked = await chat.create(
        model=model, messages=user("Usage?"), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in asked]
    assert chunks[-1].choices == []
    assert all(chunk.usage is None and chunk.choices for chunk in chunks[:-1])
    usage = chunks[-1].usage
    whole = await chat.create(model=model, messages=user("Usage?"))
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens
    unasked = await chat.create(model=model, messages=user("Usage?"), stream=True)
    told = [chunk async for chunk in unasked]
    assert told
    assert all(chunk.usage is None and chunk.choices for chunk in told)


async def test_parallel_tool_calls_and_their_results_make_the_round(chat, model):
    body = {"model": model, "messages": user(TOOL_QUESTION), "tools": CHAT_TOOLS}
    stream = await chat.create(**body, stream=True)
    calls, finish = {}, None
    async for chunk in stream:
        finish = chunk.choices[0].finish_reason or finish
        for piece in chunk.choices[0].delta.tool_calls or []:
            if piece.id:
                calls[piece.index] = [piece.id, piece.function.name, ""]
            calls[piece.index][2] += piece.function.arguments or ""
    assert finish == "tool_calls"
    assert list(calls) == [0, 1]
    assert [(name, json.loads(text)) for _, name, text in calls.values()] == EXPECTED_CALLS

    whole = (await chat.create(**body)).choices[0]
    assert whole.finish_reason == "tool_calls"
    called = whole.message.tool_calls
    assert [(c.function.name, json.loads(c.function.arguments)) for c in called] == EXPECTED_CALLS
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"result {i}"}
        for i, call in enumerate(called)
    ]
    told = [*user(TOOL_QUESTION), whole.message.model_dump(exclude_none=True), *results]
    answer = await chat.create(**{**body, "messages": told})
    assert answer.choices[0].finish_reason == "stop"
    assert "get_ticket says: result 0." in answer.choices[0].message.content
    assert "check_permissions says: result 1." in answer.choices[0].message.content


@pytest.mark.parametrize(
    ("choice", "parallel", "names"),
    [
        ("none", True, []),
        ("auto", False, ["get_ticket"]),
        ("required", True, ["get_ticket", "check_permissions"]),
        (
            {"type": "function", "function": {"name": "check_permissions"}},
            True,
            ["check_permissions"],
        ),
    ],
)
async def test_the_choice_of_tools_is_the_clients(chat, model, choice, parallel, names):
    answer = await chat.create(
        model=model,
        messages=user(TOOL_QUESTION),
        tools=CHAT_TOOLS,
        tool_choice=choice,
        parallel_tool_calls=parallel,
    )
    assert [c.function.name for c in answer.choices[0].message.tool_calls or []] == names


async def test_limits_and_stop_sequences_are_honoured(chat, model):
    short = await chat.create(model=model, messages=user("Hi"), max_completion_tokens=7)
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 7
    stopped = await chat.create(model=model, messages=user("Hi"), stop=["asked", "nowhere"])
    assert stopped.choices[0].message.content.endswith("You ")
    assert stopped.choices[0].finish_reason == "stop"
    stream = await chat.create(
        model=model, messages=user("Hi"), max_completion_tokens=7, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "length"


async def test_a_schema_gives_an_answer_of_that_schema(chat, model):
    form = {"type": "json_schema", "json_schema": {"name": "found", "schema": SCHEMA}}
    answer = await chat.create(model=model, messages=user("List it"), response_format=form)
    validate(json.loads(answer.choices[0].message.content), SCHEMA)


async def test_a_picture_reaches_the_model(chat, model):
    """The simulated model's answer is a function of the picture's bytes too."""
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": PICTURE_URL}},
    ]
    seen = await chat.create(model=model, messages=user(parts))
    blind = await chat.create(model=model, messages=user("What is this?"))
    other = await chat.create(
        model=OPENAI_KIND if model == ANTHROPIC_KIND else ANTHROPIC_KIND, messages=user(parts)
    )
    assert seen.choices[0].message.content != blind.choices[0].message.content
    assert seen.choices[0].message.content == other.choices[0].message.content


async def test_reasoning_effort_costs_reasoning_tokens(chat, model):
    answer = await chat.create(model=model, messages=user("Think"), reasoning_effort="high")
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    assert answer.choices[0].message.content == expected_answer("Think", "sim-fast")


async def test_a_refusal_is_told_as_one(chat, model, script):
    script("refusal", "refusal")
    whole = await chat.create(model=model, messages=user("Do harm"))
    stream = await chat.create(model=model, messages=user("Do harm"), stream=True)
    chunks = [chunk async for chunk in stream]
    choice = whole.choices[0]
    said = choice.message.refusal or choice.message.content
    assert "can't help" in said
    assert choice.finish_reason in {"content_filter", "stop"}
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason
    streamed = "".join(
        c.choices[0].delta.refusal or c.choices[0].delta.content or "" for c in chunks
    )
    assert streamed == said
