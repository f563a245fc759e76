"""The official SDKs accept what the simulator sends, in every dialect, streaming and not."""

from __future__ import annotations

import base64

import anthropic
import httpx2
import openai
import orjson
import pytest
from jsonschema import validate
from openai import AsyncOpenAI

from app.providers.simulator import SimulatorSettings, expected_answer, running_simulator
from app.providers.simulator.profile import built_in_profiles
from tests.e2e.conversations import (
    CHAT_TOOLS,
    EXPECTED_CALLS,
    MESSAGES_TOOLS,
    RESPONSES_TOOLS,
    TOOL_QUESTION,
    user,
)
from tests.support.plain_http import NO_TLS

pytestmark = pytest.mark.anyio

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "level": {"enum": ["low", "high"]},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
    },
    "required": ["title", "level", "items"],
    "additionalProperties": False,
    "$defs": {
        "item": {
            "type": "object",
            "properties": {"count": {"type": "integer"}},
            "required": ["count"],
            "additionalProperties": False,
        }
    },
}


async def test_all_three_dialects_give_one_conversation_one_answer(chat, claude):
    wanted = expected_answer("What is TCP?", "sim-powerful", system="Be brief.")
    a = await chat.chat.completions.create(
        model="sim-powerful",
        messages=[{"role": "system", "content": "Be brief."}, *user("What is TCP?")],
    )
    b = await chat.responses.create(
        model="sim-powerful", instructions="Be brief.", input="What is TCP?"
    )
    c = await claude.messages.create(
        model="sim-powerful", system="Be brief.", max_tokens=999, messages=user("What is  TCP?")
    )
    assert a.choices[0].message.content == wanted
    assert b.output_text == wanted
    assert c.content[0].text == wanted
    assert wanted.startswith("[sim-powerful ")
    assert "What is TCP?" in wanted
    assert wanted != expected_answer("What is UDP?", "sim-powerful", system="Be brief.")


async def test_a_chat_stream_ends_with_the_usage_it_was_asked_for(chat):
    async with chat.chat.completions.stream(
        model="sim-fast", messages=user("Hi"), stream_options={"include_usage": True}
    ) as stream:
        texts = [event.delta async for event in stream if event.type == "content.delta"]
        deltas = [text for text in texts if text]  # the first chunk brings the role alone
        final = await stream.get_final_completion()
    assert "".join(deltas) == expected_answer("Hi", "sim-fast")
    assert final.choices[0].finish_reason == "stop"
    assert final.usage.completion_tokens == len(deltas)
    assert final.usage.total_tokens == final.usage.prompt_tokens + len(deltas)


async def test_a_chat_stream_says_nothing_of_usage_unless_asked(chat):
    stream = await chat.chat.completions.create(model="sim-fast", messages=user("Hi"), stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1


async def test_n_choices_differ_and_keep_their_index(chat):
    body = {"model": "sim-fast", "messages": user("Hi"), "n": 3}
    whole = await chat.chat.completions.create(**body)
    texts = [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    async for chunk in await chat.chat.completions.create(**body, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


async def test_chat_limits_and_stop_sequences_are_honoured(chat):
    short = await chat.chat.completions.create(
        model="sim-fast", messages=user("Hi"), max_completion_tokens=7
    )
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 7
    stopped = await chat.chat.completions.create(
        model="sim-fast", messages=user("Hi"), stop=["asked", "nowhere"]
    )
    assert stopped.choices[0].message.content.endswith("You ")
    assert stopped.choices[0].finish_reason == "stop"


async def test_reasoning_effort_costs_reasoning_tokens(chat):
    answer = await chat.chat.completions.create(
        model="sim-fast", messages=user("Hi"), reasoning_effort="high"
    )
    assert answer.usage.completion_tokens_details.reasoning_tokens == 64
    assert answer.choices[0].message.content == expected_answer("Hi", "sim-fast")


async def test_chat_calls_tools_in_parallel_and_quotes_their_results(chat):
    body = {"model": "sim-fast", "messages": user(TOOL_QUESTION), "tools": CHAT_TOOLS}
    async with chat.chat.completions.stream(**body) as stream:
        final = await stream.get_final_completion()
    message = final.choices[0].message
    calls = message.tool_calls
    assert final.choices[0].finish_reason == "tool_calls"
    assert [(c.function.name, orjson.loads(c.function.arguments)) for c in calls] == EXPECTED_CALLS
    whole = (await chat.chat.completions.create(**body)).choices[0].message
    assert [c.id for c in whole.tool_calls] == [c.id for c in calls]
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"result {i}"}
        for i, call in enumerate(calls)
    ]
    answer = await chat.chat.completions.create(
        **{
            **body,
            "messages": [*user(TOOL_QUESTION), whole.model_dump(exclude_none=True), *results],
        }
    )
    text = answer.choices[0].message.content
    assert "get_ticket says: result 0." in text
    assert "check_permissions says: result 1." in text


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
async def test_chat_tool_choice_is_honoured(chat, choice, parallel, names):
    answer = await chat.chat.completions.create(
        model="sim-fast",
        messages=user(TOOL_QUESTION),
        tools=CHAT_TOOLS,
        tool_choice=choice,
        parallel_tool_calls=parallel,
    )
    assert [c.function.name for c in answer.choices[0].message.tool_calls or []] == names


async def test_responses_stream_reasoning_text_and_usage_in_order(chat):
    async with chat.responses.stream(
        model="sim-fast", input="Hi", reasoning={"effort": "low", "summary": "auto"}
    ) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert kinds.index("response.reasoning_summary_text.delta") < kinds.index(
        "response.output_text.delta"
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert final.output_text == expected_answer("Hi", "sim-fast")
    assert final.usage.output_tokens_details.reasoning_tokens == 16


async def test_responses_call_tools_and_continue_by_id(chat):
    first = await chat.responses.create(
        model="sim-fast", input=TOOL_QUESTION, tools=RESPONSES_TOOLS
    )
    calls = [item for item in first.output if item.type == "function_call"]
    assert [(c.name, orjson.loads(c.arguments)) for c in calls] == EXPECTED_CALLS
    async with chat.responses.stream(
        model="sim-fast", input=TOOL_QUESTION, tools=RESPONSES_TOOLS
    ) as stream:
        done = [e async for e in stream if e.type == "response.function_call_arguments.done"]
    assert [orjson.loads(e.arguments) for e in done] == [
        arguments for _, arguments in EXPECTED_CALLS
    ]
    second = await chat.responses.create(
        model="sim-fast",
        previous_response_id=first.id,
        tools=RESPONSES_TOOLS,
        input=[
            {"type": "function_call_output", "call_id": call.call_id, "output": f"result {i}"}
            for i, call in enumerate(calls)
        ],
    )
    assert "get_ticket says: result 0." in second.output_text


async def test_responses_say_when_they_are_incomplete(chat):
    async with chat.responses.stream(
        model="sim-powerful", input="Hi", max_output_tokens=16
    ) as stream:
        events = [event async for event in stream]
    assert events[-1].type == "response.incomplete"
    final = events[-1].response
    assert final.status == "incomplete"
    assert final.incomplete_details.reason == "max_output_tokens"


async def test_messages_stream_thinking_with_its_signature_then_text(claude):
    body = {
        "model": "sim-fast",
        "max_tokens": 2000,
        "messages": user("Hi"),
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    async with claude.messages.stream(**body) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0].signature
    assert final.content[1].text == expected_answer("Hi", "sim-fast")
    assert final.usage.output_tokens_details.thinking_tokens == 48
    whole = await claude.messages.create(**body)
    assert whole.content[0] == final.content[0]
    assert whole.content[1].text == final.content[1].text
    assert whole.usage.output_tokens_details.thinking_tokens == 48
    echoed = [*user("Hi"), {"role": "assistant", "content": whole.content}, *user("And then?")]
    again = await claude.messages.create(**{**body, "messages": echoed})
    assert "And then?" in again.content[1].text


async def test_messages_call_tools_and_quote_results(claude):
    body = {"model": "sim-fast", "max_tokens": 500, "tools": MESSAGES_TOOLS}
    async with claude.messages.stream(**body, messages=user(TOOL_QUESTION)) as stream:
        final = await stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert [(block.name, block.input) for block in final.content] == EXPECTED_CALLS
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": f"result {i}"}
        for i, block in enumerate(final.content)
    ]
    history = [*user(TOOL_QUESTION), {"role": "assistant", "content": final.content}]
    answer = await claude.messages.create(
        **body, messages=[*history, {"role": "user", "content": results}]
    )
    assert "get_ticket says: result 0." in answer.content[0].text
    single = await claude.messages.create(
        **body,
        messages=user(TOOL_QUESTION),
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    assert len(single.content) == 1


async def test_messages_name_the_stop_sequence_and_the_limit(claude):
    stopped = await claude.messages.create(
        model="sim-fast", max_tokens=50, messages=user("Hi"), stop_sequences=["asked"]
    )
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "asked")
    cut = await claude.messages.create(model="sim-fast", max_tokens=5, messages=user("Hi"))
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 5)


async def test_every_dialect_obeys_a_json_schema(chat, claude):
    a = await chat.chat.completions.create(
        model="sim-fast",
        messages=user("List it"),
        response_format={"type": "json_schema", "json_schema": {"name": "list", "schema": SCHEMA}},
    )
    b = await chat.responses.create(
        model="sim-fast",
        input="List it",
        text={"format": {"type": "json_schema", "name": "list", "schema": SCHEMA}},
    )
    c = await claude.messages.create(
        model="sim-fast",
        max_tokens=500,
        messages=user("List it"),
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )
    texts = [a.choices[0].message.content, b.output_text, c.content[0].text]
    assert len(set(texts)) == 1
    validate(orjson.loads(texts[0]), SCHEMA)
    free = await chat.chat.completions.create(
        model="sim-fast", messages=user("x"), response_format={"type": "json_object"}
    )
    assert isinstance(orjson.loads(free.choices[0].message.content), dict)


async def test_the_same_image_is_the_same_question_in_every_dialect(chat, claude):
    data = base64.b64encode(b"not really a picture").decode()
    url = f"data:image/png;base64,{data}"
    a = await chat.chat.completions.create(
        model="sim-fast",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": url}},
                ],
            }
        ],
    )
    b = await chat.responses.create(
        model="sim-fast",
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": url, "detail": "auto"},
                ],
            }
        ],
    )
    c = await claude.messages.create(
        model="sim-fast",
        max_tokens=500,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": data},
                    },
                ],
            }
        ],
    )
    assert a.choices[0].message.content == b.output_text == c.content[0].text
    assert b.output_text != expected_answer("What is this?", "sim-fast")


async def test_models_are_listed_in_both_vendors_forms(chat, claude):
    names = set(built_in_profiles())
    assert {model.id async for model in chat.models.list()} == names
    assert {model.id async for model in claude.models.list()} == names
    assert (await chat.models.retrieve("sim-fast")).id == "sim-fast"
    assert (await claude.models.retrieve("sim-fast")).capabilities.structured_outputs.supported
    with pytest.raises(openai.NotFoundError):
        await chat.models.retrieve("gpt-none")
    with pytest.raises(anthropic.NotFoundError):
        await claude.models.retrieve("claude-none")


async def test_count_tokens_agrees_with_the_bill(claude):
    body = {"model": "sim-fast", "messages": user("How long is this?"), "tools": MESSAGES_TOOLS}
    counted = await claude.messages.count_tokens(**body)
    billed = await claude.messages.create(max_tokens=5, **body)
    assert counted.input_tokens == billed.usage.input_tokens > 20


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "gpt-none"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content"),
        ({"temperature": 9}, 400, "temperature"),
        ({"max_tokens": "many"}, 400, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
        ({"tools": [{"type": "wand"}]}, 400, "tools[0].type"),
        ({"response_format": {"type": "poem"}}, 400, "response_format.type"),
        (
            {"messages": [{"role": "tool", "tool_call_id": "no", "content": ""}]},
            400,
            "messages[0].tool_call_id",
        ),
    ],
)
async def test_chat_names_the_field_at_fault(chat, change, status, param):
    body = {"model": "sim-fast", "messages": user("Hi"), **change}
    with pytest.raises(openai.APIStatusError) as caught:
        await chat.chat.completions.create(**body)
    assert caught.value.status_code == status
    assert caught.value.param == param
    assert param.partition("[")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "scroll"}]}]}, "messages.0.content.0"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "budget_tokens"),
        ({"tools": [{"name": "x"}]}, "input_schema"),
        ({"max_tokens": 0, "stream": True}, "stream"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "tool_use_id": "t", "content": ""}],
                    }
                ]
            },
            "tool_use_id",
        ),
    ],
)
async def test_messages_name_the_field_at_fault(base_url, change, word):
    body = {"model": "sim-fast", "max_tokens": 9, "messages": user("Hi"), **change}
    async with httpx2.AsyncClient(verify=NO_TLS, base_url=base_url) as http:
        reply = await http.post(
            "/v1/messages", json=body, headers={"anthropic-version": "2023-06-01"}
        )
    assert reply.status_code == 400
    error = reply.json()
    assert error["type"] == "error"
    assert error["error"]["type"] == "invalid_request_error"
    assert word in error["error"]["message"]


async def test_a_key_is_asked_for_only_when_one_is_set(base_url):
    del base_url
    async with (
        running_simulator(SimulatorSettings(time_scale=0, require_key="right")) as url,
        AsyncOpenAI(
            base_url=f"{url}/v1",
            api_key="wrong",
            max_retries=0,
            http_client=httpx2.AsyncClient(verify=NO_TLS),
        ) as stranger,
        anthropic.AsyncAnthropic(
            base_url=url,
            api_key="right",
            max_retries=0,
            http_client=httpx2.AsyncClient(verify=NO_TLS),
        ) as friend,
    ):
        with pytest.raises(openai.AuthenticationError):
            await stranger.chat.completions.create(model="sim-fast", messages=user("Hi"))
        answer = await friend.messages.create(model="sim-fast", max_tokens=9, messages=user("Hi"))
        assert answer.content
