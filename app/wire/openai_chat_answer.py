"""Parse and serialise complete Chat Completions answers, with usage and finish reasons.

``reasoning_content`` is the field in which OpenAI-compatible servers return reasoning; official clients keep
it as an extra field. This dialect has no field for a reasoning signature, so it is dropped.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from app.domain.chat import ChatRequest
from app.domain.events import (
    Answer,
    AnswerBlock,
    FinishReason,
    RefusalBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from app.domain.usage import MAX_TOKENS, Usage, token_count
from app.errors import UpstreamClosed, UpstreamProtocol
from app.wire import json_text
from app.wire.failures import read_stream_error
from app.wire.identity import answer_id, created_s

ID_PREFIX = "chatcmpl-"
_FAR_FUTURE_S = 2**53
"""Larger values are not times: JSON numbers are not exact beyond 2**53."""

_FINISH = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
    # Variants of compatible servers.
    "max_tokens": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.REFUSAL,
    "stop_sequence": FinishReason.STOP_SEQUENCE,
}
_FINISH_WORD = {
    FinishReason.STOP: "stop",
    FinishReason.STOP_SEQUENCE: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "tool_calls",
    FinishReason.CONTENT_FILTER: "content_filter",
    FinishReason.REFUSAL: "content_filter",
    FinishReason.PAUSE: "stop",
    FinishReason.CONTEXT_EXCEEDED: "length",
}
BROKEN_FINISHES = frozenset({"error", "abort"})
"""Finish reasons with which some servers end an aborted answer."""


class PromptDetails(msgspec.Struct):
    """Breakdown of the prompt tokens."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    """Breakdown of the output tokens."""

    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct, gc=False):
    """The usage object of Chat Completions: ``prompt_tokens`` includes the cached ones."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek's name for cached tokens."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: object = None


class _ToolCall(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: object = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    reasoning_content: str | None = None
    reasoning: object = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    created: object = None
    choices: list[_Choice] | None = None
    usage: WireUsage | None = None
    error: object = None


_COMPLETION = msgspec.json.Decoder(_Completion)


def read_usage(usage: WireUsage) -> Usage:
    """The neutral usage, in disjoint parts."""
    prompt, output = token_count(usage.prompt_tokens), token_count(usage.completion_tokens)
    details = usage.prompt_tokens_details
    outputs = usage.completion_tokens_details
    if details is None and outputs is None and not usage.prompt_cache_hit_tokens:
        return Usage(prompt, 0, 0, output)
    cached = token_count(
        (details.cached_tokens if details else None) or usage.prompt_cache_hit_tokens
    )
    written = token_count(details.cache_write_tokens if details else None)
    return Usage(
        input_tokens=max(prompt - cached - written, 0),
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
        reasoning_tokens=token_count(outputs.reasoning_tokens if outputs else None),
    )


def write_usage(usage: Usage) -> dict[str, object]:
    """The usage object of Chat Completions."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def read_finish(word: str, *, called: bool, refused: bool) -> FinishReason:
    """The neutral finish reason; some servers send ``stop`` after tool calls, all send it for refusals."""
    if word in BROKEN_FINISHES:
        raise UpstreamClosed(f"The upstream ended its answer with finish_reason '{word}'.")
    reason = _FINISH.get(word, FinishReason.STOP)
    if reason is FinishReason.STOP:
        if called:
            return FinishReason.TOOL_CALLS
        if refused:
            return FinishReason.REFUSAL
    return reason


def write_finish(reason: FinishReason, *, refused: bool) -> str:
    """Chat's finish reason; a refusal in its own field ends with ``stop``, as the vendor's does."""
    if reason is FinishReason.REFUSAL and refused:
        return "stop"
    return _FINISH_WORD[reason]


class _OutcomeMessage(msgspec.Struct, gc=False):
    refusal: str | None = None
    tool_calls: list[object] | None = None


class _OutcomeChoice(msgspec.Struct, gc=False):
    message: _OutcomeMessage
    finish_reason: str | None = None


_Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]


class _PlausibleUsage(WireUsage, gc=False):
    """Its counts are checked while they are decoded; what fails is left to ``read_answer``."""

    prompt_tokens: _Tokens | None = None
    completion_tokens: _Tokens | None = None


class _Outcome(msgspec.Struct, gc=False):
    choices: Annotated[list[_OutcomeChoice], msgspec.Meta(min_length=1)]
    usage: _PlausibleUsage | None = None
    error: None = None


_STOP = FinishReason.STOP
_OUTCOME = msgspec.json.Decoder(_Outcome)


def read_outcome(body: bytes) -> tuple[Usage, str]:
    """Usage and neutral finish reason of a complete answer, without its text; raises as ``read_answer``."""
    try:
        seen = _OUTCOME.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answer = read_answer(body)  # reports what is wrong, or parses the unusual
        return answer.usage, answer.finish
    choice = seen.choices[0]
    message, finish = choice.message, _STOP
    if choice.finish_reason != "stop" or message.tool_calls or message.refusal:
        finish = read_finish(
            choice.finish_reason or "stop",
            called=bool(message.tool_calls),
            refused=bool(message.refusal),
        )
    usage = seen.usage
    if usage is None:
        return Usage(), finish
    prompt, output = usage.prompt_tokens, usage.completion_tokens
    if (  # as read_usage, inlined for what most servers send
        prompt
        and output is not None
        and usage.prompt_tokens_details is None
        and usage.completion_tokens_details is None
        and not usage.prompt_cache_hit_tokens
    ):
        # Calling the constructor would cost as much as the rest of this function.
        used = object.__new__(Usage)
        used.input_tokens, used.cached_tokens, used.cache_write_tokens = prompt, 0, 0
        used.output_tokens, used.reasoning_tokens = output, 0
        return used, finish
    return read_usage(usage), finish


def read_answer(body: bytes) -> Answer:
    """Parse a complete answer; raises ``UpstreamProtocol``, or ``UpstreamStatus`` for an error body."""
    try:
        completion = _COMPLETION.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UpstreamProtocol("The upstream's answer is not a Chat Completions answer.") from exc
    if completion.error:
        raise read_stream_error(completion.error, body)
    choice = completion.choices[0] if completion.choices else None
    if choice is None or choice.message is None:
        raise UpstreamProtocol("The upstream's answer holds no choice with a message.")
    blocks = _read_blocks(choice.message)
    finish = read_finish(
        choice.finish_reason or "stop",
        called=any(isinstance(block, ToolCallBlock) for block in blocks),
        refused=any(isinstance(block, RefusalBlock) for block in blocks),
    )
    return Answer(
        id=completion.id or "",
        model=completion.model or "",
        blocks=tuple(blocks),
        finish=finish,
        usage=read_usage(completion.usage) if completion.usage else Usage(),
        created_s=read_created(completion.created),
    )


def _read_blocks(message: _Message) -> list[AnswerBlock]:
    blocks: list[AnswerBlock] = []
    reasoning = message.reasoning_content or message.reasoning
    if isinstance(reasoning, str) and reasoning:
        blocks.append(ThinkingBlock(reasoning))
    for thought, text in read_content(message.content):
        blocks.append(ThinkingBlock(text) if thought else TextBlock(text))
    if message.refusal:
        blocks.append(RefusalBlock(message.refusal))
    for index, call in enumerate(message.tool_calls or ()):
        if call.function is None or not call.function.name:
            raise UpstreamProtocol("A tool call in the upstream's answer has no function name.")
        blocks.append(
            ToolCallBlock(
                id=call.id or fallback_call_id(index),
                name=call.function.name,
                arguments=read_arguments(call.function.arguments) or "{}",
            )
        )
    return blocks


def read_created(value: object) -> int:
    """Unix seconds; 0 for a value that is not a number, as some servers send."""
    return int(value) if isinstance(value, int | float) and 0 <= value < _FAR_FUTURE_S else 0


def read_arguments(value: object) -> str:
    """A call's arguments as JSON text; some servers send the object itself."""
    if isinstance(value, str):
        return value
    return "" if value is None else json_text.encode(value).decode()


def read_content(content: object) -> list[tuple[bool, str]]:
    """(is reasoning, text) pairs of content that is a string or, from Mistral, a list of parts."""
    if isinstance(content, str):
        return [(False, content)] if content else []
    if not isinstance(content, list):
        return []
    found: list[tuple[bool, str]] = []
    for part in content:
        if not isinstance(part, dict):
            continue
        if part.get("type") == "thinking":
            found.extend((True, text) for _, text in read_content(part.get("thinking")))
        elif isinstance(part.get("text"), str):
            found.append((False, part["text"]))
    return found


def fallback_call_id(index: int) -> str:
    """An id for a call without one from the server; unique within the answer."""
    return f"call_{index}"


def write_answer(answer: Answer, request: ChatRequest) -> bytes:
    """Serialise a complete answer for the client."""
    message: dict[str, object] = {"role": "assistant", "content": None, "refusal": None}
    calls: list[dict[str, object]] = []
    thinking: list[str] = []
    for block in answer.blocks:
        match block:
            case RefusalBlock(text):
                message["refusal"] = f"{message['refusal'] or ''}{text}"
            case ThinkingBlock(text) if text:
                thinking.append(text)
            case ToolCallBlock(call_id, name, arguments):
                function = {"name": name, "arguments": arguments}
                calls.append({"id": call_id, "type": "function", "function": function})
            case _:
                pass
    text = answer.text
    if text or not (calls or message["refusal"]):
        message["content"] = text
    if thinking:
        message["reasoning_content"] = "\n\n".join(thinking)
    if calls:
        message["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": write_finish(answer.finish, refused=message["refusal"] is not None),
    }
    return json_text.encode(
        {
            "id": answer_id(answer.id, ID_PREFIX),
            "object": "chat.completion",
            "created": created_s(answer.created_s),
            "model": answer.model or request.model,
            "choices": [choice],
            "usage": write_usage(answer.usage),
        }
    )
