"""Validate Chat Completions requests and translate them into the neutral conversation."""

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
    RefusalPart,
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
from app.wire import fields
from app.wire.data_url import read_data_url
from app.wire.fields import objects, refuse_unknown, result_parts, untranslatable

ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
}
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
VERBOSITIES = frozenset({"low", "medium", "high"})
_CHECKED_PARTS = frozenset({"text", "image_url", "input_audio", "file", "refusal"})
# Accepted by compatible servers beside OpenAI's own types; passed through unvalidated.
_FOREIGN_PARTS = frozenset({"video_url", "audio_url", "video", "image", "document_url", "thinking"})
_PART_TYPES = _CHECKED_PARTS | _FOREIGN_PARTS
_FORMATS = frozenset({"text", "json_object", "json_schema"})
_CARRIED = frozenset(
    {
        "model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens",
        "max_completion_tokens", "stop", "seed", "frequency_penalty", "presence_penalty",
        "reasoning_effort", "verbosity", "tools", "tool_choice", "parallel_tool_calls",
        "response_format", "user", "metadata", "service_tier", "safety_identifier", "n", "modalities",
    }
)  # fmt: skip
_HINTS = ("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options")
_MAX_STOPS = 4


def check(body: Json) -> None:
    """Raise ``BadRequest`` for a body that no server of this dialect accepts."""
    fields.check_envelope(body)
    messages = body.get("messages")
    if not fields.as_list(messages, "messages"):
        raise BadRequest("'messages' must not be empty.", param="messages")
    for path, message in objects(fields.as_list(messages, "messages"), "messages"):
        _check_message(message, path)
    _check_numbers(body)
    _check_tools(body)
    stop = body.get("stop")
    if stop is not None and not isinstance(stop, str):
        stops = fields.as_list(stop, "stop")
        for index, item in enumerate(stops):
            fields.as_text(item, f"stop[{index}]")
    options = body.get("stream_options")
    if options is not None:
        fields.optional_bool(
            fields.as_object(options, "stream_options"), "include_usage", "stream_options"
        )
    response_format = body.get("response_format")
    if response_format is not None:
        _check_format(fields.as_object(response_format, "response_format"))


def _check_message(message: Json, path: str) -> None:
    role = fields.one_of(message.get("role"), {*ROLES, "function"}, f"{path}.role")
    content = message.get("content")
    if content is None:
        if role not in {"assistant", "function"}:
            raise BadRequest(f"'{path}.content' is required.", param=f"{path}.content")
    elif not isinstance(content, str):
        if not isinstance(content, list):
            raise BadRequest(
                f"'{path}.content' must be a string or an array.", param=f"{path}.content"
            )
        for where, part in objects(content, f"{path}.content"):
            _check_part(part, where)
    if role == "tool":
        fields.text_at(message, "tool_call_id", path)
    for where, call in objects(
        fields.optional_list(message, "tool_calls", path), f"{path}.tool_calls"
    ):
        fields.text_at(call, "id", where)
        if call.get("type", "function") == "function":
            function = fields.as_object(call.get("function"), f"{where}.function")
            fields.text_at(function, "name", f"{where}.function")
            fields.text_at(function, "arguments", f"{where}.function")


def _check_part(part: Json, path: str) -> None:
    kind = fields.one_of(part.get("type"), _PART_TYPES, f"{path}.type")
    if kind in {"text", "refusal"}:
        fields.text_at(part, kind, path)
    elif kind == "image_url":
        image = fields.as_object(part.get("image_url"), f"{path}.image_url")
        fields.text_at(image, "url", f"{path}.image_url")
    elif kind in _CHECKED_PARTS:
        fields.as_object(part.get(kind), f"{path}.{kind}")


def _check_numbers(body: Json) -> None:
    fields.optional_number(body, "temperature", 0, 2)
    fields.optional_number(body, "top_p", 0, 1)
    fields.optional_number(body, "frequency_penalty", -2, 2)
    fields.optional_number(body, "presence_penalty", -2, 2)
    fields.optional_int(body, "max_tokens", 1)
    fields.optional_int(body, "max_completion_tokens", 1)
    fields.optional_int(body, "n", 1)
    if body.get("seed") is not None:
        fields.optional_int(body, "seed", -(2**63))


def _check_tools(body: Json) -> None:
    for path, tool in objects(fields.optional_list(body, "tools"), "tools"):
        if fields.text_at(tool, "type", path) == "function":
            function = fields.as_object(tool.get("function"), f"{path}.function")
            fields.text_at(function, "name", f"{path}.function")
            parameters = function.get("parameters")
            if parameters is not None:
                fields.as_object(parameters, f"{path}.function.parameters")
    choice = body.get("tool_choice")
    if isinstance(choice, str):
        fields.one_of(choice, {"auto", "none", "required"}, "tool_choice")
    elif choice is not None:
        fields.text_at(fields.as_object(choice, "tool_choice"), "type", "tool_choice")
    fields.optional_bool(body, "parallel_tool_calls")


def _check_format(form: Json) -> None:
    if fields.one_of(form.get("type"), _FORMATS, "response_format.type") == "json_schema":
        inner = fields.as_object(form.get("json_schema"), "response_format.json_schema")
        schema = inner.get("schema")
        if schema is not None:
            fields.as_object(schema, "response_format.json_schema.schema")


def read(body: Json) -> Conversation:
    """Translate a body that passed ``check``; raises ``Unsupported`` for fields without a neutral form."""
    refuse_unknown(body, _CARRIED | {*_HINTS, "store"}, "")
    if body.get("n") not in (None, 1):
        raise untranslatable("n", why="one answer a request")
    if body.get("modalities") not in (None, [], ["text"]):
        raise untranslatable("modalities")
    if body.get("store"):
        raise untranslatable("store")
    if body.get("web_search_options") is not None:  # an empty object asks for a search as well
        raise untranslatable("web_search_options")
    hints = [name for name in (*_HINTS, "store") if body.get(name) is not None]
    read_stream_options(body, hints)
    user = fields.optional_text(body, "user", "")
    safety_identifier = fields.optional_text(body, "safety_identifier", "")
    if safety_identifier:
        # Both name the end user; the newer field wins and the other is only a label.
        if user and user != safety_identifier:
            hints.append("user")
        user = safety_identifier
    metadata = body.get("metadata")
    tier = fields.optional_text(body, "service_tier", "")
    return Conversation(
        messages=_read_messages(body, hints),
        tools=tuple(_read_tools(body)),
        tool_choice=_read_tool_choice(body),
        parallel_tool_calls=fields.optional_bool(body, "parallel_tool_calls"),
        json_output=_read_format(body),
        sampling=_read_sampling(body),
        user=user,
        metadata=None if not metadata else fields.as_object(metadata, "metadata"),
        service_tier="" if tier == "auto" else tier,
        hints=tuple(dict.fromkeys(hints)),
        source=Dialect.CHAT,
    )


def _read_messages(body: Json, hints: list[str]) -> tuple[Message, ...]:
    messages: list[Message] = []
    for path, message in objects(fields.as_list(body.get("messages"), "messages"), "messages"):
        role = ROLES.get(fields.text_at(message, "role", path))
        if role is None:
            raise untranslatable(
                f"{path}.role", why="function messages are replaced by tool messages"
            )
        if role is Role.TOOL:
            result = _read_tool_result(message, path, hints)
            last = messages[-1] if messages else None
            if last is not None and last.role is Role.TOOL:
                messages[-1] = Message(Role.TOOL, (*last.parts, result), origin=last.origin)
            else:
                messages.append(Message(Role.TOOL, (result,), origin=path))
            continue
        parts = tuple(_read_parts(message, path, hints))
        messages.append(
            Message(role, parts, fields.optional_text(message, "name", path), origin=path)
        )
    return tuple(messages)


def _read_parts(message: Json, path: str, hints: list[str]) -> list[Part]:
    known = {"role", "content", "name"}
    if message.get("role") == "assistant":
        known |= {"refusal", "tool_calls", "reasoning_content", "reasoning", "annotations"}
        if message.get("annotations"):
            hints.append("messages[].annotations")
    refuse_unknown(message, known, path)
    parts: list[Part] = []
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str) and reasoning:
        parts.append(ThinkingPart(reasoning))
    parts.extend(_read_content(message.get("content"), f"{path}.content", hints))
    refusal = fields.optional_text(message, "refusal", path)
    if refusal:
        parts.append(RefusalPart(refusal))
    for where, call in objects(
        fields.optional_list(message, "tool_calls", path), f"{path}.tool_calls"
    ):
        parts.append(_read_call(call, where))
    return parts


def _read_content(content: object, path: str, hints: list[str]) -> list[Part]:
    if content is None:
        return []
    if isinstance(content, str):
        return [TextPart(content)]
    parts = objects(fields.as_list(content, path), path)
    return [_read_part(part, where, hints) for where, part in parts]


def _read_part(part: Json, path: str, hints: list[str]) -> Part:
    kind = fields.text_at(part, "type", path)
    mark = read_breakpoint(part, path)
    match kind:
        case "text":
            refuse_unknown(part, {"type", "text", "prompt_cache_breakpoint", "annotations"}, path)
            if part.get("annotations"):
                hints.append("messages[].content[].annotations")
            return TextPart(fields.text_at(part, "text", path), mark)
        case "refusal":
            refuse_unknown(part, {"type", "refusal"}, path)
            return RefusalPart(fields.text_at(part, "refusal", path))
        case "image_url":
            refuse_unknown(part, {"type", "image_url", "prompt_cache_breakpoint"}, path)
            image = fields.as_object(part.get("image_url"), f"{path}.image_url")
            refuse_unknown(image, {"url", "detail"}, f"{path}.image_url")
            url = fields.text_at(image, "url", f"{path}.image_url")
            return read_image(
                url, fields.optional_text(image, "detail", path), mark, f"{path}.image_url.url"
            )
        case "file":
            refuse_unknown(part, {"type", "file", "prompt_cache_breakpoint"}, path)
            return _read_file(
                fields.as_object(part.get("file"), f"{path}.file"), mark, f"{path}.file"
            )
        case _:
            raise untranslatable(f"{path}.type", why=f"'{kind}' content has no counterpart")


def read_stream_options(body: Json, hints: list[str]) -> None:
    """Validate ``stream_options``: usage is handled by the writer, and obfuscation is only a hint."""
    if body.get("stream_options") is None:
        return
    options = fields.as_object(body.get("stream_options"), "stream_options")
    refuse_unknown(options, {"include_usage", "include_obfuscation"}, "stream_options")
    if options.get("include_obfuscation"):
        hints.append("stream_options.include_obfuscation")


def read_breakpoint(part: Json, path: str) -> CacheBreakpoint | None:
    """OpenAI's explicit prompt-cache breakpoint of a part."""
    mark = part.get("prompt_cache_breakpoint")
    if mark is None:
        return None
    where = f"{path}.prompt_cache_breakpoint"
    obj = fields.as_object(mark, where)
    refuse_unknown(obj, {"mode", "ttl"}, where)
    return CacheBreakpoint(fields.optional_text(obj, "ttl", where))


def read_image(url: str, detail: str, mark: CacheBreakpoint | None, path: str) -> ImagePart:
    """An image from a web or data URL."""
    if not url.startswith("data:"):
        return ImagePart(url=url, detail=detail, cache=mark)
    media_type, data = read_data_url(url, path)
    return ImagePart(data=data, media_type=media_type, detail=detail, cache=mark)


def _read_file(file: Json, mark: CacheBreakpoint | None, path: str) -> DocumentPart:
    refuse_unknown(file, {"file_data", "file_id", "filename"}, path)
    title = fields.optional_text(file, "filename", path)
    file_id = fields.optional_text(file, "file_id", path)
    if file_id:
        return DocumentPart(file_id=file_id, title=title, cache=mark)
    text = fields.text_at(file, "file_data", path)
    if text.startswith("data:"):
        media_type, data = read_data_url(text, f"{path}.file_data")
    else:
        media_type, data = "application/pdf", text
    return DocumentPart(media_type=media_type, data=data, title=title, cache=mark)


def _read_call(call: Json, path: str) -> ToolCallPart:
    kind = call.get("type", "function")
    if kind != "function":
        raise untranslatable(f"{path}.type", why=f"a '{kind}' tool call has no counterpart")
    # Clients that join streamed deltas send their index back.
    refuse_unknown(call, {"id", "type", "function", "index"}, path)
    function = fields.as_object(call.get("function"), f"{path}.function")
    refuse_unknown(function, {"name", "arguments"}, f"{path}.function")
    return ToolCallPart(
        id=fields.text_at(call, "id", path),
        name=fields.text_at(function, "name", f"{path}.function"),
        arguments=fields.text_at(function, "arguments", f"{path}.function"),
    )


def _read_tool_result(message: Json, path: str, hints: list[str]) -> ToolResultPart:
    refuse_unknown(message, {"role", "content", "tool_call_id", "name"}, path)
    if message.get("name"):
        hints.append("messages[].name")  # the tool's name, which the call id implies
    content = _read_content(message.get("content"), f"{path}.content", hints)
    parts = result_parts(content, f"{path}.content")
    return ToolResultPart(fields.text_at(message, "tool_call_id", path), parts)


def _read_tools(body: Json) -> list[Tool]:
    tools: list[Tool] = []
    for path, tool in objects(fields.optional_list(body, "tools"), "tools"):
        kind = fields.text_at(tool, "type", path)
        if kind != "function":
            raise untranslatable(f"{path}.type", why=f"a '{kind}' tool has no counterpart")
        refuse_unknown(tool, {"type", "function"}, path)
        function = fields.as_object(tool.get("function"), f"{path}.function")
        refuse_unknown(
            function, {"name", "description", "parameters", "strict"}, f"{path}.function"
        )
        parameters = function.get("parameters")
        tools.append(
            Tool(
                name=fields.text_at(function, "name", f"{path}.function"),
                description=fields.optional_text(function, "description", f"{path}.function"),
                parameters=None
                if parameters is None
                else fields.as_object(parameters, f"{path}.function.parameters"),
                strict=fields.optional_bool(function, "strict", f"{path}.function"),
            )
        )
    return tools


def _read_tool_choice(body: Json) -> ToolChoice | None:
    choice = body.get("tool_choice")
    if choice is None:
        return None
    if isinstance(choice, str):
        return ToolChoice(fields.one_of(choice, {"auto", "none", "required"}, "tool_choice"))
    obj = fields.as_object(choice, "tool_choice")
    if obj.get("type") != "function":
        raise untranslatable("tool_choice.type")
    refuse_unknown(obj, {"type", "function"}, "tool_choice")
    function = fields.as_object(obj.get("function"), "tool_choice.function")
    refuse_unknown(function, {"name"}, "tool_choice.function")
    return ToolChoice("named", fields.text_at(function, "name", "tool_choice.function"))


def _read_format(body: Json) -> JsonOutput | None:
    form = body.get("response_format")
    if form is None:
        return None
    obj = fields.as_object(form, "response_format")
    kind = fields.one_of(obj.get("type"), _FORMATS, "response_format.type")
    refuse_unknown(
        obj, {"type", "json_schema"} if kind == "json_schema" else {"type"}, "response_format"
    )
    if kind == "text":
        return None
    if kind == "json_object":
        return JsonOutput()
    path = "response_format.json_schema"
    inner = fields.as_object(obj.get("json_schema"), path)
    refuse_unknown(inner, {"name", "schema", "strict", "description"}, path)
    return JsonOutput(
        schema=fields.as_object(inner.get("schema", {}), f"{path}.schema"),
        name=fields.optional_text(inner, "name", path),
        strict=fields.optional_bool(inner, "strict", path),
        description=fields.optional_text(inner, "description", path),
    )


def _read_sampling(body: Json) -> Sampling:
    stop = body.get("stop")
    if stop is None:
        stops: tuple[str, ...] = ()
    elif isinstance(stop, str):
        stops = (stop,)
    else:
        stops = tuple(
            fields.as_text(item, f"stop[{index}]")
            for index, item in enumerate(fields.as_list(stop, "stop"))
        )
    if len(stops) > _MAX_STOPS:
        raise BadRequest(f"'stop' takes at most {_MAX_STOPS} sequences.", param="stop")
    limit = fields.optional_int(body, "max_completion_tokens", 1)
    effort = fields.optional_text(body, "reasoning_effort", "")
    verbosity = fields.optional_text(body, "verbosity", "")
    return Sampling(
        temperature=fields.optional_number(body, "temperature", 0, 2),
        top_p=fields.optional_number(body, "top_p", 0, 1),
        max_tokens=fields.optional_int(body, "max_tokens", 1) if limit is None else limit,
        stop=stops,
        seed=fields.optional_int(body, "seed", -(2**63)),
        frequency_penalty=fields.optional_number(body, "frequency_penalty", -2, 2),
        presence_penalty=fields.optional_number(body, "presence_penalty", -2, 2),
        effort=fields.one_of(effort, EFFORTS, "reasoning_effort") if effort else None,
        verbosity=fields.one_of(verbosity, VERBOSITIES, "verbosity") if verbosity else None,
    )
