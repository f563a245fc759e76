"""Parse and serialise complete Anthropic Messages answers, with usage and stop reasons."""

from __future__ import annotations

import msgspec

from app.domain.chat import ChatRequest
from app.domain.events import (
    Answer,
    AnswerBlock,
    FinishReason,
    RedactedThinkingBlock,
    RefusalBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from app.domain.usage import Usage, token_count
from app.errors import UpstreamProtocol
from app.wire import json_text
from app.wire.failures import read_stream_error
from app.wire.identity import answer_id

ID_PREFIX = "msg_"

_FINISH = {
    "end_turn": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "stop_sequence": FinishReason.STOP_SEQUENCE,
    "tool_use": FinishReason.TOOL_CALLS,
    "pause_turn": FinishReason.PAUSE,
    "refusal": FinishReason.REFUSAL,
    "model_context_window_exceeded": FinishReason.CONTEXT_EXCEEDED,
}
_STOP_REASON = {
    FinishReason.STOP: "end_turn",
    FinishReason.STOP_SEQUENCE: "stop_sequence",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.CONTENT_FILTER: "refusal",
    FinishReason.REFUSAL: "refusal",
    FinishReason.PAUSE: "pause_turn",
    FinishReason.CONTEXT_EXCEEDED: "model_context_window_exceeded",
}


class OutputDetails(msgspec.Struct):
    """Breakdown of the output tokens."""

    thinking_tokens: int | None = None


class WireUsage(msgspec.Struct):
    """Messages' usage object: ``input_tokens`` is the uncached remainder."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None


class Block(msgspec.Struct):
    """A content block of any type; of unknown types only ``type`` is kept."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: object = None


class WireMessage(msgspec.Struct):
    """A complete answer, or the message of ``message_start``."""

    id: str | None = None
    model: str | None = None
    type: str | None = None
    content: list[Block] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: object = None
    usage: WireUsage | None = None
    diagnostics: object = None
    error: object = None


_MESSAGE = msgspec.json.Decoder(WireMessage)


def read_usage(usage: WireUsage, before: Usage | None = None) -> Usage:
    """The neutral usage; counts missing from this event are taken from ``before`` (usage is cumulative)."""
    known = before or Usage()
    details = usage.output_tokens_details
    reasoning = details.thinking_tokens if details else None
    return Usage(
        input_tokens=_count_or_before(usage.input_tokens, known.input_tokens),
        cached_tokens=_count_or_before(usage.cache_read_input_tokens, known.cached_tokens),
        cache_write_tokens=_count_or_before(
            usage.cache_creation_input_tokens, known.cache_write_tokens
        ),
        output_tokens=_count_or_before(usage.output_tokens, known.output_tokens),
        reasoning_tokens=_count_or_before(reasoning, known.reasoning_tokens),
    )


def _count_or_before(value: int | None, before: int) -> int:
    return before if value is None else token_count(value)


def write_usage(usage: Usage) -> dict[str, object]:
    """The usage object of Messages."""
    return {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def read_stop_reason(word: str | None) -> FinishReason:
    """The neutral finish reason; an unknown stop reason counts as ``STOP``."""
    return _FINISH.get(word or "end_turn", FinishReason.STOP)


def read_refusal_reason(details: object) -> str:
    """The vendor's explanation of a refusal from ``stop_details``; "" where there is none.

    Callers use it only where the model produced no text: text cut off by a refusal is kept as it is.
    """
    explanation = details.get("explanation") if isinstance(details, dict) else None
    return explanation if isinstance(explanation, str) else ""


def write_stop_reason(reason: FinishReason) -> str:
    """The stop reason of Messages."""
    return _STOP_REASON[reason]


def read_answer(body: bytes) -> Answer:
    """Parse a complete answer; raises ``UpstreamProtocol``, or ``UpstreamStatus`` for an error body."""
    try:
        message = _MESSAGE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UpstreamProtocol("The upstream's answer is not an Anthropic message.") from exc
    if message.error:
        raise read_stream_error(message.error, body)
    if message.content is None:
        raise UpstreamProtocol("The upstream's answer holds no content.")
    blocks = tuple(block for wire in message.content if (block := _read_block(wire)) is not None)
    explanation = read_refusal_reason(message.stop_details)
    if explanation and not any(isinstance(block, TextBlock) for block in blocks):
        blocks = (*blocks, RefusalBlock(explanation))
    return Answer(
        id=message.id or "",
        model=message.model or "",
        blocks=blocks,
        finish=read_stop_reason(message.stop_reason),
        usage=read_usage(message.usage) if message.usage else Usage(),
        stop_sequence=message.stop_sequence,
        diagnostics=message.diagnostics,
    )


def _read_block(block: Block) -> AnswerBlock | None:
    match block.type:
        case "text":
            return TextBlock(block.text or "") if block.text else None
        case "thinking":
            return ThinkingBlock(block.thinking or "", block.signature or "")
        case "redacted_thinking":
            return RedactedThinkingBlock(block.data or "")
        case "tool_use":
            return ToolCallBlock(block.id or "", block.name or "", arguments_of(block))
        case _:
            # Blocks of vendor-side tools only answer requests that are never translated.
            return None


def arguments_of(block: Block) -> str:
    """A ``tool_use`` block's input as JSON text."""
    return json_text.encode(block.input).decode() if isinstance(block.input, dict) else "{}"


def write_answer(answer: Answer, request: ChatRequest) -> bytes:
    """Serialise a complete answer for the client."""
    return json_text.encode(
        {
            "id": answer_id(answer.id, ID_PREFIX),
            "type": "message",
            "role": "assistant",
            "model": answer.model or request.model,
            "content": [_write_block(block) for block in answer.blocks],
            "stop_reason": write_stop_reason(answer.finish),
            "stop_sequence": answer.stop_sequence,
            "usage": write_usage(answer.usage),
        }
    )


def _write_block(block: AnswerBlock) -> dict[str, object]:
    match block:
        case TextBlock(text) | RefusalBlock(text):
            return {"type": "text", "text": text}
        case ThinkingBlock(text, signature):
            return {"type": "thinking", "thinking": text, "signature": signature}
        case RedactedThinkingBlock(data):
            return {"type": "redacted_thinking", "data": data}
        case ToolCallBlock(call_id, name, arguments):
            return {
                "type": "tool_use",
                "id": call_id,
                "name": name,
                "input": input_of(arguments, name),
            }


def input_of(arguments: str, name: str) -> dict[str, object]:
    """A call's arguments as the object that this dialect demands; raises ``UpstreamProtocol``."""
    value = json_text.decode_arguments(arguments)
    if value is None:
        raise UpstreamProtocol(
            f"The model called '{name}' with arguments that are not a JSON object, "
            "which the Messages API cannot carry."
        )
    return value
