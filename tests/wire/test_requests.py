"""What a request becomes in the other dialect, what is refused by name, and what is dropped by name."""

from __future__ import annotations

import copy

import pytest

from app.domain.chat import Dialect, Role, ToolCallPart, ToolResultPart
from app.errors import BadRequest, Unsupported
from app.wire.codecs import CODECS
from tests.wire.bodies import BODIES, CHAT, MESSAGES, PIXEL, RESPONSES, SCHEMA
from tests.wire.samples import model

chat, messages, responses = (CODECS[d] for d in (Dialect.CHAT, Dialect.MESSAGES, Dialect.RESPONSES))
OPENAI = model(
    cache_breakpoints="openai", thinking="effort", max_tokens_field="max_completion_tokens"
)
CLAUDE = model(cache_breakpoints="anthropic", thinking="budget")


def without(body, *names):
    return {key: value for key, value in body.items() if key not in names}


def user(*content, **rest):
    return {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": list(content)}],
        **rest,
    }


@pytest.mark.parametrize("dialect", list(Dialect))
def test_reading_never_changes_the_body(dialect):
    body = copy.deepcopy(BODIES[dialect])
    codec = CODECS[dialect]
    codec.check(body)
    codec.view(body)
    codec.read(body)
    assert body == BODIES[dialect]


def test_a_chat_request_becomes_a_messages_request():
    body = without(
        CHAT, "seed", "frequency_penalty", "presence_penalty", "verbosity", "reasoning_effort"
    )
    body["messages"] = [without(message, "name") for message in CHAT["messages"]]
    written, dropped = messages.write(chat.read(body), CLAUDE, stream=True)
    assert set(dropped) == {
        "prompt_cache_key", "store", "metadata", "image_url.detail", "prompt_cache_breakpoint.ttl"
    }  # fmt: skip
    assert written["system"] == [
        {"type": "text", "text": "Be brief."},
        {"type": "text", "text": "Be kind."},
    ]
    first, assistant, results, said, last = written["messages"]
    assert first["content"][0] == {
        "type": "text",
        "text": "What is this?",
        "cache_control": {"type": "ephemeral"},
    }
    assert first["content"][1]["source"] == {
        "type": "base64",
        "media_type": "image/png",
        "data": PIXEL,
    }
    assert first["content"][2]["source"] == {"type": "url", "url": "https://example.com/a.png"}
    assert first["content"][3] == {
        "type": "document",
        "title": "a.pdf",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
    }
    assert [block["input"] for block in assistant["content"]] == [{"city": "Rome"}, {}]
    assert results == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"},
            {"type": "tool_result", "tool_use_id": "call_2", "content": "rain"},
        ],
    }
    assert said == {"role": "assistant", "content": "It is sunny."}
    assert last == {"role": "user", "content": "Thanks."}
    assert written["max_tokens"] == 100
    assert written["tool_choice"] == {
        "type": "tool",
        "name": "weather",
        "disable_parallel_tool_use": True,
    }
    assert written["tools"][0]["input_schema"] == SCHEMA
    assert written["tools"][0]["strict"] is True
    assert written["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert written["metadata"] == {"user_id": "u1"}
    assert written["stream"] is True
    messages.check(written)


@pytest.mark.parametrize(
    ("write", "thinking"),
    [(chat.write, "none"), (messages.write, "none"), (messages.write, "budget")],
)
def test_thinking_as_the_model_sees_fit_is_told_by_name_where_it_does_not(write, thinking):
    """Refused it is not: such a model sees fit not to think, and whoever asked should know."""
    body = user({"type": "text", "text": "Hi"}, thinking={"type": "adaptive"})
    written, dropped = write(messages.read(body), model(thinking=thinking), stream=True)
    assert dropped == ("thinking",)
    assert not {"thinking", "reasoning_effort"} & set(written)


def test_what_a_stream_is_asked_for_beyond_usage_is_told_by_name():
    said = {"stream_options": {"include_usage": True, "include_obfuscation": True}, "stream": True}
    asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **said}
    _, dropped = messages.write(chat.read(asked), CLAUDE, stream=True)
    assert dropped == ("stream_options.include_obfuscation",)
    asked = {"model": "m", "input": "Hi", "user": "a", "safety_identifier": "b", **said}
    written, dropped = messages.write(responses.read(asked), CLAUDE, stream=True)
    assert set(dropped) == {"stream_options.include_obfuscation", "user"}
    assert written["metadata"] == {"user_id": "b"}


def test_a_messages_request_becomes_a_chat_request():
    written, dropped = chat.write(messages.read(MESSAGES), OPENAI, stream=True)
    assert set(dropped) == {"thinking", "thinking.display", "cache_control", "cache_control.ttl"}
    roles = [message["role"] for message in written["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "user", "system", "user"]
    assert written["messages"][0]["content"] == [
        {"type": "text", "text": "Be brief.", "prompt_cache_breakpoint": {"mode": "explicit"}}
    ]
    assert written["messages"][2] == {
        "role": "assistant",
        "content": "Let me look.",
        "tool_calls": [
            {
                "id": "toolu_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
            }
        ],
    }
    assert written["messages"][3] == {
        "role": "tool",
        "tool_call_id": "toolu_1",
        "content": "Error: no such city",
    }
    assert written["max_completion_tokens"] == 2048
    assert written["stop"] == ["END"]
    assert written["tool_choice"] == "required"
    assert written["parallel_tool_calls"] is False
    assert written["reasoning_effort"] == "high"
    assert written["user"] == "u1"
    assert written["stream_options"] == {"include_usage": True}
    assert written["response_format"]["json_schema"]["schema"] == SCHEMA
    assert written["response_format"]["json_schema"]["strict"] is True
    chat.check(written)


def test_a_responses_request_becomes_a_chat_request():
    written, dropped = chat.write(responses.read(RESPONSES), OPENAI, stream=False)
    assert set(dropped) == {"store", "include", "reasoning.summary", "thinking"}
    roles = [message["role"] for message in written["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "user"]
    assert written["messages"][2]["content"] == "Let me look."
    assert written["messages"][2]["tool_calls"][0]["id"] == "call_1"
    assert written["max_completion_tokens"] == 100
    assert written["verbosity"] == "low"
    assert "stream" not in written
    chat.check(written)


def test_a_responses_request_becomes_a_messages_request():
    body = {**RESPONSES, "text": {"format": RESPONSES["text"]["format"]}}
    written, _ = messages.write(responses.read(body), model(thinking="adaptive"), stream=False)
    assert written["system"] == "Be brief."
    assert written["output_config"]["effort"] == "low"
    assert written["thinking"] == {"type": "adaptive"}
    messages.check(written)


def test_signed_reasoning_comes_back_to_its_vendor_through_a_responses_client():
    import json

    from app.domain.events import Answer, FinishReason, ThinkingBlock, ToolCallBlock
    from tests.wire.samples import request

    blocks = (ThinkingBlock("Hm.", "sig"), ToolCallBlock("t1", "f", "{}"))
    answer = Answer("msg_1", "claude", blocks, FinishReason.TOOL_CALLS)
    told = json.loads(responses.write_answer(answer, request(Dialect.RESPONSES)))
    result = {"type": "function_call_output", "call_id": "t1", "output": "ok"}
    body = {"model": "m", "input": [{"role": "user", "content": "q"}, *told["output"], result]}
    responses.check(body)
    written, dropped = messages.write(responses.read(body), CLAUDE, stream=False)
    assert written["messages"][1]["content"][0] == {
        "type": "thinking",
        "thinking": "Hm.",
        "signature": "sig",
    }
    assert dropped == ()


# Well formed, but without a counterpart: (dialect, change, the field that the error names)
REFUSED_ON_READING = [
    (Dialect.CHAT, {"n": 2}, "n"),
    (Dialect.CHAT, {"logprobs": True}, "logprobs"),
    (Dialect.CHAT, {"top_logprobs": 2}, "top_logprobs"),
    (Dialect.CHAT, {"logit_bias": {"5": 1}}, "logit_bias"),
    (Dialect.CHAT, {"prediction": {"type": "content", "content": "x"}}, "prediction"),
    (Dialect.CHAT, {"web_search_options": {"a": 1}}, "web_search_options"),
    (Dialect.CHAT, {"modalities": ["text", "audio"]}, "modalities"),
    (Dialect.CHAT, {"audio": {"voice": "a", "format": "mp3"}}, "audio"),
    (Dialect.CHAT, {"store": True}, "store"),
    (Dialect.CHAT, {"functions": [{"name": "f"}]}, "functions"),
    (Dialect.CHAT, {"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
    (
        Dialect.CHAT,
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
        "tool_choice.type",
    ),
    (
        Dialect.CHAT,
        {"messages": [{"role": "function", "name": "f", "content": "x"}]},
        "messages[0].role",
    ),
    (
        Dialect.CHAT,
        {
            "messages": [
                {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x"}}]}
            ]
        },
        "messages[0].content[0].type",
    ),
    (Dialect.MESSAGES, {"container": "c"}, "container"),
    (Dialect.MESSAGES, {"mcp_servers": [{"url": "u"}]}, "mcp_servers"),
    (Dialect.MESSAGES, {"thread": {"id": "t"}}, "thread"),
    (Dialect.MESSAGES, {"context_management": {"edits": [1]}}, "context_management"),
    (Dialect.MESSAGES, {"inference_geo": "eu"}, "inference_geo"),
    (Dialect.MESSAGES, {"thinking": {"type": "between_tools"}}, "thinking.type"),
    (
        Dialect.MESSAGES,
        {"tools": [{"type": "web_search_20260209", "name": "web_search"}]},
        "tools[0].type",
    ),
    (
        Dialect.MESSAGES,
        {"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]},
        "tools[0].defer_loading",
    ),
    (Dialect.MESSAGES, {"metadata": {"user_id": "u", "team": "a"}}, "metadata.team"),
    (
        Dialect.MESSAGES,
        {"messages": [{"role": "user", "content": [{"type": "search_result", "source": "x"}]}]},
        "messages[0].content[0].type",
    ),
    (
        Dialect.MESSAGES,
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}],
                }
            ]
        },
        "messages[0].content[0].source.type",
    ),
    (Dialect.RESPONSES, {"previous_response_id": "resp_1"}, "previous_response_id"),
    (Dialect.RESPONSES, {"background": True}, "background"),
    (Dialect.RESPONSES, {"store": True}, "store"),
    (Dialect.RESPONSES, {"conversation": "c"}, "conversation"),
    (Dialect.RESPONSES, {"include": ["file_search_call.results"]}, "include[0]"),
    (Dialect.RESPONSES, {"truncation": "auto"}, "truncation"),
    (Dialect.RESPONSES, {"tools": [{"type": "web_search"}]}, "tools[0].type"),
    (Dialect.RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    (Dialect.RESPONSES, {"max_tool_calls": 3}, "max_tool_calls"),
    (Dialect.RESPONSES, {"prompt": {"id": "p"}}, "prompt"),
]


@pytest.mark.parametrize(("dialect", "change", "param"), REFUSED_ON_READING)
def test_what_no_other_dialect_can_carry_is_refused_by_name(dialect, change, param):
    body = {**BODIES[dialect], **change}
    CODECS[dialect].check(body)
    with pytest.raises(Unsupported) as refused:
        CODECS[dialect].read(body)
    assert refused.value.param == param
    assert param in refused.value.message
    assert refused.value.status == 400


REFUSED_ON_WRITING = [
    (messages, {"temperature": 0.5, "top_k": 5}, chat, OPENAI, "top_k"),
    (messages, {"stop_sequences": list("abcde")}, chat, OPENAI, "stop_sequences"),
    (messages, {"max_tokens": 0}, chat, OPENAI, "max_tokens"),
    (
        messages,
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        chat,
        model(),
        "thinking.budget_tokens",
    ),
    (messages, {"tool_choice": {"type": "any"}}, chat, OPENAI, "tool_choice"),
    (chat, {"tool_choice": "required"}, messages, CLAUDE, "tool_choice"),
    (
        chat,
        {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": []},
        messages,
        CLAUDE,
        "tool_choice",
    ),
    (chat, {"temperature": 1.5}, messages, CLAUDE, "temperature"),
    (chat, {"seed": 1}, messages, CLAUDE, "seed"),
    (chat, {"frequency_penalty": 1}, messages, CLAUDE, "frequency_penalty"),
    (chat, {"verbosity": "high"}, messages, CLAUDE, "verbosity"),
    (chat, {"response_format": {"type": "json_object"}}, messages, CLAUDE, "response_format"),
    (chat, {"service_tier": "flex"}, messages, CLAUDE, "service_tier"),
    (chat, {"reasoning_effort": "high"}, messages, model(), "reasoning_effort"),
    (chat, {"temperature": 0.3}, chat, model(temperature=False), "temperature"),
    (
        chat,
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        messages,
        model(tools=False),
        "tools",
    ),
]


@pytest.mark.parametrize(
    ("source", "change", "target", "target_model", "param"), REFUSED_ON_WRITING
)
def test_what_the_target_cannot_carry_is_refused_in_the_callers_own_words(
    source, change, target, target_model, param
):
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "q"}], **change}
    source.check(body)
    conversation = source.read(body)
    with pytest.raises(Unsupported) as refused:
        target.write(conversation, target_model, stream=False)
    assert refused.value.param == param
    assert target_model.label in refused.value.message


def test_an_image_in_a_tool_result_is_refused_for_chat_with_its_message_named():
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
    }
    body = user({"type": "tool_result", "tool_use_id": "t", "content": [image]})
    body["messages"].insert(0, {"role": "user", "content": "q"})
    with pytest.raises(Unsupported) as refused:
        chat.write(messages.read(body), OPENAI, stream=False)
    assert refused.value.param == "messages[1].content"
    again, _ = messages.write(messages.read(body), CLAUDE, stream=False)
    assert again["messages"][1]["content"][0]["content"] == [image]


def test_tool_arguments_that_are_no_object_are_refused_for_messages():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{broken"}}
    body = user("x")
    body["messages"] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    conversation = chat.read(without(body, "max_tokens"))
    assert conversation.messages[1].parts == (ToolCallPart("c", "f", "{broken"),)
    with pytest.raises(BadRequest) as refused:
        messages.write(conversation, CLAUDE, stream=False)
    assert refused.value.param == "messages[1].tool_calls"


def test_tool_arguments_travel_byte_for_byte_between_openai_dialects():
    arguments = '{ "b": 1.0,\n "a": 1e2 }'
    body = {
        "model": "m",
        "input": [
            {"role": "user", "content": "q"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments},
            {"type": "function_call_output", "call_id": "c", "output": "r"},
        ],
    }
    written, _ = chat.write(responses.read(body), OPENAI, stream=False)
    assert written["messages"][1]["tool_calls"][0]["function"]["arguments"] == arguments


def test_one_message_of_results_and_text_is_cut_in_two_and_joined_again():
    conversation = messages.read(MESSAGES)
    roles = [message.role for message in conversation.messages]
    assert roles == [
        Role.SYSTEM,
        Role.USER,
        Role.ASSISTANT,
        Role.TOOL,
        Role.USER,
        Role.SYSTEM,
        Role.USER,
    ]
    assert isinstance(conversation.messages[3].parts[0], ToolResultPart)
    assert conversation.messages[3].parts[0].is_error
    written, dropped = messages.write(conversation, CLAUDE, stream=True)
    kept = {
        **without(MESSAGES, "service_tier", "output_config", "thinking", "model"),
        "model": "upstream-1",
    }
    assert {key: written[key] for key in kept} == kept
    assert dropped == ("thinking.display",)


def test_an_answer_to_be_continued_is_refused_where_the_model_would_begin_a_new_one():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "The answer is"}]
    conversation = messages.read({"model": "m", "max_tokens": 9, "messages": turns})
    for target in (chat, messages):
        with pytest.raises(Unsupported) as refused:
            target.write(conversation, model(), stream=False)
        assert refused.value.param == "messages[1].role"
        written, _ = target.write(conversation, model(prefill=True), stream=False)
        assert written["messages"][-1] == turns[1]


def test_content_of_compatible_servers_passes_the_check_and_is_refused_elsewhere():
    video = {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}
    body = {"model": "m", "messages": [{"role": "user", "content": [video]}]}
    chat.check(body)
    with pytest.raises(Unsupported) as refused:
        chat.read(body)
    assert refused.value.param == "messages[0].content[0].type"


def test_the_default_limit_is_sent_where_the_dialect_demands_one():
    body = {"model": "m", "messages": [{"role": "user", "content": "q"}]}
    written, _ = messages.write(chat.read(body), model(default_max_tokens=321), stream=False)
    assert written["max_tokens"] == 321


def test_a_request_without_anybody_speaking_is_refused_for_messages():
    body = {"model": "m", "messages": [{"role": "system", "content": "q"}]}
    with pytest.raises(BadRequest) as refused:
        messages.write(chat.read(body), CLAUDE, stream=False)
    assert refused.value.param == "messages"


def test_the_responses_dialect_is_never_written_for_another_one():
    with pytest.raises(Unsupported, match="Responses API"):
        responses.write(chat.read(CHAT), OPENAI, stream=False)


BAD = [
    (Dialect.CHAT, {"model": None}, "model"),
    (Dialect.CHAT, {"model": 3}, "model"),
    (Dialect.CHAT, {"messages": []}, "messages"),
    (Dialect.CHAT, {"messages": "hi"}, "messages"),
    (Dialect.CHAT, {"messages": [3]}, "messages[0]"),
    (Dialect.CHAT, {"messages": [{"role": "narrator", "content": "x"}]}, "messages[0].role"),
    (Dialect.CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
    (
        Dialect.CHAT,
        {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
        "messages[0].content[0].type",
    ),
    (Dialect.CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    (Dialect.CHAT, {"temperature": 3}, "temperature"),
    (Dialect.CHAT, {"temperature": True}, "temperature"),
    (Dialect.CHAT, {"max_tokens": 0}, "max_tokens"),
    (Dialect.CHAT, {"stream": "yes"}, "stream"),
    (Dialect.CHAT, {"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    (Dialect.CHAT, {"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    (Dialect.CHAT, {"stop": [1]}, "stop[0]"),
    (Dialect.MESSAGES, {"max_tokens": None}, "max_tokens"),
    (Dialect.MESSAGES, {"max_tokens": "9"}, "max_tokens"),
    (Dialect.MESSAGES, {"temperature": 1.5}, "temperature"),
    (Dialect.MESSAGES, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    (
        Dialect.MESSAGES,
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    (Dialect.MESSAGES, {"system": 3}, "system"),
    (Dialect.MESSAGES, {"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    (Dialect.RESPONSES, {"input": ""}, "input"),
    (Dialect.RESPONSES, {"input": None}, "input"),
    (Dialect.RESPONSES, {"input": [{"role": "x", "content": "y"}]}, "input[0].role"),
    (Dialect.RESPONSES, {"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
    (Dialect.RESPONSES, {"max_output_tokens": 0}, "max_output_tokens"),
]


@pytest.mark.parametrize(("dialect", "change", "param"), BAD)
def test_what_no_server_could_take_is_refused_with_the_path_of_the_field(dialect, change, param):
    with pytest.raises(BadRequest) as refused:
        CODECS[dialect].check({**BODIES[dialect], **change})
    assert refused.value.param == param
    assert refused.value.status == 400


@pytest.mark.parametrize("dialect", list(Dialect))
def test_the_view_shows_the_last_turn_and_the_tools(dialect):
    view = CODECS[dialect].view(BODIES[dialect])
    assert view.text in {"Thanks.", "Well?"}
    assert "Be brief." in view.system
    assert view.tool_names == ("weather",)
    assert view.has_images
    assert view.wants_json
    assert view.max_tokens in {100, 2048}
    assert not view.after_tool_result


@pytest.mark.parametrize(
    ("dialect", "more", "names"),
    [
        (Dialect.CHAT, {"tools": [{"type": "custom", "custom": {"name": "sql"}}]}, ("sql",)),
        (Dialect.CHAT, {"functions": [{"name": "old", "parameters": {}}]}, ("old",)),
        (Dialect.CHAT, {"tools": [{"type": "web_search"}]}, ("web_search",)),
        (Dialect.RESPONSES, {"tools": [{"type": "web_search"}]}, ("web_search",)),
        (Dialect.RESPONSES, {"tools": [{"type": "custom", "name": "sql"}]}, ("sql",)),
        (Dialect.MESSAGES, {"tools": [{"type": "mcp_toolset"}]}, ("mcp_toolset",)),
    ],
    ids=str,
)
def test_the_view_shows_tools_of_every_kind(dialect, more, names):
    """Else the answer of a search would count as lasting, and a question beside a tool as plain."""
    body = {"model": "auto", "input": "Who?", "messages": [{"role": "user", "content": "Who?"}]}
    view = CODECS[dialect].view({**body, **more})
    assert view.tool_names == names
    assert not view.is_plain_question


def test_the_view_tells_a_tool_loop_from_a_question():
    looped = {**CHAT, "messages": CHAT["messages"][:6]}
    assert chat.view(looped).after_tool_result
    body = {**MESSAGES, "messages": MESSAGES["messages"][:3]}
    assert messages.view(body).after_tool_result
    assert messages.view(body).text == "Try again."
    body = {**RESPONSES, "input": RESPONSES["input"][:5]}
    assert responses.view(body).after_tool_result
    assert responses.view(body).text == "What is this?"


def test_a_plain_string_is_a_responses_request():
    body = {"model": "m", "input": "Hello?"}
    responses.check(body)
    assert responses.view(body).text == "Hello?"
    written, _ = chat.write(responses.read(body), OPENAI, stream=False)
    assert written["messages"] == [{"role": "user", "content": "Hello?"}]


def test_what_a_responses_client_may_leave_out_passes_in_its_own_dialect():
    """A reference needs no type, and an output no call's id: the vendor judges what is his."""
    for item in (
        {"id": "msg_1"},
        {"id": "msg_1", "type": None},
        {"type": "function_call_output", "output": "x", "call_id": None},
    ):
        responses.check({"model": "m", "input": [item]})
    for item, named in (
        ({"id": "msg_1"}, "input[0].type"),
        ({"type": "function_call_output", "output": "x"}, "input[0].call_id"),
    ):
        with pytest.raises((BadRequest, Unsupported)) as refused:
            chat.write(responses.read({"model": "m", "input": [item]}), OPENAI, stream=False)
        assert refused.value.param == named


def test_a_conversation_that_openai_began_goes_on_elsewhere_with_its_items_as_they_came():
    direct = {"caller": {"type": "direct"}, "status": "completed"}
    called = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", **direct}
    told = {"type": "function_call_output", "call_id": "c", "output": "x", "name": "f", **direct}
    body = {"model": "m", "input": [{"role": "user", "content": "Hi"}, called, told]}
    written, dropped = messages.write(responses.read(body), CLAUDE, stream=False)
    assert [block["type"] for each in written["messages"][1:] for block in each["content"]] == [
        "tool_use",
        "tool_result",
    ]
    assert dropped == ("input[].name",)


def test_a_deprecated_function_message_without_content_passes_in_its_own_dialect():
    chat.check({"model": "m", "messages": [{"role": "function", "name": "f", "content": None}]})
