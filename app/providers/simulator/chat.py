"""`POST /v1/chat/completions` as its server: requests read, answers and chunks written."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from app.providers.simulator import openai_prompt as shared
from app.providers.simulator.answer import Reply
from app.providers.simulator.dialect import (
    Answer,
    Call,
    DialectName,
    Frame,
    dumps,
    openai_error,
    sse_data,
)
from app.providers.simulator.errors import RefusedError
from app.providers.simulator.fields import (
    JsonObject,
    as_list,
    as_object,
    as_text,
    check_number,
    flag,
    integer,
    missing,
    optional_list,
    optional_object,
    required,
    stop_strings,
    wrong_type,
)
from app.providers.simulator.profile import ModelChoice
from app.providers.simulator.question import Entry, Limits, Question, Role

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_FINISH = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "refusal": "stop",
}
_MOST_ANSWERS = 128


class ChatDialect:
    """OpenAI Chat Completions."""

    name: DialectName = "chat"

    def read(self, body: JsonObject, choice: ModelChoice) -> Call:
        """Check and understand a request body. Raises `RefusedError`."""
        _check_scalars(body)
        prompt = shared.Prompt()
        tools = [
            shared.read_tool(*_function(item, f"tools[{index}]"))
            for index, item in enumerate(optional_list(body, "tools"))
        ]
        prompt.blocks += [
            shared.tool_block(as_object(item, "tools")) for item in optional_list(body, "tools")
        ]
        _read_messages(prompt, as_list(required(body, "messages"), "messages"))
        parallel = flag(body, "parallel_tool_calls", default=True)
        limit = integer(body, "max_completion_tokens", least=1)
        if limit is None:
            limit = integer(body, "max_tokens", least=1)
        question = Question(
            choice.profile,
            tuple(prompt.entries),
            tuple(tools),
            shared.read_tool_choice(body.get("tool_choice"), tools, parallel=parallel),
            Limits(limit, stop_strings(body, "stop")),
            shared.read_effort(body.get("reasoning_effort"), "reasoning_effort"),
            shared.read_format(body.get("response_format"), "response_format"),
        )
        return Call(
            choice,
            question,
            body,
            flag(body, "stream", default=False),
            prompt.blocks,
            shared.cache_rules(body, prompt, choice.profile),
            shared.cache_scope(body, "response_format", "reasoning_effort", "verbosity"),
            integer(body, "n", least=1, most=_MOST_ANSWERS) or 1,
        )

    def document(self, answer: Answer) -> bytes:
        """The answer as one JSON body."""
        choices = [
            {
                "index": index,
                "message": _message(reply),
                "logprobs": None,
                "finish_reason": _FINISH[reply.finish],
            }
            for index, reply in enumerate(answer.replies)
        ]
        return dumps(
            {**_head(answer, "chat.completion"), "choices": choices, "usage": _usage(answer)}
        )

    def frames(self, answer: Answer) -> Iterator[Frame]:
        """The answer as chunks: role, deltas, finish reason, usage if asked for, `[DONE]`."""
        options = optional_object(answer.call.body, "stream_options")
        with_usage = options.get("include_usage") is True
        head = dumps(_head(answer, "chat.completion.chunk"))[:-1]
        tail = b',"usage":null}\n\n' if with_usage else b"}\n\n"
        for index, reply in enumerate(answer.replies):
            yield from _choice_frames(b"data: " + head, tail, index, reply)
        if with_usage:
            yield Frame(
                sse_data(
                    {
                        **_head(answer, "chat.completion.chunk"),
                        "choices": [],
                        "usage": _usage(answer),
                    }
                )
            )
        yield Frame(b"data: [DONE]\n\n")

    def error_body(self, error: RefusedError, request_id: str) -> bytes:  # noqa: ARG002
        """The JSON body of an error status."""
        return openai_error(error)

    def error_frame(self, message: str, request_id: str, number: int) -> bytes:  # noqa: ARG002
        """An error within a stream that has begun."""
        error = {"message": message, "type": "server_error", "param": None, "code": "server_error"}
        return sse_data({"error": error})


def _check_scalars(body: JsonObject) -> None:
    check_number(body, "temperature", least=0, most=2)
    check_number(body, "top_p", least=0, most=1)
    check_number(body, "presence_penalty", least=-2, most=2)
    check_number(body, "frequency_penalty", least=-2, most=2)
    if body.get("stream_options") is not None and body.get("stream") is not True:
        raise RefusedError(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )


def _function(item: object, path: str) -> tuple[JsonObject, str]:
    """The `function` of one tool. Raises `RefusedError` for other kinds of tools."""
    tool = as_object(item, path)
    if tool.get("type") != "function":
        raise RefusedError(
            f"Invalid value for '{path}.type': the simulator knows 'function' only.",
            param=f"{path}.type",
        )
    return as_object(tool.get("function"), f"{path}.function"), f"{path}.function"


def _read_messages(prompt: shared.Prompt, messages: object) -> None:
    """Read the conversation, and check that calls and their results belong together."""
    items = as_list(messages, "messages")
    if not items:
        raise RefusedError("Invalid 'messages': the array is empty.", param="messages")
    waiting: set[str] = set()
    for index, item in enumerate(items):
        path = f"messages[{index}]"
        message = as_object(item, path)
        role = as_text(message.get("role"), f"{path}.role")
        if role == "tool":
            _read_result(prompt, message, waiting, path)
            continue
        if waiting:
            _refuse_waiting(waiting)
        if role not in _ROLES:
            raise RefusedError(
                f"Invalid value for '{path}.role': '{role}'; supported are: assistant, developer, "
                "system, tool, user.",
                param=f"{path}.role",
            )
        _read_message(prompt, _ROLES[role], message, path)
        waiting = _read_calls(prompt, message, path)
    if waiting:
        _refuse_waiting(waiting)


def _refuse_waiting(waiting: set[str]) -> None:
    raise RefusedError(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to "
        f"each 'tool_call_id'. Without a response: {', '.join(sorted(waiting))}.",
        param="messages",
    )


def _read_message(prompt: shared.Prompt, role: Role, message: JsonObject, path: str) -> None:
    content = message.get("content")
    if content is not None:
        prompt.add_content(role, content, f"{path}.content")
        return
    refusal = message.get("refusal")
    if isinstance(refusal, str):
        prompt.add(Entry(role, "text", refusal))
        return
    if role != "assistant" or not message.get("tool_calls"):
        if "content" in message:
            raise wrong_type(f"{path}.content", "a string or an array", content)
        raise missing(f"{path}.content")


def _read_calls(prompt: shared.Prompt, message: JsonObject, path: str) -> set[str]:
    """Read an assistant's calls; gives their ids."""
    made: set[str] = set()
    calls = message.get("tool_calls")
    for index, item in enumerate([] if calls is None else as_list(calls, f"{path}.tool_calls")):
        where = f"{path}.tool_calls[{index}]"
        call = as_object(item, where)
        call_id = as_text(call.get("id"), f"{where}.id")
        function = as_object(call.get("function"), f"{where}.function")
        name = as_text(function.get("name"), f"{where}.function.name")
        arguments = as_text(function.get("arguments"), f"{where}.function.arguments")
        prompt.add_call(call_id, name, arguments)
        made.add(call_id)
    return made


def _read_result(prompt: shared.Prompt, message: JsonObject, waiting: set[str], path: str) -> None:
    call_id = as_text(message.get("tool_call_id"), f"{path}.tool_call_id")
    if call_id not in waiting:
        raise RefusedError(
            f"Invalid parameter: '{path}': messages with role 'tool' must be a response to a "
            f"preceding message with 'tool_calls'; none has the id '{call_id}'.",
            param=f"{path}.tool_call_id",
        )
    waiting.discard(call_id)
    prompt.add_result(call_id, message.get("content"), f"{path}.content")


def _head(answer: Answer, kind: str) -> dict[str, object]:
    return {
        "id": f"chatcmpl-{answer.serial}",
        "object": kind,
        "created": answer.created_s,
        "model": answer.call.choice.requested,
        "service_tier": "default",
        "system_fingerprint": "fp_simulated",
    }


def _message(reply: Reply) -> dict[str, object]:
    text = "".join(reply.text)
    is_refusal = reply.finish == "refusal"
    message: dict[str, object] = {
        "role": "assistant",
        "content": None if is_refusal or reply.calls else text,
        "refusal": text if is_refusal else None,
        "annotations": [],
    }
    if reply.calls:
        message["tool_calls"] = [
            {
                "id": f"call_{call.id}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in reply.calls
        ]
    return message


def _usage(answer: Answer) -> dict[str, object]:
    use = answer.use
    return {
        "prompt_tokens": use.total_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": use.total_tokens + answer.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": use.read_tokens,
            "cache_write_tokens": use.all_written_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": answer.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _choice_frames(head: bytes, tail: bytes, index: int, reply: Reply) -> Iterator[Frame]:
    """One choice's chunks. The parts that never change are encoded once: tokens come by the
    hundred.
    """
    start = head + b',"choices":[{"index":%d,"delta":' % index
    end = b',"logprobs":null,"finish_reason":null}]' + tail
    if reply.reasoning:
        yield Frame(b"", len(reply.reasoning))
    first: dict[str, object] = {"role": "assistant", "content": None if reply.calls else ""}
    yield Frame(start + dumps({**first, "refusal": None}) + end)
    key = b'{"refusal":' if reply.finish == "refusal" else b'{"content":'
    for piece in reply.text:
        yield Frame(start + key + orjson.dumps(piece) + b"}" + end, 1)
    for number, call in enumerate(reply.calls):
        opening = {
            "index": number,
            "id": f"call_{call.id}",
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
        yield Frame(start + dumps({"tool_calls": [opening]}) + end)
        for piece in call.pieces:
            delta = {"index": number, "function": {"arguments": piece}}
            yield Frame(start + dumps({"tool_calls": [delta]}) + end, 1)
    finish = _FINISH[reply.finish].encode()
    yield Frame(start + b'{},"logprobs":null,"finish_reason":"' + finish + b'"}]' + tail)
