"""The official ``openai`` package on ``/v1/responses``, over both kinds of upstream."""

from __future__ import annotations

import json

import pytest
from jsonschema import validate

from app.providers.simulator import expected_answer
from tests.e2e.conversations import (
    BOTH_KINDS,
    EXPECTED_CALLS,
    OPENAI_KIND,
    PICTURE_URL,
    RESPONSES_TOOLS,
    SCHEMA,
    TOOL_QUESTION,
    user,
)

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("model", BOTH_KINDS)]


@pytest.fixture
def responses(openai_client):
    return openai_client.responses


async def test_an_answer_is_the_models_own_whole_or_streamed(responses, model):
    """And the package's own accumulator agrees with the events, which count without a gap."""
    wanted = expected_answer("What is TCP?", "sim-fast", system="Be brief.")
    body = {"model": model, "instructions": "Be brief.", "input": "What is TCP?"}
    whole = await responses.create(**body)
    assert whole.output_text == wanted
    assert whole.status == "completed"
    assert whole.object == "response"
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    async with responses.stream(**body) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == wanted
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == wanted
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert final.usage.output_tokens == whole.usage.output_tokens


async def test_earlier_turns_reach_the_model(responses, model):
    turns = [*user("Hello"), {"role": "assistant", "content": "Hi."}, *user("What is TCP?")]
    answer = await responses.create(model=model, input=turns)
    history = [("user", "Hello"), ("assistant", "Hi.")]
    assert answer.output_text == expected_answer("What is TCP?", "sim-fast", history=history)


async def test_parallel_tool_calls_and_their_results_make_the_round(responses, model):
    body = {"model": model, "input": TOOL_QUESTION, "tools": RESPONSES_TOOLS}
    async with responses.stream(**body) as stream:
        done = [e async for e in stream if e.type == "response.function_call_arguments.done"]
        final = await stream.get_final_response()
    wanted = [arguments for _, arguments in EXPECTED_CALLS]
    assert [json.loads(e.arguments) for e in done] == wanted
    calls = [item for item in final.output if item.type == "function_call"]
    assert [(c.name, json.loads(c.arguments)) for c in calls] == EXPECTED_CALLS
    whole = await responses.create(**body)
    calls = [item for item in whole.output if item.type == "function_call"]
    assert [(c.name, json.loads(c.arguments)) for c in calls] == EXPECTED_CALLS
    told = [
        *user(TOOL_QUESTION),
        *(item.model_dump(exclude_none=True) for item in calls),
        *(
            {"type": "function_call_output", "call_id": call.call_id, "output": f"result {i}"}
            for i, call in enumerate(calls)
        ),
    ]
    answer = await responses.create(**{**body, "input": told})
    assert "get_ticket says: result 0." in answer.output_text
    assert "check_permissions says: result 1." in answer.output_text


async def test_an_answer_that_was_cut_says_so(responses, model):
    body = {"model": model, "input": "Hi", "max_output_tokens": 16}
    whole = await responses.create(**body)
    assert whole.status == "incomplete"
    assert whole.incomplete_details.reason == "max_output_tokens"
    async with responses.stream(**body) as stream:
        events = [event async for event in stream]
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == "max_output_tokens"


async def test_a_schema_gives_an_answer_of_that_schema(responses, model):
    form = {"format": {"type": "json_schema", "name": "found", "schema": SCHEMA}}
    answer = await responses.create(model=model, input="List it", text=form)
    validate(json.loads(answer.output_text), SCHEMA)


async def test_a_picture_reaches_the_model(responses, openai_client, model):
    """It is the same question as the same picture in the Chat dialect."""
    parts = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": PICTURE_URL, "detail": "auto"},
    ]
    answer = await responses.create(model=model, input=user(parts))
    chat_parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": PICTURE_URL}},
    ]
    chat = await openai_client.chat.completions.create(model=OPENAI_KIND, messages=user(chat_parts))
    assert answer.output_text == chat.choices[0].message.content


async def test_reasoning_comes_before_the_text(responses, model):
    body = {
        "model": model,
        "input": "Think first",
        "reasoning": {"effort": "low", "summary": "auto"},
    }
    async with responses.stream(**body) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert [item.type for item in final.output] == ["reasoning", "message"]
    first_thought = kinds.index("response.reasoning_summary_text.delta")
    assert first_thought < kinds.index("response.output_text.delta")
    assert final.output_text == expected_answer("Think first", "sim-fast")
    assert final.usage.output_tokens_details.reasoning_tokens > 0


async def test_a_refusal_is_told_as_one(responses, model, script):
    script("refusal")
    answer = await responses.create(model=model, input="Do harm")
    parts = [part for item in answer.output for part in item.content]
    assert "can't help" in "".join(
        getattr(p, "refusal", "") or getattr(p, "text", "") for p in parts
    )
