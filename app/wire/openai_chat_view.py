"""The classifier's view of a Chat Completions request: text and counts."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.chat import Json
from app.domain.decisions import PromptView

_IMAGE_TYPES = ("image_url", "input_image", "image")


def view(body: Json) -> PromptView:
    """The classifier's view of a body that passed ``check``; never raises for one."""
    messages = body.get("messages")
    items = (
        [item for item in messages if isinstance(item, Mapping)]
        if isinstance(messages, list)
        else []
    )
    text, turns, total, images = "", 0, 0, False
    systems: list[str] = []
    for message in items:
        message_text = text_of(message.get("content"))
        total += len(message_text)
        images = images or has_images(message.get("content"))
        role = message.get("role")
        if role == "user":
            text = message_text
            turns += 1
        elif role == "assistant":
            turns += 1
        elif role in {"system", "developer"}:
            systems.append(message_text)
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    form = body.get("response_format")
    return PromptView(
        text=text,
        system="\n\n".join(systems),
        turns=max(turns, 1),
        total_chars=total,
        tool_names=tool_names(body.get("tools")) + tool_names(body.get("functions")),
        has_images=images,
        wants_json=isinstance(form, Mapping) and form.get("type") in ("json_object", "json_schema"),
        max_tokens=limit if isinstance(limit, int) else None,
        after_tool_result=bool(items) and items[-1].get("role") == "tool",
    )


def text_of(content: object) -> str:
    """The text of a message's content, parts joined by newlines."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, Mapping))
    return "\n".join(text for text in texts if isinstance(text, str))


def has_images(content: object) -> bool:
    """Say whether a message's content holds an image."""
    return isinstance(content, list) and any(
        isinstance(part, Mapping) and part.get("type") in _IMAGE_TYPES for part in content
    )


def tool_names(tools: object) -> tuple[str, ...]:
    """The names of a request's tools, in any dialect; a built-in tool's type where it has no name."""
    if not isinstance(tools, list):
        return ()
    names: list[str] = []
    for tool in tools:
        if not isinstance(tool, Mapping):
            continue
        own = tool.get("function") or tool.get("custom")
        name = own.get("name") if isinstance(own, Mapping) else tool.get("name", tool.get("type"))
        if isinstance(name, str):
            names.append(name)
    return tuple(names)
