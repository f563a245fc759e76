"""How each dialect spells the neutral fields, so that a refusal names what the caller wrote."""

from __future__ import annotations

from app.domain.chat import Conversation, Dialect, Message
from app.errors import Unsupported
from app.wire.fields import cannot_carry

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
_SPELLINGS = {Dialect.CHAT: _CHAT, Dialect.MESSAGES: _MESSAGES, Dialect.RESPONSES: _RESPONSES}


def spell(conversation: Conversation, name: str) -> str:
    """The neutral field ``name`` as the caller's dialect spells it."""
    if conversation.source is None:
        return name
    return _SPELLINGS[conversation.source].get(name, name)


def spell_ttl(conversation: Conversation) -> str:
    """How long a mark of the vendor's cache shall last, as the caller's dialect spells it."""
    mark = "cache_control" if conversation.source is Dialect.MESSAGES else "prompt_cache_breakpoint"
    return f"{mark}.ttl"


def refuse(conversation: Conversation, name: str, target: str, why: str = "") -> Unsupported:
    """The error for a neutral field that ``target`` cannot take."""
    return cannot_carry(spell(conversation, name), target, why)


def refuse_choice_without_tools(conversation: Conversation, target: str) -> None:
    """Raise ``Unsupported`` where a tool must be called and there is none."""
    choice = conversation.tool_choice
    if choice is not None and choice.mode in {"required", "named"}:
        raise refuse(conversation, "tool_choice", target, "there are no tools")


def refuse_in(message: Message, field: str, target: str, why: str = "") -> Unsupported:
    """The error for a part of ``message`` that ``target`` cannot take."""
    return cannot_carry(f"{message.origin or 'messages'}.{field}", target, why)
