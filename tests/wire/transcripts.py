"""Streams in the shapes that the vendors document and compatible servers send, written by hand."""

# ruff: noqa: E501, ISC004 (a frame is one line, and a long payload is several strings)

from __future__ import annotations


def chat(*payloads: str) -> bytes:
    """Chat frames of these payloads."""
    return "".join(f"data: {payload}\n\n" for payload in payloads).encode()


def typed(*events: tuple[str, str]) -> bytes:
    """Frames with an event line."""
    return "".join(f"event: {name}\ndata: {payload}\n\n" for name, payload in events).encode()


HEAD = '"id":"chatcmpl-7","object":"chat.completion.chunk","created":1795219200,"model":"gpt-6.1-sol-2026-10-01"'


def delta(inner: str, finish: str = "null", rest: str = "") -> str:
    """A chunk of one choice."""
    return f'{{{HEAD},"choices":[{{"index":0,"delta":{inner},"logprobs":null,"finish_reason":{finish}}}]{rest}}}'


USAGE = (
    '{"prompt_tokens":120,"completion_tokens":9,"total_tokens":129,'
    '"prompt_tokens_details":{"cached_tokens":100,"cache_write_tokens":5,"audio_tokens":0},'
    '"completion_tokens_details":{"reasoning_tokens":3,"audio_tokens":0}}'
)
NULL = ',"usage":null'

CHAT_TEXT = chat(
    delta('{"role":"assistant","content":"","refusal":null}', rest=NULL),
    delta('{"content":"Hello"}', rest=NULL),
    delta('{"content":" world"}', rest=NULL),
    delta("{}", '"stop"', NULL),
    f'{{{HEAD},"choices":[],"usage":{USAGE}}}',
    "[DONE]",
)

CHAT_TOOLS = chat(
    delta('{"role":"assistant","content":null}'),
    delta(
        '{"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"f","arguments":""}}]}'
    ),
    delta('{"tool_calls":[{"index":0,"function":{"arguments":"{\\"x\\":"}}]}'),
    delta('{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}'),
    delta(
        '{"tool_calls":[{"index":1,"id":"call_b","type":"function","function":{"name":"g","arguments":""}}]}'
    ),
    delta('{"tool_calls":[{"index":1,"function":{"arguments":"{}"}}]}'),
    delta("{}", '"tool_calls"'),
    "[DONE]",
)

MESSAGES_TEXT = typed(
    (
        "message_start",
        '{"type":"message_start","message":{"id":"msg_01","type":"message","role":"assistant",'
        '"model":"claude-sonnet-5-5","content":[],"stop_reason":null,"stop_sequence":null,'
        '"usage":{"input_tokens":15,"cache_creation_input_tokens":5,"cache_read_input_tokens":100,"output_tokens":1}}}',
    ),
    (
        "content_block_start",
        '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
    ),
    ("ping", '{"type": "ping"}'),
    (
        "content_block_delta",
        '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}',
    ),
    (
        "content_block_delta",
        '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" world"}}',
    ),
    ("content_block_stop", '{"type":"content_block_stop","index":0}'),
    (
        "message_delta",
        '{"type":"message_delta","delta":{"stop_reason":"stop_sequence","stop_sequence":"END"},'
        '"usage":{"output_tokens":9,"output_tokens_details":{"thinking_tokens":3}}}',
    ),
    ("message_stop", '{"type":"message_stop"}'),
)

MESSAGES_TOOLS = typed(
    (
        "message_start",
        '{"type":"message_start","message":{"id":"msg_02","type":"message","role":"assistant",'
        '"model":"claude-sonnet-5-5","content":[],"stop_reason":null,"stop_sequence":null,'
        '"usage":{"input_tokens":15,"output_tokens":1}}}',
    ),
    (
        "content_block_start",
        '{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}',
    ),
    (
        "content_block_delta",
        '{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm."}}',
    ),
    (
        "content_block_delta",
        '{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"sig"}}',
    ),
    ("content_block_stop", '{"type":"content_block_stop","index":0}'),
    (
        "content_block_start",
        '{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_1","name":"f","input":{}}}',
    ),
    (
        "content_block_delta",
        '{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":""}}',
    ),
    (
        "content_block_delta",
        '{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\\"x\\": 1}"}}',
    ),
    ("content_block_stop", '{"type":"content_block_stop","index":1}'),
    (
        "content_block_start",
        '{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_2","name":"g","input":{}}}',
    ),
    ("content_block_stop", '{"type":"content_block_stop","index":2}'),
    (
        "message_delta",
        '{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":30}}',
    ),
    ("message_stop", '{"type":"message_stop"}'),
)

_RESPONSE = (
    '"id":"resp_1","object":"response","created_at":1795219200,"model":"gpt-6.1-sol-2026-10-01",'
    '"error":null,"incomplete_details":null,"parallel_tool_calls":true,"tool_choice":"auto","tools":[]'
)
_ITEM = '{"id":"fc_1","type":"function_call","status":"in_progress","call_id":"call_a","name":"f","arguments":""}'
_DONE_ITEM = _ITEM.replace("in_progress", "completed").replace(
    '"arguments":""', '"arguments":"{\\"x\\":1}"'
)
_MESSAGE = '{"id":"msg_1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hello","annotations":[]}]}'

RESPONSES = typed(
    ("response.created", f'{{"type":"response.created","sequence_number":0,"response":{{{_RESPONSE},"status":"in_progress","output":[],"usage":null}}}}'),
    ("response.in_progress", f'{{"type":"response.in_progress","sequence_number":1,"response":{{{_RESPONSE},"status":"in_progress","output":[],"usage":null}}}}'),
    ("response.output_item.added", '{"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"id":"msg_1","type":"message","status":"in_progress","role":"assistant","content":[]}}'),
    ("response.content_part.added", '{"type":"response.content_part.added","sequence_number":3,"item_id":"msg_1","output_index":0,"content_index":0,"part":{"type":"output_text","text":"","annotations":[]}}'),
    ("response.output_text.delta", '{"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"Hello","logprobs":[],"obfuscation":"xy"}'),
    ("response.output_text.done", '{"type":"response.output_text.done","sequence_number":5,"item_id":"msg_1","output_index":0,"content_index":0,"text":"Hello","logprobs":[]}'),
    ("response.output_item.done", f'{{"type":"response.output_item.done","sequence_number":6,"output_index":0,"item":{_MESSAGE}}}'),
    ("response.output_item.added", f'{{"type":"response.output_item.added","sequence_number":7,"output_index":1,"item":{_ITEM}}}'),
    ("response.function_call_arguments.delta", '{"type":"response.function_call_arguments.delta","sequence_number":8,"item_id":"fc_1","output_index":1,"delta":"{\\"x\\":"}'),
    ("response.function_call_arguments.delta", '{"type":"response.function_call_arguments.delta","sequence_number":9,"item_id":"fc_1","output_index":1,"delta":"1}"}'),
    ("response.function_call_arguments.done", '{"type":"response.function_call_arguments.done","sequence_number":10,"item_id":"fc_1","output_index":1,"arguments":"{\\"x\\":1}"}'),
    ("response.output_item.done", f'{{"type":"response.output_item.done","sequence_number":11,"output_index":1,"item":{_DONE_ITEM}}}'),
    (
        "response.completed",
        f'{{"type":"response.completed","sequence_number":12,"response":{{{_RESPONSE},"status":"completed",'
        f'"output":[{_MESSAGE},{_DONE_ITEM}],"usage":{{"input_tokens":120,"input_tokens_details":{{"cached_tokens":100,'
        '"cache_write_tokens":5},"output_tokens":9,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":129}}}',
    ),
)  # fmt: skip
