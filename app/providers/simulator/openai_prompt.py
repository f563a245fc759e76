"""What chat and responses share: content parts, tools, reasoning and prompt-cache rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import orjson

from app.providers.simulator.errors import RefusedError
from app.providers.simulator.fields import (
    JsonObject,
    as_list,
    as_object,
    as_text,
    missing,
    optional_object,
    optional_text,
)
from app.providers.simulator.profile import ModelProfile
from app.providers.simulator.prompt_cache import (
    HALF_HOUR_S,
    TWELVE_HOURS_S,
    CacheRules,
    Mark,
    PromptBlock,
)
from app.providers.simulator.question import ChoiceMode, Entry, EntryKind, Role, Tool, ToolChoice
from app.providers.simulator.tokens import IMAGE_TOKENS, count_tokens

REASONING_TOKENS: Mapping[str, int] = {
    "none": 0,
    "minimal": 0,
    "low": 16,
    "medium": 32,
    "high": 64,
    "xhigh": 128,
    "max": 256,
}
"""How many tokens the simulated model thinks at each effort."""
_MOST_WRITES = 4
_LIFETIMES_S = {"30m": HALF_HOUR_S, "12h": TWELVE_HOURS_S}
_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})
_MEDIA_PARTS = {
    "image_url": "image_url",
    "input_image": "image_url",
    "input_audio": "input_audio",
    "file": "file",
    "input_file": "file_data",
}


@dataclass(slots=True)
class Prompt:
    """A prompt under construction: what the model reads, and its blocks for the cache."""

    entries: list[Entry] = field(default_factory=list)
    blocks: list[PromptBlock] = field(default_factory=list)
    explicit_marks: list[int] = field(default_factory=list)
    """Positions of blocks behind which the client put a breakpoint."""
    call_names: dict[str, str] = field(default_factory=dict)
    """Tool names by call id, for the results that follow."""

    def add(self, entry: Entry, *, tokens: int | None = None, has_mark: bool = False) -> None:
        """Append one entry of the conversation, and its block."""
        self.entries.append(entry)
        head = f"{entry.role}\0{entry.kind}\0{entry.name}\0"
        content = (head + entry.text).encode("utf-8", "surrogatepass")
        self.blocks.append(PromptBlock(content, tokens or count_tokens(entry.text)))
        if has_mark:
            self.explicit_marks.append(len(self.blocks) - 1)

    def add_content(self, role: Role, content: object, path: str) -> None:
        """Append a message's content: a string, or a row of parts."""
        if isinstance(content, str):
            self.add(Entry(role, "text", content))
            return
        for index, item in enumerate(as_list(content, path)):
            self._add_part(role, as_object(item, f"{path}[{index}]"), f"{path}[{index}]")

    def add_result(self, call_id: str, output: object, path: str) -> None:
        """Append the result of a tool call that was made before."""
        name = self.call_names[call_id]
        self.add(Entry("user", "tool_result", flat_text(output, path), name))

    def add_call(self, call_id: str, name: str, arguments: str) -> None:
        """Append a call that the assistant made."""
        self.call_names[call_id] = name
        self.add(Entry("assistant", "tool_call", canonical_json(arguments), name))

    def _add_part(self, role: Role, part: JsonObject, path: str) -> None:
        kind = as_text(part.get("type"), f"{path}.type")
        has_mark = part.get("prompt_cache_breakpoint") is not None
        if kind in _TEXT_PARTS:
            name = "refusal" if kind == "refusal" else "text"
            if name not in part:
                raise missing(f"{path}.{name}")
            text = as_text(part[name], f"{path}.{name}")
            self.add(Entry(role, "text", text), has_mark=has_mark)
            return
        if kind not in _MEDIA_PARTS:
            known = ", ".join(sorted({*_TEXT_PARTS, *_MEDIA_PARTS}))
            raise RefusedError(
                f"Invalid value for '{path}.type': '{kind}'; supported are: {known}.",
                param=f"{path}.type",
            )
        media = media_text(part, kind)
        self.add(_media(role, media), tokens=IMAGE_TOKENS, has_mark=has_mark)


def _media(role: Role, text: str) -> Entry:
    kind: EntryKind = "media"
    return Entry(role, kind, text)


def media_text(part: JsonObject, kind: str) -> str:
    """What identifies an image or a file: its URL, or the base64 text of its data."""
    value = part.get(_MEDIA_PARTS[kind]) or part.get("file_id") or part.get("file_url")
    if isinstance(value, Mapping):
        value = value.get("url") or value.get("data") or value.get("file_data") or dict(value)
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text.partition(";base64,")[2] or text


def flat_text(output: object, path: str) -> str:
    """A tool's output as text: a string, or the text of its parts."""
    if isinstance(output, str):
        return output
    parts = [as_object(part, path) for part in as_list(output, path)]
    texts = [p.get("text") for p in parts]
    return " ".join(
        text if isinstance(text, str) else orjson.dumps(part).decode()
        for text, part in zip(texts, parts, strict=True)
    )


def canonical_json(text: str) -> str:
    """JSON text with sorted keys, so that dialects agree; other text as it is."""
    try:
        return orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONDecodeError:
        return text


def read_tool(tool: JsonObject, path: str) -> Tool:
    """A function's name, description and parameters."""
    name = as_text(tool.get("name"), f"{path}.name")
    parameters = optional_object(tool, "parameters")
    return Tool(name, optional_text(tool, "description", f"{path}.description") or "", parameters)


def tool_block(tool: JsonObject) -> PromptBlock:
    """A tool as the prompt's cache sees it: its JSON, keys in the client's order."""
    content = orjson.dumps(tool)
    return PromptBlock(b"tool\0" + content, count_tokens(content))


def read_tool_choice(value: object, tools: Sequence[Tool], *, parallel: bool) -> ToolChoice:
    """`none`, `auto`, `required`, or one function named in either OpenAI dialect's way."""
    if value is None or isinstance(value, str):
        mode = value or "auto"
        if mode not in ("none", "auto", "required"):
            raise RefusedError(f"Invalid value for 'tool_choice': '{mode}'.", param="tool_choice")
        if mode == "required" and not tools:
            raise RefusedError("'tool_choice' is required but no tools are given.", param="tools")
        return ToolChoice(cast("ChoiceMode", mode), "", parallel)
    choice = as_object(value, "tool_choice")
    function = choice.get("function", choice)
    found = as_object(function, "tool_choice.function").get("name")
    name = as_text(found, "tool_choice.name")
    if name not in {tool.name for tool in tools}:
        raise RefusedError(f"Tool choice '{name}' not found in 'tools'.", param="tool_choice")
    return ToolChoice("named", name, parallel)


def read_effort(value: object, path: str) -> int:
    """Reasoning tokens for an effort; absent means none. Raises `RefusedError` when unknown."""
    if value is None:
        return 0
    effort = as_text(value, path)
    if effort not in REASONING_TOKENS:
        known = ", ".join(REASONING_TOKENS)
        raise RefusedError(
            f"Invalid value for '{path}': '{effort}'; supported are: {known}.", param=path
        )
    return REASONING_TOKENS[effort]


def read_format(value: object, path: str) -> JsonObject | None:
    """The schema that an output format asks for; None for plain text, `{}` for any object."""
    if value is None:
        return None
    form = as_object(value, path)
    kind = form.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise RefusedError(f"Invalid value for '{path}.type': '{kind}'.", param=f"{path}.type")
    # Chat nests name and schema under `json_schema`; responses has them beside `type`.
    inner = as_object(form.get("json_schema", form), f"{path}.json_schema")
    as_text(inner.get("name"), f"{path}.name")
    return as_object(inner.get("schema", {}), f"{path}.schema")


def cache_rules(body: JsonObject, prompt: Prompt, profile: ModelProfile) -> CacheRules:
    """Where this request writes its cache: the client's breakpoints, and the implicit ones.

    Raises `RefusedError` for an unknown mode or lifetime.
    """
    options = optional_object(body, "prompt_cache_options")
    mode = options.get("mode", "implicit")
    if mode not in ("implicit", "explicit"):
        raise RefusedError(
            f"Invalid value for 'prompt_cache_options.mode': '{mode}'.",
            param="prompt_cache_options.mode",
        )
    lifetime = options.get("ttl", "30m")
    ttl_s = _LIFETIMES_S.get(lifetime) if isinstance(lifetime, str) else None
    if ttl_s is None:
        raise RefusedError(
            "Invalid value for 'prompt_cache_options.ttl'; supported are: 30m, 12h.",
            param="prompt_cache_options.ttl",
        )
    last = len(prompt.blocks) - 1
    if mode == "explicit":
        positions = set(prompt.explicit_marks[-_MOST_WRITES:])
    elif profile.implicit_cache == "every_block":
        positions = set(range(last + 1))
    else:
        positions = {*prompt.explicit_marks[-(_MOST_WRITES - 1) :], last}
    marks = [Mark(position, ttl_s) for position in sorted(positions)]
    return CacheRules(marks, profile.cache_minimum_tokens)


def cache_scope(body: JsonObject, *names: str) -> str:
    """What else keeps the cache apart: the key, and the options whose change loses it."""
    return orjson.dumps([body.get(name) for name in ("prompt_cache_key", *names)]).decode()
