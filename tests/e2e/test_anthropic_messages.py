"""The official ``anthropic`` package on ``/v1/messages``, over its own kind of upstream and over OpenAI's."""

from __future__ import annotations

import json

import anthropic
import pytest
from jsonschema import validate

from app.providers.simulator import expected_answer
from tests.e2e.conversations import (
    ANTHROPIC_KIND,
    BOTH_KINDS,
    EXPECTED_CALLS,
    MESSAGES_TOOLS,
    PICTURE,
    SCHEMA,
    THINKER,
    TOOL_QUESTION,
    user,
)

pytestmark = pytest.mark.anyio
over_both_kinds = pytest.mark.parametrize("model", BOTH_KINDS)


@pytest.fixture
def messages(anthropic_client):
    return anthropic_client.messages


@over_both_kinds
async def test_an_answer_is_the_models_own_whole_or_streamed(messages, model):
    """And the system prompt and the earlier turns reached the model."""
    turns = [*user("Hello"), {"role": "assistant", "content": "Hi."}, *user("What is TCP?")]
    history = [("user", "Hello"), ("assistant", "Hi.")]
    wanted = expected_answer("What is TCP?", "sim-fast", system="Be brief.", history=history)
    body = {"model": model, "max_tokens": 500, "system": "Be brief.", "messages": turns}
    whole = await messages.create(**body)
    assert [block.text for block in whole.content] == [wanted]
    assert (whole.type, whole.role, whole.stop_reason) == ("message", "assistant", "end_turn")
    assert whole.usage.input_tokens > 0
    async with messages.stream(**body) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_message()
    assert [block.text for block in final.content] == [wanted]
    assert final.stop_reason == "end_turn"
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 1
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.usage.input_tokens == whole.usage.input_tokens


@over_both_kinds
async def test_parallel_tool_calls_and_their_results_make_the_round(messages, model):
    body = {"model": model, "max_tokens": 500, "tools": MESSAGES_TOOLS}
    async with messages.stream(**body, messages=user(TOOL_QUESTION)) as stream:
        final = await stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert [(b.name, b.input) for b in final.content if b.type == "tool_use"] == EXPECTED_CALLS
    whole = await messages.create(**body, messages=user(TOOL_QUESTION))
    assert whole.stop_reason == "tool_use"
    assert [(b.name, b.input) for b in whole.content if b.type == "tool_use"] == EXPECTED_CALLS
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": f"result {i}"}
        for i, block in enumerate(final.content)
    ]
    told = [
        *user(TOOL_QUESTION),
        {"role": "assistant", "content": final.content},
        {"role": "user", "content": results},
    ]
    answer = await messages.create(**body, messages=told)
    assert "get_ticket says: result 0." in answer.content[0].text
    assert "check_permissions says: result 1." in answer.content[0].text


@over_both_kinds
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"type": "none"}, []),
        ({"type": "auto", "disable_parallel_tool_use": True}, ["get_ticket"]),
        ({"type": "any"}, ["get_ticket", "check_permissions"]),
        ({"type": "tool", "name": "check_permissions"}, ["check_permissions"]),
    ],
)
async def test_the_choice_of_tools_is_the_clients(messages, model, choice, names):
    answer = await messages.create(
        model=model,
        max_tokens=500,
        tools=MESSAGES_TOOLS,
        tool_choice=choice,
        messages=user(TOOL_QUESTION),
    )
    assert [block.name for block in answer.content if block.type == "tool_use"] == names


@over_both_kinds
async def test_limits_and_stop_sequences_are_honoured(messages, model):
    body = {"model": model, "messages": user("Hi")}
    cut = await messages.create(**body, max_tokens=5)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 5)
    async with messages.stream(**body, max_tokens=5) as stream:
        assert (await stream.get_final_message()).stop_reason == "max_tokens"
    stopped = await messages.create(**body, max_tokens=50, stop_sequences=["asked"])
    assert stopped.content[0].text.endswith("You ")
    if model == ANTHROPIC_KIND:
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "asked")
    else:  # OpenAI's dialect does not say which, nor whether
        assert stopped.stop_reason in {"end_turn", "stop_sequence"}


@over_both_kinds
async def test_a_schema_gives_an_answer_of_that_schema(messages, model):
    answer = await messages.create(
        model=model,
        max_tokens=500,
        messages=user("List it"),
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )
    validate(json.loads(answer.content[0].text), SCHEMA)


@over_both_kinds
async def test_a_picture_reaches_the_model(messages, model):
    source = {"type": "base64", "media_type": "image/png", "data": PICTURE}
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image", "source": source}]
    seen = await messages.create(model=model, max_tokens=500, messages=user(parts))
    kin = await messages.create(model=ANTHROPIC_KIND, max_tokens=500, messages=user(parts))
    blind = await messages.create(model=model, max_tokens=500, messages=user("What is this?"))
    assert seen.content[0].text == kin.content[0].text != blind.content[0].text


@over_both_kinds
async def test_thinking_that_a_model_cannot_do_is_refused_by_its_field(messages, model):
    """Where a model of another API has no thinking at all; nothing is silently lost."""
    thinking = {"type": "enabled", "budget_tokens": 1024}
    body = {"max_tokens": 2000, "messages": user("Think first"), "thinking": thinking}
    if model == ANTHROPIC_KIND:
        assert (await messages.create(model=model, **body)).content[0].type == "thinking"
        return
    with pytest.raises(anthropic.BadRequestError, match=r"thinking\.budget_tokens"):
        await messages.create(model=model, **body)


@pytest.mark.parametrize("model", [ANTHROPIC_KIND, THINKER])
async def test_thinking_comes_before_the_text_and_goes_back_signed(messages, model):
    body = {
        "model": model,
        "max_tokens": 2000,
        "messages": user("Think first"),
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    async with messages.stream(**body) as stream:
        final = await stream.get_final_message()
    assert final.content[-1].text == expected_answer("Think first", "sim-fast")
    if model == ANTHROPIC_KIND:
        assert [block.type for block in final.content] == ["thinking", "text"]
        assert final.content[0].signature
    whole = await messages.create(**body)
    assert [b.type for b in whole.content] == [b.type for b in final.content]
    echoed = [
        *user("Think first"),
        {"role": "assistant", "content": whole.content},
        *user("And then?"),
    ]
    again = await messages.create(**{**body, "messages": echoed})
    assert "And then?" in again.content[-1].text


@over_both_kinds
async def test_a_refusal_is_told_as_one(messages, model, script):
    script("refusal", "refusal")
    whole = await messages.create(model=model, max_tokens=99, messages=user("Do harm"))
    async with messages.stream(model=model, max_tokens=99, messages=user("Do harm")) as stream:
        final = await stream.get_final_message()
    assert whole.stop_reason == final.stop_reason == "refusal"
    assert "can't help" in whole.content[0].text


@over_both_kinds
async def test_tokens_are_counted_or_honestly_estimated(messages, model):
    """The estimate says that it is one."""
    body = {"model": model, "messages": user("How long is this?"), "tools": MESSAGES_TOOLS}
    counted = await messages.with_raw_response.count_tokens(**body)
    tokens = (await counted.parse()).input_tokens
    billed = (await messages.create(max_tokens=5, **body)).usage.input_tokens
    if model == ANTHROPIC_KIND:
        assert tokens == billed
    else:
        assert "estimated" in counted.headers["x-slipstream-reason"]
        assert billed / 2 < tokens < billed * 2
