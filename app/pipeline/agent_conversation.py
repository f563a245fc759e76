"""The conversation as its model has read it, in the form that speculation is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from app.domain.chat import Json, Message, Role, TextPart, ToolCallPart, ToolResultPart
from app.learn.argument_sources import ConversationState, PastCall

_MOST_RESULT_CHARS = 16_384


def conversation_state(messages: Sequence[Message], made: Sequence[PastCall]) -> ConversationState:
    """The conversation so far, with the calls that this run has ``made``."""
    said: list[str] = []
    calls: list[tuple[int, ToolCallPart]] = []
    results: dict[str, object] = {}
    for message in messages:
        texts = [part.text for part in message.parts if isinstance(part, TextPart)]
        if message.role is Role.USER and texts:
            said.append("\n".join(texts))
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                calls.append((len(said), part))
            elif isinstance(part, ToolResultPart):
                found = "\n".join(each.text for each in part.parts if isinstance(each, TextPart))
                results[part.call_id] = parse_result(found)
    told = [
        (turn, PastCall(part.name, parse_arguments(part.arguments), results.get(part.id)))
        for turn, part in calls
    ]
    return ConversationState(
        said[-1] if said else "",
        tuple(said[:-1]),
        tuple(call for turn, call in told if turn < len(said)),
        (*(call for turn, call in told if turn >= len(said)), *made),
    )


def parse_result(text: str) -> object:
    """A result as JSON where it is, else as text."""
    if len(text) > _MOST_RESULT_CHARS:
        return None
    try:
        found: object = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return found


def parse_arguments(text: str) -> Json:
    """A call's arguments; none where they are no JSON object."""
    found = parse_result(text) if text else None
    return found if isinstance(found, Mapping) else {}
