"""`POST /v1/messages` as its server: requests read, answers and events written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

import orjson

from app.providers.simulator.answer import Reply
from app.providers.simulator.diagnosis import Fingerprints
from app.providers.simulator.dialect import (
    Answer,
    Call,
    DialectName,
    Frame,
    dumps,
    sse_event,
)
from app.providers.simulator.errors import RefusedError
from app.providers.simulator.fields import (
    JsonObject,
    as_object,
    as_text,
    check_number,
    flag,
    integer,
    missing,
    optional_object,
    optional_text,
    stop_strings,
)
from app.providers.simulator.messages_prompt import LOOK_BACK, read_prompt
from app.providers.simulator.profile import ModelChoice
from app.providers.simulator.prompt_cache import FIVE_MINUTES_S, ONE_HOUR_S, CacheRules
from app.providers.simulator.question import Limits, Question, Tool, ToolChoice
from app.providers.simulator.threads import Threads

_ERROR_TYPES = {
    "model_not_found": "not_found_error",
    "not_found": "not_found_error",
    "invalid_key": "authentication_error",
    "rate_limited": "rate_limit_error",
    "server_error": "api_error",
    "overloaded": "overloaded_error",
    "too_large": "request_too_large",
}
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "stop_sequence": "stop_sequence",
    "tool_calls": "tool_use",
    "refusal": "refusal",
}
_EFFORTS = {"low": 16, "medium": 32, "high": 64, "xhigh": 128, "max": 256}
_LEAST_BUDGET = 1_024
_MOST_THINKING = 48
"""How long the simulated model thinks at most, when only a budget is given."""


class MessagesDialect:
    """Anthropic Messages."""

    name: DialectName = "messages"

    def __init__(self) -> None:
        self._fingerprints = Fingerprints()
        self._threads = Threads()

    def read(self, body: JsonObject, choice: ModelChoice) -> Call:
        """Check and understand a request body. Raises `RefusedError`."""
        body = self._threads.whole(body)
        check_number(body, "temperature", least=0, most=1)
        check_number(body, "top_p", least=0, most=1)
        limit = integer(body, "max_tokens", least=0)
        if limit is None:
            raise missing("max_tokens")
        prompt = read_prompt(body)
        is_stream = flag(body, "stream", default=False)
        schema = _read_schema(body)
        tool_choice = _read_tool_choice(body, prompt.tools)
        thinking = _read_thinking(body, limit)
        if limit == 0:
            _check_warm_up(
                is_stream=is_stream,
                is_thinking=thinking > 0,
                has_schema=schema is not None,
                is_forced=tool_choice.mode in ("required", "named"),
            )
        question = Question(
            choice.profile,
            tuple(prompt.entries),
            tuple(prompt.tools),
            tool_choice,
            Limits(limit, stop_strings(body, "stop_sequences")),
            thinking,
            schema,
        )
        rules = CacheRules(prompt.marks, choice.profile.cache_minimum_tokens, LOOK_BACK)
        return Call(
            choice,
            question,
            body,
            is_stream,
            prompt.blocks,
            rules,
            cache_scope="",
            is_warm_up=limit == 0,
        )

    def count(self, body: JsonObject) -> bytes:
        """The answer of `count_tokens`: the whole prompt's tokens. Raises `RefusedError`."""
        prompt = read_prompt(body)
        return dumps({"input_tokens": sum(block.tokens for block in prompt.blocks)})

    def document(self, answer: Answer) -> bytes:
        """The answer as one JSON body."""
        message = _message(answer)
        message["content"] = [] if answer.call.is_warm_up else _content(answer.reply, answer.call)
        message.update(_ending(answer))
        message["diagnostics"] = self._diagnosis(answer)
        message["usage"] = _usage(answer, answer.output_tokens)
        self._keep(answer)
        return dumps(message)

    def frames(self, answer: Answer) -> Iterator[Frame]:
        """The answer as events: message_start, ping, blocks, message_delta, message_stop."""
        message = _message(answer)
        message["usage"] = _usage(answer, 1)
        message["diagnostics"] = self._diagnosis(answer)
        yield Frame(sse_event({"type": "message_start", "message": message}))
        yield Frame(sse_event({"type": "ping"}))
        yield from _block_frames(answer.reply, answer.call)
        delta = {
            "type": "message_delta",
            "delta": _ending(answer),
            "usage": _delta_usage(answer),
        }
        self._keep(answer)
        yield Frame(sse_event(delta))
        yield Frame(sse_event({"type": "message_stop"}))

    def _keep(self, answer: Answer) -> None:
        call = answer.call
        self._threads.keep(f"msg_{answer.serial}", call.body, _content(answer.reply, call))

    def _diagnosis(self, answer: Answer) -> dict[str, object] | None:
        return self._fingerprints.of_messages(f"msg_{answer.serial}", answer.call.body)

    def error_body(self, error: RefusedError, request_id: str) -> bytes:
        """The JSON body of an error status."""
        kind = _ERROR_TYPES.get(error.kind, "invalid_request_error")
        return dumps(_error(kind, error.message, request_id, error.details))

    def error_frame(self, message: str, request_id: str, number: int) -> bytes:  # noqa: ARG002
        """An error within a stream that has begun."""
        return sse_event(_error("overloaded_error", message, request_id))


def _error(
    kind: str, message: str, request_id: str, details: dict[str, object] | None = None
) -> dict[str, object]:
    inner: dict[str, object] = {"type": kind, "message": message}
    if details is not None:
        inner["details"] = details
    return {"type": "error", "error": inner, "request_id": request_id}


def _read_thinking(body: JsonObject, limit: int) -> int:
    """How many tokens the model thinks. Raises `RefusedError` for a budget that cannot be."""
    thinking = optional_object(body, "thinking")
    effort = optional_text(optional_object(body, "output_config"), "effort")
    if effort is not None and effort not in _EFFORTS:
        raise RefusedError(f"output_config.effort: Input should be one of {', '.join(_EFFORTS)}")
    kind = thinking.get("type", "disabled")
    if kind in ("disabled", "between_tools"):
        return 0
    if kind == "adaptive":
        return _EFFORTS[effort] if effort is not None else _MOST_THINKING
    if kind != "enabled":
        raise RefusedError(
            "thinking.type: Input should be 'adaptive', 'between_tools', 'disabled' or 'enabled'"
        )
    budget = integer(thinking, "budget_tokens", least=0)
    if budget is None:
        raise missing("thinking.enabled.budget_tokens")
    if budget < _LEAST_BUDGET:
        raise RefusedError(
            "thinking.enabled.budget_tokens: Input should be greater than or equal to "
            f"{_LEAST_BUDGET}"
        )
    if 0 < limit <= budget:
        raise RefusedError("`max_tokens` must be greater than `thinking.budget_tokens`.")
    return _MOST_THINKING


def _check_warm_up(
    *, is_stream: bool, is_thinking: bool, has_schema: bool, is_forced: bool
) -> None:
    for wrong, what in (
        (is_stream, "`stream`"),
        (is_thinking, "enabled `thinking`"),
        (has_schema, "`output_config.format`"),
        (is_forced, "a forced `tool_choice`"),
    ):
        if wrong:
            raise RefusedError(f"max_tokens: 0 cannot be combined with {what}", param="max_tokens")


def _read_schema(body: JsonObject) -> JsonObject | None:
    form = optional_object(body, "output_config").get("format")
    if form is None:
        return None
    wanted = as_object(form, "output_config.format")
    if wanted.get("type") != "json_schema":
        raise RefusedError("output_config.format.type: Input should be 'json_schema'")
    return as_object(wanted.get("schema"), "output_config.format.schema")


def _read_tool_choice(body: JsonObject, tools: Sequence[Tool]) -> ToolChoice:
    choice = optional_object(body, "tool_choice")
    if not choice:
        return ToolChoice()
    parallel = not flag(choice, "disable_parallel_tool_use", default=False)
    kind = choice.get("type")
    if kind == "auto":
        return ToolChoice("auto", "", parallel)
    if kind == "none":
        return ToolChoice("none")
    if kind not in ("any", "tool"):
        raise RefusedError("tool_choice.type: Input should be 'any', 'auto', 'none' or 'tool'")
    if not tools:
        raise RefusedError("tool_choice may only be specified while providing tools")
    if kind == "any":
        return ToolChoice("required", "", parallel)
    name = as_text(choice.get("name"), "tool_choice.name")
    if name not in {tool.name for tool in tools}:
        raise RefusedError(f"Tool '{name}' not found in provided tools")
    return ToolChoice("named", name, parallel)


def _message(answer: Answer) -> dict[str, object]:
    return {
        "id": f"msg_{answer.serial}",
        "type": "message",
        "role": "assistant",
        "model": answer.call.choice.requested,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }


def _ending(answer: Answer) -> dict[str, object]:
    reply = answer.reply
    reason = "max_tokens" if answer.call.is_warm_up else _STOP_REASONS[reply.finish]
    is_refusal = reply.finish == "refusal"
    details = {"type": "refusal", "category": None, "explanation": "This refusal is simulated."}
    return {
        "stop_reason": reason,
        "stop_sequence": reply.stop_sequence,
        "stop_details": details if is_refusal else None,
    }


def _usage(answer: Answer, output_tokens: int) -> dict[str, object]:
    written = answer.use.written_tokens
    usage: dict[str, object] = {
        "input_tokens": answer.use.uncached_tokens,
        "cache_creation_input_tokens": answer.use.all_written_tokens,
        "cache_read_input_tokens": answer.use.read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written.get(FIVE_MINUTES_S, 0),
            "ephemeral_1h_input_tokens": written.get(ONE_HOUR_S, 0),
        },
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }
    if answer.reasoning_tokens and output_tokens >= answer.output_tokens:
        usage["output_tokens_details"] = {"thinking_tokens": answer.reasoning_tokens}
    return usage


def _delta_usage(answer: Answer) -> dict[str, object]:
    usage: dict[str, object] = {
        "input_tokens": answer.use.uncached_tokens,
        "cache_creation_input_tokens": answer.use.all_written_tokens,
        "cache_read_input_tokens": answer.use.read_tokens,
        "output_tokens": answer.output_tokens,
    }
    if answer.reasoning_tokens:
        usage["output_tokens_details"] = {"thinking_tokens": answer.reasoning_tokens}
    return usage


def _signature(reply: Reply) -> str:
    return "sim" + sha256("".join(reply.reasoning).encode()).hexdigest()


def _shown_thinking(reply: Reply, call: Call) -> Sequence[str]:
    """The thinking as it is displayed; `omitted` shows an empty block with its signature."""
    display = optional_object(call.body, "thinking").get("display")
    return () if display == "omitted" else reply.reasoning


def _content(reply: Reply, call: Call) -> list[dict[str, object]]:
    blocks: list[dict[str, object]] = []
    if reply.reasoning:
        thinking = "".join(_shown_thinking(reply, call))
        blocks.append({"type": "thinking", "thinking": thinking, "signature": _signature(reply)})
    if reply.text:
        blocks.append({"type": "text", "text": "".join(reply.text), "citations": None})
    for made in reply.calls:
        arguments: object = orjson.loads(made.arguments)
        blocks.append(
            {"type": "tool_use", "id": f"toolu_{made.id}", "name": made.name, "input": arguments}
        )
    return blocks


def _block_frames(reply: Reply, call: Call) -> Iterator[Frame]:
    index = 0
    if reply.reasoning:
        yield from _thinking_frames(reply, _shown_thinking(reply, call))
        index += 1
    if reply.text:
        yield _start(index, {"type": "text", "text": "", "citations": None})
        yield from _deltas(index, b"text_delta", b"text", reply.text)
        yield _stop(index)
        index += 1
    for made in reply.calls:
        head = {"type": "tool_use", "id": f"toolu_{made.id}", "name": made.name}
        yield _start(index, {**head, "input": {}})
        yield from _deltas(index, b"input_json_delta", b"partial_json", ("", *made.pieces))
        yield _stop(index)
        index += 1


def _thinking_frames(reply: Reply, shown: Sequence[str]) -> Iterator[Frame]:
    yield _start(0, {"type": "thinking", "thinking": "", "signature": ""})
    if not shown:
        yield Frame(b"", len(reply.reasoning))
    yield from _deltas(0, b"thinking_delta", b"thinking", shown)
    yield from _deltas(0, b"signature_delta", b"signature", (_signature(reply),))
    yield _stop(0)


def _start(index: int, block: dict[str, object]) -> Frame:
    return Frame(sse_event({"type": "content_block_start", "index": index, "content_block": block}))


def _stop(index: int) -> Frame:
    return Frame(sse_event({"type": "content_block_stop", "index": index}))


def _deltas(index: int, kind: bytes, key: bytes, texts: Sequence[str]) -> Iterator[Frame]:
    """Deltas of one block. All but the text is encoded once: tokens come by the hundred."""
    start = (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
        b'"delta":{"type":"%b","%b":' % (index, kind, key)
    )
    for text in texts:
        yield Frame(start + orjson.dumps(text) + b"}}\n\n", 1)
