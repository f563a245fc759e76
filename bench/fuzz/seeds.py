"""Sound inputs, which the fuzzer breaks: answers and streams of each dialect, requests, HTTP responses."""

from __future__ import annotations

import json

from app.domain.chat import Dialect
from app.providers.simulator import expected_answer

_USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
_TEXT = expected_answer("What is the fuzzer's seed?", "sim-fast")[:60]


def _chunk(delta: object, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _data({"id": "chatcmpl-1", "created": 1, "model": "m", "choices": [choice], **more})


def _data(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _event(value: dict[str, object]) -> bytes:
    return b"event: " + str(value["type"]).encode() + b"\n" + _data(value)


def _call(index: int, **function: str) -> dict[str, object]:
    return {"tool_calls": [{"index": index, "id": f"call_{index}", "function": function}]}


_CHAT = (
    _chunk({"role": "assistant", "content": ""})
    + _chunk({"content": _TEXT})
    + _chunk({"content": "ü €\u2028\U0001f642"})
    + _chunk({"reasoning_content": "hm"})
    + _chunk({}, "stop")
    + _data({"id": "chatcmpl-1", "choices": [], "usage": _USAGE})
    + b"data: [DONE]\n\n"
)
_CHAT_TOOLS = (
    _chunk({"role": "assistant", "content": None})
    + _chunk(_call(0, name="look_up", arguments=""))
    + _chunk(_call(0, arguments='{"q": "a'))
    + _chunk(_call(0, arguments='b"}'))
    + _chunk(_call(1, name="other", arguments="{}"))
    + _chunk({}, "tool_calls", usage=_USAGE)
    + b": a comment\r\n\r\ndata: [DONE]\r\n\r\n"
)
_CHAT_ERROR = _chunk({"content": "a"}) + _data({"error": {"message": "m", "code": 1}})
_STARTED: dict[str, object] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
    "usage": {"input_tokens": 9, "cache_read_input_tokens": 3, "output_tokens": 1},
}


def _block(index: int, block: dict[str, object], *deltas: dict[str, object]) -> bytes:
    begun = _event({"type": "content_block_start", "index": index, "content_block": block})
    said = [
        _event({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas
    ]
    return begun + b"".join(said) + _event({"type": "content_block_stop", "index": index})


_MESSAGES = (
    _event({"type": "message_start", "message": _STARTED})
    + _event({"type": "ping"})
    + _block(
        0,
        {"type": "thinking", "thinking": ""},
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "signature_delta", "signature": "c2ln"},
    )
    + _block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": _TEXT})
    + _block(
        2,
        {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"q":'},
        {"type": "input_json_delta", "partial_json": '"a"}'},
    )
    + _event(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {"output_tokens": 7},
        }
    )
    + _event({"type": "message_stop"})
)
_MESSAGES_ERROR = _event({"type": "message_start", "message": _STARTED}) + _event(
    {"type": "error", "error": {"type": "overloaded_error", "message": "m"}}
)
_ITEM: dict[str, object] = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
_PART: dict[str, object] = {"type": "output_text", "text": _TEXT, "annotations": []}
_RESPONSE: dict[str, object] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "status": "completed",
    "output": [
        {**_ITEM, "status": "completed", "content": [_PART]},
        {"type": "function_call", "id": "f", "call_id": "c", "name": "n", "arguments": "{}"},
    ],
    "usage": {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12},
}
_AT: dict[str, object] = {"output_index": 0, "content_index": 0, "item_id": "msg_1"}
_CALL: dict[str, object] = {
    "id": "f",
    "type": "function_call",
    "call_id": "c",
    "name": "n",
    "arguments": "",
}
_RESPONSES = (
    _event({"type": "response.created", "sequence_number": 0, "response": _RESPONSE})
    + _event({"type": "response.output_item.added", "output_index": 0, "item": _ITEM})
    + _event({"type": "response.content_part.added", **_AT, "part": {**_PART, "text": ""}})
    + _event({"type": "response.output_text.delta", **_AT, "delta": _TEXT})
    + _event({"type": "response.output_text.done", **_AT, "text": _TEXT})
    + _event({"type": "response.output_item.done", "output_index": 0, "item": _ITEM})
    + _event({"type": "response.output_item.added", "output_index": 1, "item": _CALL})
    + _event({"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{"})
    + _event(
        {"type": "response.function_call_arguments.done", "output_index": 1, "arguments": "{}"}
    )
    + _event({"type": "response.completed", "response": _RESPONSE})
)
_RESPONSES_ERROR = _event({"type": "response.failed", "response": {"error": {"code": "c"}}})

STREAMS: dict[Dialect, tuple[bytes, ...]] = {
    Dialect.CHAT: (_CHAT, _CHAT_TOOLS, _CHAT_ERROR),
    Dialect.MESSAGES: (_MESSAGES, _MESSAGES_ERROR),
    Dialect.RESPONSES: (_RESPONSES, _RESPONSES_ERROR),
}
_TOOL = {"name": "look_up", "description": "d", "parameters": {"type": "object", "properties": {}}}
_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
_CHAT_CALL = {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
_SOURCE = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
REQUESTS: dict[Dialect, tuple[object, ...]] = {
    Dialect.CHAT: (
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True},
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": "be"}]},
                {"role": "user", "content": [{"type": "text", "text": "look"}, _IMAGE]},
                {"role": "assistant", "content": None, "tool_calls": [_CHAT_CALL]},
                {"role": "tool", "tool_call_id": "c", "content": "r"},
            ],
            "tools": [{"type": "function", "function": _TOOL}],
            "tool_choice": {"type": "function", "function": {"name": "look_up"}},
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
            "stop": ["a"],
            "temperature": 0.5,
            "max_completion_tokens": 9,
            "stream_options": {"include_usage": True},
        },
    ),
    Dialect.MESSAGES: (
        {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]},
        {
            "model": "m",
            "max_tokens": 5,
            "system": [{"type": "text", "text": "be", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": [{"type": "image", "source": _SOURCE}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "tool_use", "id": "t", "name": "n", "input": {"a": [1]}},
                    ],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "t", "content": "r"}],
                },
            ],
            "tools": [{"name": "n", "input_schema": {"type": "object"}}],
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "stop_sequences": ["a"],
        },
    ),
    Dialect.RESPONSES: (
        {"model": "m", "input": "hi", "instructions": "be"},
        {
            "model": "m",
            "input": [
                {
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": "t"}],
                },
                {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "r"},
            ],
            "tools": [{"type": "function", **_TOOL}],
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
            "reasoning": {"effort": "low"},
            "max_output_tokens": 9,
        },
    ),
}
ANSWERS: dict[Dialect, tuple[object, ...]] = {
    Dialect.CHAT: (
        {
            "id": "chatcmpl-1",
            "created": 1,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": _TEXT, "tool_calls": [_CHAT_CALL]},
                    "finish_reason": "stop",
                }
            ],
            "usage": _USAGE,
        },
    ),
    Dialect.MESSAGES: (
        {
            **_STARTED,
            "stop_reason": "end_turn",
            "content": [
                {"type": "text", "text": _TEXT},
                {"type": "tool_use", "id": "t", "name": "n", "input": {}},
                {"type": "thinking", "thinking": "hm", "signature": "s"},
            ],
        },
    ),
    Dialect.RESPONSES: (_RESPONSE,),
}
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: 7\r\n"
HTTP: tuple[bytes, ...] = (
    _HEAD + b"content-length: 11\r\n\r\nhello world",
    _HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n",
    _HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-trailer: a\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + _HEAD + b"content-length: 2\r\n\r\n{}",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 429 Slow Down\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
)
_TYPED = b"content-type: application/json\r\ncontent-"
_CHUNKED = b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
HEADS: tuple[bytes, ...] = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n"
    + _TYPED
    + b'length: 13\r\n\r\n{"model":"m"}',
    b"POST /v1/messages HTTP/1.1\r\nhost: a\r\nx-api-key: k\r\n" + _CHUNKED,
    b"GET /v1/models?a=%20b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
)
