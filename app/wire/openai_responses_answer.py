"""Parse and serialise complete Responses answers, with usage and status."""

from __future__ import annotations

import msgspec

from app.domain.chat import ChatRequest, Json
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
from app.wire.identity import answer_id, created_s
from app.wire.reasoning_seal import open_seal, seal_redacted, seal_signature

ID_PREFIX = "resp_"

_ECHOED = (
    "instructions", "max_output_tokens", "metadata", "previous_response_id", "reasoning", "service_tier",
    "store", "temperature", "text", "top_p", "truncation", "user", "prompt_cache_key", "safety_identifier",
)  # fmt: skip
_INCOMPLETE = {
    FinishReason.LENGTH: "max_output_tokens",
    FinishReason.CONTEXT_EXCEEDED: "max_output_tokens",
    FinishReason.CONTENT_FILTER: "content_filter",
}

Item = dict[str, object]


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct):
    """The usage object of Responses: ``input_tokens`` includes the cached ones."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class Piece(msgspec.Struct):
    """A content part or summary part of any type."""

    type: str | None = None
    text: str | None = None
    refusal: str | None = None


class WireItem(msgspec.Struct):
    """An output item of any type; of unknown types only ``type`` is kept."""

    type: str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    content: list[Piece] | None = None
    summary: list[Piece] | None = None
    encrypted_content: str | None = None


class _IncompleteDetails(msgspec.Struct):
    reason: str | None = None


class WireResponse(msgspec.Struct):
    """The response object."""

    id: str | None = None
    model: str | None = None
    created_at: float | None = None
    status: str | None = None
    output: list[WireItem] | None = None
    usage: WireUsage | None = None
    incomplete_details: _IncompleteDetails | None = None
    prompt_cache_diagnostics: object = None
    error: object = None


_RESPONSE = msgspec.json.Decoder(WireResponse)


def read_usage(usage: WireUsage) -> Usage:
    """The neutral usage, in disjoint parts."""
    inputs, outputs = usage.input_tokens_details, usage.output_tokens_details
    cached = token_count(inputs.cached_tokens if inputs else None)
    written = token_count(inputs.cache_write_tokens if inputs else None)
    return Usage(
        input_tokens=max(token_count(usage.input_tokens) - cached - written, 0),
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=token_count(usage.output_tokens),
        reasoning_tokens=token_count(outputs.reasoning_tokens if outputs else None),
    )


def write_usage(usage: Usage) -> Item:
    """The usage object of Responses."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def read_status(response: WireResponse, *, called: bool, refused: bool) -> FinishReason:
    """The neutral finish reason."""
    if response.status == "incomplete":
        details = response.incomplete_details
        if details is not None and details.reason == "content_filter":
            return FinishReason.CONTENT_FILTER
        return FinishReason.LENGTH
    if called:
        return FinishReason.TOOL_CALLS
    return FinishReason.REFUSAL if refused else FinishReason.STOP


def read_answer(body: bytes) -> Answer:
    """Parse a complete answer; raises ``UpstreamProtocol``, or ``UpstreamStatus`` for a failed response."""
    try:
        response = _RESPONSE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UpstreamProtocol("The upstream's answer is not a Responses answer.") from exc
    if response.error or response.status == "failed":
        raise read_stream_error(response.error, body)
    if response.output is None:
        raise UpstreamProtocol("The upstream's answer holds no output.")
    blocks = [block for item in response.output for block in read_item(item)]
    return Answer(
        id=response.id or "",
        model=response.model or "",
        blocks=tuple(blocks),
        finish=read_status(
            response,
            called=any(isinstance(block, ToolCallBlock) for block in blocks),
            refused=any(isinstance(block, RefusalBlock) for block in blocks),
        ),
        usage=read_usage(response.usage) if response.usage else Usage(),
        created_s=int(response.created_at or 0),
        diagnostics=response.prompt_cache_diagnostics,
    )


def read_item(item: WireItem) -> list[AnswerBlock]:
    """The neutral blocks of an output item; none for types that translated requests cannot ask for."""
    match item.type:
        case "message":
            blocks: list[AnswerBlock] = []
            for piece in item.content or ():
                if piece.type == "refusal":
                    blocks.append(RefusalBlock(piece.refusal or ""))
                elif piece.text:
                    blocks.append(TextBlock(piece.text))
            return blocks
        case "function_call":
            arguments = item.arguments or "{}"
            return [ToolCallBlock(item.call_id or item.id or "", item.name or "", arguments)]
        case "reasoning":
            signature, redacted = open_seal(item.encrypted_content)
            if redacted:
                return [RedactedThinkingBlock(redacted)]
            pieces = [*(item.summary or ()), *(item.content or ())]
            return [ThinkingBlock("\n\n".join(piece.text or "" for piece in pieces), signature)]
        case _:
            return []


def write_answer(answer: Answer, request: ChatRequest) -> bytes:
    """Serialise a complete answer for the client."""
    identity = answer_id(answer.id, ID_PREFIX)
    response = begin_response(request, identity, answer.model, created_s(answer.created_s))
    response["output"] = write_items(answer.blocks, identity)
    finish_response(response, answer.finish, answer.usage)
    return json_text.encode(response)


def begin_response(request: ChatRequest, identity: str, model: str, created: int) -> Item:
    """The response object before its first item, with the request's settings echoed."""
    body = request.body
    response: Item = {
        "id": identity,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": model or request.model,
        "output": [],
        "parallel_tool_calls": _echo(body, "parallel_tool_calls", default=True),
        "tool_choice": _echo(body, "tool_choice", default="auto"),
        "tools": _echo(body, "tools", default=[]),
        "usage": None,
    }
    for name in _ECHOED:
        if body.get(name) is not None:
            response[name] = body[name]
    return response


def _echo(body: Json, name: str, *, default: object) -> object:
    value = body.get(name)
    return default if value is None else value


def finish_response(response: Item, finish: FinishReason, usage: Usage) -> None:
    """Set status, incomplete reason and usage."""
    reason = _INCOMPLETE.get(finish)
    if finish is FinishReason.REFUSAL and not _holds_refusal(response["output"]):
        # Anthropic signals a refusal by the stop reason alone.
        reason = "content_filter"
    response["status"] = "completed" if reason is None else "incomplete"
    response["incomplete_details"] = None if reason is None else {"reason": reason}
    response["usage"] = write_usage(usage)


def _holds_refusal(output: object) -> bool:
    if not isinstance(output, list):
        return False
    return any(
        part.get("type") == "refusal" for item in output for part in item.get("content") or ()
    )


def write_items(blocks: tuple[AnswerBlock, ...], identity: str) -> list[Item]:
    """The output items; adjacent text and refusals share one message."""
    items: list[Item] = []
    for block in blocks:
        number = len(items)
        match block:
            case TextBlock(text):
                _message_content(items, identity).append(text_part(text))
            case RefusalBlock(text):
                _message_content(items, identity).append({"type": "refusal", "refusal": text})
            case ThinkingBlock(text, signature):
                sealed = seal_signature(signature)
                items.append(reasoning_item(item_id("rs", identity, number), text, sealed))
            case RedactedThinkingBlock(data):
                sealed = seal_redacted(data)
                items.append(reasoning_item(item_id("rs", identity, number), "", sealed))
            case ToolCallBlock(call_id, name, arguments):
                made = item_id("fc", identity, number)
                items.append(call_item(made, call_id, name, arguments))
    return items


def _message_content(items: list[Item], identity: str) -> list[Item]:
    if not items or items[-1]["type"] != "message":
        items.append(message_item(item_id("msg", identity, len(items)), []))
    content = items[-1]["content"]
    return content if isinstance(content, list) else []


def item_id(prefix: str, identity: str, number: int) -> str:
    """An item's id: unique within the response whose id is ``identity``."""
    return f"{prefix}_{identity.removeprefix(ID_PREFIX)}_{number}"


def text_part(text: str) -> Item:
    """An ``output_text`` part."""
    return {"type": "output_text", "text": text, "annotations": []}


def message_item(identity: str, content: list[Item], status: str = "completed") -> Item:
    """A message item."""
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def reasoning_item(identity: str, text: str, encrypted_content: str | None) -> Item:
    """A reasoning item."""
    item: Item = {
        "id": identity,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text}] if text else [],
    }
    if encrypted_content is not None:
        item["encrypted_content"] = encrypted_content
    return item


def call_item(
    identity: str, call_id: str, name: str, arguments: str, status: str = "completed"
) -> Item:
    """A function call item."""
    return {
        "id": identity,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }
