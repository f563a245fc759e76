"""Validate Anthropic Messages requests and translate them into the neutral conversation.

One user message may hold tool results and text. The neutral form keeps tool results in separate messages, so
such a message is split into runs, in order; writing joins them again.
"""

from __future__ import annotations

from app.domain.chat import (
    CacheBreakpoint,
    Conversation,
    Dialect,
    DocumentPart,
    ImagePart,
    Json,
    JsonOutput,
    Message,
    Part,
    RedactedThinkingPart,
    Role,
    Sampling,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from app.errors import BadRequest
from app.wire import fields, json_text
from app.wire.fields import objects, refuse_unknown, result_parts, untranslatable

_ROLES = {"user": Role.USER, "assistant": Role.ASSISTANT, "system": Role.SYSTEM}
_CHOICES = {"auto": "auto", "any": "required", "none": "none", "tool": "named"}
_EFFORTS = frozenset({"low", "medium", "high", "xhigh", "max"})
_THINKING = frozenset({"enabled", "disabled", "adaptive", "between_tools"})
_CARRIED = frozenset(
    {
        "model", "messages", "max_tokens", "system", "stop_sequences", "stream", "temperature",
        "top_p", "top_k", "tools", "tool_choice", "metadata", "thinking", "output_config",
        "service_tier", "speed",
    }
)  # fmt: skip
_HINTS = ("cache_control", "diagnostics")
_SOURCES = {
    "base64": {"type", "data", "media_type"},
    "text": {"type", "data", "media_type"},
    "url": {"type", "url"},
    "file": {"type", "file_id"},
}


def check(body: Json) -> None:
    """Raise ``BadRequest`` for a body that no server of this dialect accepts."""
    fields.check_envelope(body)
    messages = fields.as_list(body.get("messages"), "messages")
    if not messages:
        raise BadRequest("'messages' must not be empty.", param="messages")
    if body.get("max_tokens") is None:
        raise BadRequest("'max_tokens' is required.", param="max_tokens")
    fields.optional_int(body, "max_tokens", 0)
    for path, message in objects(messages, "messages"):
        fields.one_of(message.get("role"), _ROLES, f"{path}.role")
        _check_content(message.get("content"), f"{path}.content")
    if body.get("system") is not None:
        _check_content(body.get("system"), "system")
    fields.optional_number(body, "temperature", 0, 1)
    fields.optional_number(body, "top_p", 0, 1)
    fields.optional_int(body, "top_k", 0)
    for index, stop in enumerate(fields.optional_list(body, "stop_sequences")):
        fields.as_text(stop, f"stop_sequences[{index}]")
    _check_tools(body)
    for name in ("metadata", "thinking", "output_config"):
        if body.get(name) is not None:
            fields.as_object(body.get(name), name)


def check_count(body: Json) -> None:
    """As ``check``, for ``count_tokens``, which needs no ``max_tokens``."""
    check({"max_tokens": 1, **body})


def _check_content(content: object, path: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise BadRequest(f"'{path}' must be a string or an array.", param=path)
    for where, block in objects(content, path):
        match fields.text_at(block, "type", where):
            case "text":
                fields.text_at(block, "text", where)
            case "image" | "document":
                source = fields.as_object(block.get("source"), f"{where}.source")
                fields.text_at(source, "type", f"{where}.source")
            case "tool_use":
                for name in ("id", "name"):
                    fields.text_at(block, name, where)
                fields.as_object(block.get("input"), f"{where}.input")
            case "tool_result":
                fields.text_at(block, "tool_use_id", where)
                if block.get("content") is not None:
                    _check_content(block.get("content"), f"{where}.content")
            case _:
                # There are many block types, and new ones: the vendor validates those that pass through.
                pass


def _check_tools(body: Json) -> None:
    for path, tool in objects(fields.optional_list(body, "tools"), "tools"):
        if tool.get("type") in (None, "custom"):
            fields.text_at(tool, "name", path)
            fields.as_object(tool.get("input_schema"), f"{path}.input_schema")
    choice = body.get("tool_choice")
    if choice is not None:
        obj = fields.as_object(choice, "tool_choice")
        if fields.one_of(obj.get("type"), _CHOICES, "tool_choice.type") == "tool":
            fields.text_at(obj, "name", "tool_choice")


def read(body: Json) -> Conversation:
    """Translate a body that passed ``check``; raises ``Unsupported`` for fields without a neutral form."""
    refuse_unknown(body, _CARRIED | {*_HINTS}, "")
    hints = [name for name in _HINTS if body.get(name) is not None]
    speed = fields.optional_text(body, "speed", "")
    if speed == "fast":
        hints.append("speed")
    elif speed not in {"", "standard"}:
        raise untranslatable("speed")
    choice, parallel = _read_tool_choice(body)
    output, effort = _read_output(body)
    tier = fields.optional_text(body, "service_tier", "")
    return Conversation(
        messages=tuple(_read_messages(body, hints)),
        tools=tuple(_read_tools(body, hints)),
        tool_choice=choice,
        parallel_tool_calls=parallel,
        json_output=output,
        sampling=_read_sampling(body, effort, hints),
        user=_read_user(body),
        service_tier="" if tier == "auto" else tier,
        hints=tuple(dict.fromkeys(hints)),
        source=Dialect.MESSAGES,
    )


def _read_user(body: Json) -> str:
    metadata = body.get("metadata")
    if metadata is None:
        return ""
    obj = fields.as_object(metadata, "metadata")
    refuse_unknown(obj, {"user_id"}, "metadata")
    return fields.optional_text(obj, "user_id", "metadata")


def _read_sampling(body: Json, effort: str | None, hints: list[str]) -> Sampling:
    budget: int | None = None
    adaptive = False
    thinking = body.get("thinking")
    if thinking is not None:
        obj = fields.as_object(thinking, "thinking")
        refuse_unknown(obj, {"type", "budget_tokens", "display"}, "thinking")
        if obj.get("display") is not None:
            hints.append("thinking.display")
        match fields.one_of(obj.get("type"), _THINKING, "thinking.type"):
            case "enabled":
                budget = fields.optional_int(obj, "budget_tokens", 1, "thinking")
                if budget is None:
                    raise fields.bad_type("thinking.budget_tokens", int)
            case "disabled":
                budget = 0
            case "adaptive":
                adaptive = True
            case _:
                raise untranslatable("thinking.type")
    return Sampling(
        temperature=fields.optional_number(body, "temperature", 0, 1),
        top_p=fields.optional_number(body, "top_p", 0, 1),
        top_k=fields.optional_int(body, "top_k", 0),
        max_tokens=fields.optional_int(body, "max_tokens", 0),
        stop=tuple(
            fields.as_text(stop, f"stop_sequences[{index}]")
            for index, stop in enumerate(fields.optional_list(body, "stop_sequences"))
        ),
        effort=effort,
        thinking_budget_tokens=budget,
        adaptive_thinking=adaptive,
    )


def _read_output(body: Json) -> tuple[JsonOutput | None, str | None]:
    config = body.get("output_config")
    if config is None:
        return None, None
    obj = fields.as_object(config, "output_config")
    refuse_unknown(obj, {"effort", "format"}, "output_config")
    effort = obj.get("effort")
    word = None if effort is None else fields.one_of(effort, _EFFORTS, "output_config.effort")
    form = obj.get("format")
    if form is None:
        return None, word
    inner = fields.as_object(form, "output_config.format")
    refuse_unknown(inner, {"type", "schema"}, "output_config.format")
    fields.one_of(inner.get("type"), {"json_schema"}, "output_config.format.type")
    schema = fields.as_object(inner.get("schema"), "output_config.format.schema")
    return JsonOutput(schema), word


def _read_tool_choice(body: Json) -> tuple[ToolChoice | None, bool | None]:
    choice = body.get("tool_choice")
    if choice is None:
        return None, None
    obj = fields.as_object(choice, "tool_choice")
    refuse_unknown(obj, {"type", "name", "disable_parallel_tool_use"}, "tool_choice")
    mode = _CHOICES[fields.one_of(obj.get("type"), _CHOICES, "tool_choice.type")]
    disabled = fields.optional_bool(obj, "disable_parallel_tool_use", "tool_choice")
    name = fields.text_at(obj, "name", "tool_choice") if mode == "named" else ""
    return ToolChoice(mode, name), None if disabled is None else not disabled


def _read_tools(body: Json, hints: list[str]) -> list[Tool]:
    tools: list[Tool] = []
    for path, tool in objects(fields.optional_list(body, "tools"), "tools"):
        kind = tool.get("type")
        if kind not in (None, "custom"):
            raise untranslatable(f"{path}.type", why=f"'{kind}' runs on its vendor's side")
        known = {
            "type", "name", "description", "input_schema", "strict", "cache_control",
            "eager_input_streaming", "allowed_callers",
        }  # fmt: skip
        refuse_unknown(tool, known, path)
        if tool.get("allowed_callers") not in (None, [], ["direct"]):
            raise untranslatable(f"{path}.allowed_callers")
        if tool.get("eager_input_streaming"):
            hints.append("tools[].eager_input_streaming")
        tools.append(
            Tool(
                name=fields.text_at(tool, "name", path),
                description=fields.optional_text(tool, "description", path),
                parameters=fields.as_object(tool.get("input_schema"), f"{path}.input_schema"),
                strict=fields.optional_bool(tool, "strict", path),
                cache=_read_mark(tool, path),
            )
        )
    return tools


def _read_messages(body: Json, hints: list[str]) -> list[Message]:
    messages: list[Message] = []
    system = body.get("system")
    if system:
        parts = tuple(_read_content(system, "system", hints))
        messages.append(Message(Role.SYSTEM, parts, origin="system"))
    for path, message in objects(fields.as_list(body.get("messages"), "messages"), "messages"):
        refuse_unknown(message, {"role", "content"}, path)
        role = _ROLES[fields.one_of(message.get("role"), _ROLES, f"{path}.role")]
        parts = tuple(_read_content(message.get("content"), f"{path}.content", hints))
        messages.extend(_runs(role, parts, path))
    return messages


def _runs(role: Role, parts: tuple[Part, ...], path: str) -> list[Message]:
    """Split a message where tool results begin or end; an empty one stays one message."""
    runs: list[Message] = []
    begin = 0
    for index in range(1, len(parts) + 1):
        ended = index == len(parts)
        if ended or isinstance(parts[index], ToolResultPart) != isinstance(
            parts[begin], ToolResultPart
        ):
            run = parts[begin:index]
            run_role = Role.TOOL if isinstance(run[0], ToolResultPart) else role
            runs.append(Message(run_role, run, origin=path))
            begin = index
    return runs or [Message(role, (), origin=path)]


def _read_content(content: object, path: str, hints: list[str]) -> list[Part]:
    if isinstance(content, str):
        return [TextPart(content)]
    blocks = objects(fields.as_list(content, path), path)
    return [_read_block(block, where, hints) for where, block in blocks]


def _read_block(block: Json, path: str, hints: list[str]) -> Part:  # noqa: PLR0911 (one arm a type)
    kind = fields.text_at(block, "type", path)
    mark = _read_mark(block, path)
    match kind:
        case "text":
            refuse_unknown(block, {"type", "text", "cache_control", "citations"}, path)
            if block.get("citations"):
                hints.append("messages[].content[].citations")
            return TextPart(fields.text_at(block, "text", path), mark)
        case "image":
            refuse_unknown(block, {"type", "source", "cache_control"}, path)
            return _read_image(block, mark, path)
        case "document":
            return _read_document(block, mark, path)
        case "tool_use":
            return _read_call(block, mark, path)
        case "tool_result":
            return _read_result(block, mark, path, hints)
        case "thinking":
            refuse_unknown(block, {"type", "thinking", "signature"}, path)
            text = fields.text_at(block, "thinking", path)
            return ThinkingPart(text, fields.optional_text(block, "signature", path))
        case "redacted_thinking":
            refuse_unknown(block, {"type", "data"}, path)
            return RedactedThinkingPart(fields.text_at(block, "data", path))
        case _:
            raise untranslatable(f"{path}.type", why=f"a '{kind}' block has no counterpart")


def _read_mark(block: Json, path: str) -> CacheBreakpoint | None:
    mark = block.get("cache_control")
    if mark is None:
        return None
    where = f"{path}.cache_control"
    obj = fields.as_object(mark, where)
    refuse_unknown(obj, {"type", "ttl"}, where)
    return CacheBreakpoint(fields.optional_text(obj, "ttl", where))


def _source(block: Json, path: str) -> tuple[str, Json]:
    where = f"{path}.source"
    source = fields.as_object(block.get("source"), where)
    kind = fields.text_at(source, "type", where)
    refuse_unknown(source, _SOURCES.get(kind, source), where)
    return kind, source


def _read_image(block: Json, mark: CacheBreakpoint | None, path: str) -> ImagePart:
    kind, source = _source(block, path)
    where = f"{path}.source"
    match kind:
        case "base64":
            data = fields.text_at(source, "data", where)
            return ImagePart(
                data=data, media_type=fields.text_at(source, "media_type", where), cache=mark
            )
        case "url":
            return ImagePart(url=fields.text_at(source, "url", where), cache=mark)
        case _:
            raise untranslatable(f"{where}.type", why=f"a '{kind}' image stays with its vendor")


def _read_document(block: Json, mark: CacheBreakpoint | None, path: str) -> DocumentPart:
    refuse_unknown(block, {"type", "source", "cache_control", "citations", "title"}, path)
    citations = block.get("citations")
    if citations is not None:
        config = fields.as_object(citations, f"{path}.citations")
        refuse_unknown(config, {"enabled"}, f"{path}.citations")
        if config.get("enabled"):
            raise untranslatable(f"{path}.citations")
    title = fields.optional_text(block, "title", path)
    kind, source = _source(block, path)
    where = f"{path}.source"
    match kind:
        case "base64" | "text":
            default = "application/pdf" if kind == "base64" else "text/plain"
            media_type = fields.optional_text(source, "media_type", where) or default
            data = fields.text_at(source, "data", where)
            return DocumentPart(media_type=media_type, data=data, title=title, cache=mark)
        case "url":
            return DocumentPart(url=fields.text_at(source, "url", where), title=title, cache=mark)
        case "file":
            return DocumentPart(
                file_id=fields.text_at(source, "file_id", where), title=title, cache=mark
            )
        case _:
            raise untranslatable(f"{where}.type", why=f"a '{kind}' document has no counterpart")


def _read_call(block: Json, mark: CacheBreakpoint | None, path: str) -> ToolCallPart:
    refuse_unknown(block, {"type", "id", "name", "input", "cache_control", "caller"}, path)
    caller = block.get("caller")
    if caller is not None and caller != {"type": "direct"}:
        raise untranslatable(f"{path}.caller")
    arguments = json_text.encode_text(fields.as_object(block.get("input"), f"{path}.input"))
    return ToolCallPart(
        fields.text_at(block, "id", path), fields.text_at(block, "name", path), arguments, mark
    )


def _read_result(
    block: Json, mark: CacheBreakpoint | None, path: str, hints: list[str]
) -> ToolResultPart:
    refuse_unknown(block, {"type", "tool_use_id", "content", "is_error", "cache_control"}, path)
    content = block.get("content")
    inner = [] if content is None else _read_content(content, f"{path}.content", hints)
    parts = result_parts(inner, f"{path}.content")
    call_id = fields.text_at(block, "tool_use_id", path)
    is_error = fields.optional_bool(block, "is_error", path) or False
    return ToolResultPart(call_id, parts, is_error, mark)
