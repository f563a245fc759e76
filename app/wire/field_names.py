"""Each dialect's names of the neutral fields, so that errors name what the caller sent."""

from __future__ import annotations

from app.domain.chat import Conversation, Dialect, Message
from app.errors import Unsupported
from app.wire.fields import untranslatable

_CHAT = {
    "effort": "reasoning_effort",
    "json_output": "response_format",
    "max_tokens": "max_completion_tokens",
}
_MESSAGES = {
    "effort": "output_config.effort",
    "json_output": "output_config.format",
    "stop": "stop_sequences",
    "user": "metadata.user_id",
    "thinking_budget_tokens": "thinking.budget_tokens",
}
_RESPONSES = {
    "effort": "reasoning.effort",
    "json_output": "text.format",
    "verbosity": "text.verbosity",
    "max_tokens": "max_output_tokens",
    "messages": "input",
}
_FIELD_NAMES = {Dialect.CHAT: _CHAT, Dialect.MESSAGES: _MESSAGES, Dialect.RESPONSES: _RESPONSES}


def field_name(conversation: Conversation, name: str) -> str:
    """The caller's name of the neutral field ``name``."""
    if conversation.source is None:
        return name
    return _FIELD_NAMES[conversation.source].get(name, name)


def cache_ttl_field(conversation: Conversation) -> str:
    """The caller's name of the TTL of a prompt-cache breakpoint."""
    mark = "cache_control" if conversation.source is Dialect.MESSAGES else "prompt_cache_breakpoint"
    return f"{mark}.ttl"


def unsupported_field(
    conversation: Conversation, name: str, target: str, why: str = ""
) -> Unsupported:
    """The error for a neutral field that ``target`` does not support."""
    return untranslatable(field_name(conversation, name), target, why)


def check_tool_choice(conversation: Conversation, target: str) -> None:
    """Raise ``Unsupported`` where a tool call is required and no tools are given."""
    choice = conversation.tool_choice
    if choice is not None and choice.mode in {"required", "named"}:
        raise unsupported_field(conversation, "tool_choice", target, "there are no tools")


def unsupported_part(message: Message, field: str, target: str, why: str = "") -> Unsupported:
    """The error for a part of ``message`` that ``target`` does not support."""
    return untranslatable(f"{message.origin or 'messages'}.{field}", target, why)
