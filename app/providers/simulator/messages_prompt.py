"""Reading `POST /v1/messages`: the conversation, its blocks in render order, and the breakpoints.

Render order is tools, system, messages. The options whose change loses part of a real prompt cache
are put into the first block that they touch: `speed` into the first after the tools, `tool_choice`
and `thinking` into the first of the messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from app.providers.simulator.errors import RefusedError
from app.providers.simulator.fields import (
    JsonObject,
    as_list,
    as_object,
    as_text,
    missing,
    optional_list,
    required,
)
from app.providers.simulator.openai_prompt import canonical_json
from app.providers.simulator.prompt_cache import FIVE_MINUTES_S, ONE_HOUR_S, Mark, PromptBlock
from app.providers.simulator.question import Entry, Role, Tool
from app.providers.simulator.tokens import IMAGE_TOKENS, count_tokens

LOOK_BACK = 20
_MOST_MARKS = 4
_LIFETIMES_S = {"5m": FIVE_MINUTES_S, "1h": ONE_HOUR_S}
_UNMARKABLE = frozenset({"thinking", "redacted_thinking"})
_MEDIA = frozenset({"image", "document"})


@dataclass(slots=True)
class MessagesPrompt:
    """A prompt under construction."""

    entries: list[Entry] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    blocks: list[PromptBlock] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    call_names: dict[str, str] = field(default_factory=dict)
    salt: bytes = b""
    """Put before the next block's content, once."""
    last_markable: int = -1
    """Where top-level, automatic cache control would put its breakpoint."""

    def add_block(self, block: JsonObject, head: str, tokens: int, path: str) -> None:
        """Append a block to the cache's row, and its breakpoint if it has one."""
        bare = {key: value for key, value in block.items() if key != "cache_control"}
        content = self.salt + head.encode() + b"\0" + orjson.dumps(bare)
        self.salt = b""
        self.blocks.append(PromptBlock(content, tokens))
        position = len(self.blocks) - 1
        if block.get("type") not in _UNMARKABLE:
            self.last_markable = position
        if block.get("cache_control") is not None:
            if block.get("type") in _UNMARKABLE:
                raise RefusedError(f"{path}.cache_control: Extra inputs are not permitted")
            ttl_s = read_lifetime(block["cache_control"], f"{path}.cache_control")
            self.marks.append(Mark(position, ttl_s))


def read_lifetime(value: object, path: str) -> int:
    """The lifetime in seconds of a `cache_control`. Raises `RefusedError`."""
    control = as_object(value, path)
    if control.get("type") != "ephemeral":
        raise RefusedError(f"{path}.type: Input should be 'ephemeral'", param=path)
    lifetime = control.get("ttl", "5m")
    if not isinstance(lifetime, str) or lifetime not in _LIFETIMES_S:
        raise RefusedError(f"{path}.ttl: Input should be '5m' or '1h'", param=path)
    return _LIFETIMES_S[lifetime]


def read_prompt(body: JsonObject) -> MessagesPrompt:
    """Read tools, system and messages, in this order. Raises `RefusedError`."""
    prompt = MessagesPrompt()
    for index, item in enumerate(optional_list(body, "tools")):
        _read_tool(prompt, as_object(item, f"tools.{index}"), f"tools.{index}")
    prompt.salt = orjson.dumps(body.get("speed"))
    system = body.get("system")
    if system is not None:
        _read_content(prompt, "system", system, "system")
    prompt.salt += orjson.dumps([body.get("tool_choice"), body.get("thinking")])
    _read_messages(prompt, as_list(required(body, "messages"), "messages"))
    _read_automatic_mark(prompt, body)
    _check_marks(prompt.marks)
    return prompt


def _read_tool(prompt: MessagesPrompt, tool: JsonObject, path: str) -> None:
    kind = tool.get("type")
    if kind not in (None, "custom"):
        raise RefusedError(f"{path}.type: the simulator knows client tools only, not '{kind}'")
    if "input_schema" not in tool:
        raise missing(f"{path}.input_schema")
    name = as_text(tool.get("name"), f"{path}.name")
    schema = as_object(tool["input_schema"], f"{path}.input_schema")
    description = tool.get("description")
    text = as_text(description, f"{path}.description") if description is not None else ""
    prompt.tools.append(Tool(name, text, schema))
    bare = {key: value for key, value in tool.items() if key != "cache_control"}
    prompt.add_block(tool, "tool", count_tokens(orjson.dumps(bare)), path)


def _read_messages(prompt: MessagesPrompt, items: Sequence[object]) -> None:
    if not items:
        raise RefusedError("messages: at least one message is required", param="messages")
    waiting: set[str] = set()
    for index, item in enumerate(items):
        path = f"messages.{index}"
        message = as_object(item, path)
        role = as_text(message.get("role"), f"{path}.role")
        if role not in ("user", "assistant", "system"):
            raise RefusedError(
                f"{path}.role: Input should be 'user', 'assistant' or 'system'", param=path
            )
        if "content" not in message:
            raise missing(f"{path}.content")
        known: Role = "user" if role == "user" else "assistant" if role != "system" else "system"
        blocks = _read_content(prompt, known, message["content"], f"{path}.content")
        waiting = _check_pairs(blocks, waiting, path, is_assistant=role == "assistant")
    if waiting:
        _refuse_waiting(waiting, f"messages.{len(items) - 1}")


def _check_pairs(
    blocks: Sequence[JsonObject], waiting: set[str], path: str, *, is_assistant: bool
) -> set[str]:
    """Check that each tool_use is answered by the next message; gives the ids now waiting."""
    answered = {str(b.get("tool_use_id")) for b in blocks if b.get("type") == "tool_result"}
    unknown = answered - waiting
    if unknown:
        raise RefusedError(
            f"{path}.content: unexpected `tool_use_id` found in `tool_result` blocks: "
            f"{', '.join(sorted(unknown))}. Each `tool_result` block must have a corresponding "
            "`tool_use` block in the previous message.",
            param=path,
        )
    if waiting - answered:
        _refuse_waiting(waiting - answered, path)
    if not is_assistant:
        return set()
    return {str(b.get("id")) for b in blocks if b.get("type") == "tool_use"}


def _refuse_waiting(waiting: set[str], path: str) -> None:
    raise RefusedError(
        f"{path}: `tool_use` ids were found without `tool_result` blocks immediately after: "
        f"{', '.join(sorted(waiting))}.",
        param=path,
    )


def _read_content(
    prompt: MessagesPrompt, role: Role, content: object, path: str
) -> list[JsonObject]:
    """Read a string or a row of blocks; gives the blocks."""
    if isinstance(content, str):
        blocks: list[JsonObject] = [{"type": "text", "text": content}]
    else:
        rows = as_list(content, path)
        blocks = [as_object(item, f"{path}.{index}") for index, item in enumerate(rows)]
    for index, block in enumerate(blocks):
        _read_block(prompt, role, block, f"{path}.{index}")
    return blocks


def _read_block(prompt: MessagesPrompt, role: Role, block: JsonObject, path: str) -> None:
    kind = as_text(block.get("type"), f"{path}.type")
    tokens = 0
    if kind == "text":
        text = as_text(block.get("text"), f"{path}.text")
        if block.get("cache_control") is not None and not text:
            raise RefusedError(f"{path}: cache_control cannot be set for empty text blocks")
        prompt.entries.append(Entry(role, "text", text))
        tokens = count_tokens(text)
    elif kind in _MEDIA:
        prompt.entries.append(Entry(role, "media", _media_text(block, path)))
        tokens = IMAGE_TOKENS
    elif kind == "tool_use":
        tokens = _read_call(prompt, block, path)
    elif kind == "tool_result":
        tokens = _read_result(prompt, block, path)
    elif kind == "thinking":
        tokens = count_tokens(as_text(block.get("thinking"), f"{path}.thinking"))
        as_text(block.get("signature"), f"{path}.signature")
    elif kind == "redacted_thinking":
        tokens = count_tokens(as_text(block.get("data"), f"{path}.data"))
    else:
        raise RefusedError(
            f"{path}.type: Input tag '{kind}' does not match any of the expected tags: 'document', "
            "'image', 'redacted_thinking', 'text', 'thinking', 'tool_result', 'tool_use'",
            param=path,
        )
    prompt.add_block(block, role, tokens, path)


def _read_call(prompt: MessagesPrompt, block: JsonObject, path: str) -> int:
    call_id = as_text(block.get("id"), f"{path}.id")
    name = as_text(block.get("name"), f"{path}.name")
    arguments = orjson.dumps(as_object(block.get("input"), f"{path}.input")).decode()
    prompt.call_names[call_id] = name
    prompt.entries.append(Entry("assistant", "tool_call", canonical_json(arguments), name))
    return count_tokens(arguments)


def _read_result(prompt: MessagesPrompt, block: JsonObject, path: str) -> int:
    call_id = as_text(block.get("tool_use_id"), f"{path}.tool_use_id")
    content = block.get("content", "")
    text = content if isinstance(content, str) else _result_text(content, f"{path}.content")
    name = prompt.call_names.get(call_id, "")
    prompt.entries.append(Entry("user", "tool_result", text, name))
    return count_tokens(text)


def _result_text(content: object, path: str) -> str:
    texts: list[str] = []
    for index, item in enumerate(as_list(content, path)):
        block = as_object(item, f"{path}.{index}")
        text = block.get("text")
        texts.append(text if isinstance(text, str) else _media_text(block, f"{path}.{index}"))
    return " ".join(texts)


def _media_text(block: JsonObject, path: str) -> str:
    """What identifies an image or a document: its base64 data, text, URL or file id."""
    source = as_object(block.get("source"), f"{path}.source")
    for name in ("data", "url", "file_id"):
        value = source.get(name)
        if isinstance(value, str):
            return value
    return orjson.dumps(source).decode()


def _read_automatic_mark(prompt: MessagesPrompt, body: JsonObject) -> None:
    """Top-level `cache_control` marks the last block that can be marked."""
    if body.get("cache_control") is None:
        return
    ttl_s = read_lifetime(body["cache_control"], "cache_control")
    for mark in prompt.marks:
        if mark.position == prompt.last_markable:
            if mark.ttl_s != ttl_s:
                raise RefusedError(
                    "cache_control: the last block has a `cache_control` with another `ttl`",
                    param="cache_control",
                )
            return
    prompt.marks.append(Mark(prompt.last_markable, ttl_s))
    prompt.marks.sort(key=lambda mark: mark.position)


def _check_marks(marks: Sequence[Mark]) -> None:
    if len(marks) > _MOST_MARKS:
        raise RefusedError(
            f"A maximum of {_MOST_MARKS} blocks with cache_control may be provided. "
            f"Found {len(marks)}.",
            param="cache_control",
        )
    lifetimes = [mark.ttl_s for mark in marks]
    if lifetimes != sorted(lifetimes, reverse=True):
        raise RefusedError(
            "A `cache_control` block with ttl '1h' must not come after one with ttl '5m' (blocks "
            "are processed in the order `tools`, `system`, `messages`).",
            param="cache_control",
        )
