"""The classifier's view of a Messages request: text and counts."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.chat import Json
from app.domain.decisions import PromptView
from app.wire.openai_chat_view import has_images, text_of, tool_names


def view(body: Json) -> PromptView:
    """The classifier's view of a body that passed ``check``; never raises for one."""
    messages = body.get("messages")
    items = (
        [item for item in messages if isinstance(item, Mapping)]
        if isinstance(messages, list)
        else []
    )
    system = text_of(body.get("system"))
    text, turns, total, images, after_result = "", 0, len(system), False, False
    for message in items:
        content = message.get("content")
        message_text = text_of(content)
        total += len(message_text)
        images = images or has_images(content)
        after_result = _has_results(content)
        role = message.get("role")
        if role == "system":
            system = f"{system}\n\n{message_text}" if system else message_text
            continue
        # A message that only returns tool results is not a user turn.
        if role == "user" and (message_text or not after_result):
            text = message_text
            turns += 1
        elif role == "assistant":
            turns += 1
    limit = body.get("max_tokens")
    config = body.get("output_config")
    return PromptView(
        text=text,
        system=system,
        turns=max(turns, 1),
        total_chars=total,
        tool_names=tool_names(body.get("tools")),
        has_images=images,
        wants_json=isinstance(config, Mapping) and config.get("format") is not None,
        max_tokens=limit if isinstance(limit, int) else None,
        after_tool_result=after_result,
    )


def _has_results(content: object) -> bool:
    return isinstance(content, list) and any(
        isinstance(block, Mapping) and block.get("type") == "tool_result" for block in content
    )
