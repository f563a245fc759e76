"""Validate OpenAI Responses requests and translate them into the neutral conversation.

An assistant turn is a run of items (reasoning, message, function calls); the neutral form joins such a run
into one message, and a run of function outputs likewise.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.chat import (
    Conversation,
    Dialect,
    DocumentPart,
    Json,
    JsonOutput,
    Message,
    Part,
    RedactedThinkingPart,
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
from app.domain.decisions import PromptView
from app.errors import BadRequest
from app.wire import fields
from app.wire.data_url import read_data_url
from app.wire.fields import objects, refuse_unknown, result_parts, untranslatable
from app.wire.openai_chat_request import (
    EFFORTS,
    VERBOSITIES,
    read_breakpoint,
    read_image,
    read_stream_options,
)
from app.wire.openai_chat_view import has_images, text_of, tool_names
from app.wire.reasoning_seal import open_seal

_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
}
_FORMATS = frozenset({"text", "json_object", "json_schema"})
_CARRIED = frozenset(
    {
        "model", "input", "instructions", "max_output_tokens", "stream", "temperature", "top_p",
        "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning", "user",
        "safety_identifier", "metadata", "service_tier", "truncation", "include", "stream_options",
    }
)  # fmt: skip
_HINTS = ("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "store")
_INCLUDABLE = "reasoning.encrypted_content"


def check(body: Json) -> None:
    """Raise ``BadRequest`` for a body that no server of this dialect accepts."""
    fields.check_envelope(body)
    given = body.get("input")
    if isinstance(given, str):
        if not given:
            raise BadRequest("'input' must not be empty.", param="input")
    elif given is not None or not (body.get("previous_response_id") or body.get("prompt")):
        if not isinstance(given, list):
            raise BadRequest("'input' must be a string or an array.", param="input")
        if not given:
            raise BadRequest("'input' must not be empty.", param="input")
        for path, item in objects(given, "input"):
            _check_item(item, path)
    _check_settings(body)


def _check_settings(body: Json) -> None:
    fields.optional_number(body, "temperature", 0, 2)
    fields.optional_number(body, "top_p", 0, 1)
    fields.optional_int(body, "max_output_tokens", 1)
    fields.optional_bool(body, "parallel_tool_calls")
    for path, tool in objects(fields.optional_list(body, "tools"), "tools"):
        if fields.text_at(tool, "type", path) == "function":
            fields.text_at(tool, "name", path)
            if tool.get("parameters") is not None:
                fields.as_object(tool.get("parameters"), f"{path}.parameters")
    for name in ("text", "reasoning", "metadata"):
        if body.get(name) is not None:
            fields.as_object(body.get(name), name)
    instructions = body.get("instructions")
    if instructions is not None:
        fields.as_text(instructions, "instructions")


def _check_item(item: Json, path: str) -> None:
    kind = item.get("type")
    if kind is None:
        if "role" not in item and isinstance(item.get("id"), str):
            return  # an item reference, whose type may be omitted
        kind = "message"
    if kind == "message":
        fields.one_of(item.get("role"), _ROLES, f"{path}.role")
        content = item.get("content")
        if isinstance(content, str):
            return
        if not isinstance(content, list):
            raise BadRequest(
                f"'{path}.content' must be a string or an array.", param=f"{path}.content"
            )
        for where, part in objects(content, f"{path}.content"):
            fields.text_at(part, "type", where)
    elif kind == "function_call":
        for name in ("call_id", "name", "arguments"):
            fields.text_at(item, name, path)
    elif not isinstance(kind, str):
        raise fields.bad_type(f"{path}.type", str)


def view(body: Json) -> PromptView:
    """The classifier's view of a body that passed ``check``; never raises for one."""
    given = body.get("input")
    items = [item for item in given if isinstance(item, Mapping)] if isinstance(given, list) else []
    text = given if isinstance(given, str) else ""
    systems = [body["instructions"]] if isinstance(body.get("instructions"), str) else []
    turns, total, images = int(bool(text)), len(text) + sum(map(len, map(str, systems))), False
    for item in items:
        message_text = text_of(item.get("content"))
        total += len(message_text)
        images = images or has_images(item.get("content"))
        match item.get("role"):
            case "user":
                text, turns = message_text, turns + 1
            case "assistant":
                turns += 1
            case "system" | "developer":
                systems.append(message_text)
            case _:
                pass
    limit = body.get("max_output_tokens")
    config = body.get("text")
    form = config.get("format") if isinstance(config, Mapping) else None
    return PromptView(
        text=text,
        system="\n\n".join(str(system) for system in systems),
        turns=max(turns, 1),
        total_chars=total,
        tool_names=tool_names(body.get("tools")),
        has_images=images,
        wants_json=isinstance(form, Mapping) and form.get("type") in ("json_object", "json_schema"),
        max_tokens=limit if isinstance(limit, int) else None,
        after_tool_result=bool(items) and items[-1].get("type") == "function_call_output",
    )


def read(body: Json) -> Conversation:
    """Translate a body that passed ``check``; raises ``Unsupported`` for fields without a neutral form."""
    refuse_unknown(body, _CARRIED | {*_HINTS}, "")
    if body.get("store"):
        raise untranslatable("store")
    if body.get("truncation") not in (None, "disabled"):
        raise untranslatable("truncation")
    hints = [name for name in _HINTS if body.get(name) is not None]
    for index, wanted in enumerate(fields.optional_list(body, "include")):
        if wanted != _INCLUDABLE:
            raise untranslatable(f"include[{index}]")
        hints.append("include")
    read_stream_options(body, hints)
    output, verbosity = _read_text_config(body)
    metadata = body.get("metadata")
    tier = fields.optional_text(body, "service_tier", "")
    if tier == "ultrafast":
        raise untranslatable("service_tier", why="only the Responses API has this one")
    user = fields.optional_text(body, "safety_identifier", "")
    if user and fields.optional_text(body, "user", "") not in {"", user}:
        hints.append("user")
    return Conversation(
        messages=_read_messages(body, hints),
        tools=tuple(_read_tools(body)),
        tool_choice=_read_tool_choice(body),
        parallel_tool_calls=fields.optional_bool(body, "parallel_tool_calls"),
        json_output=output,
        sampling=Sampling(
            temperature=fields.optional_number(body, "temperature", 0, 2),
            top_p=fields.optional_number(body, "top_p", 0, 1),
            max_tokens=fields.optional_int(body, "max_output_tokens", 1),
            effort=_read_reasoning(body, hints),
            verbosity=verbosity,
        ),
        user=user or fields.optional_text(body, "user", ""),
        metadata=None if not metadata else fields.as_object(metadata, "metadata"),
        service_tier="" if tier == "auto" else tier,
        hints=tuple(dict.fromkeys(hints)),
        source=Dialect.RESPONSES,
    )


def _read_reasoning(body: Json, hints: list[str]) -> str | None:
    reasoning = body.get("reasoning")
    if reasoning is None:
        return None
    obj = fields.as_object(reasoning, "reasoning")
    refuse_unknown(obj, {"effort", "summary", "generate_summary", "mode", "context"}, "reasoning")
    for name, usual in (("mode", "standard"), ("context", "auto")):
        if obj.get(name) not in (None, usual):
            raise untranslatable(f"reasoning.{name}")
    if obj.get("summary") is not None or obj.get("generate_summary") is not None:
        # Any reasoning that the target returns is returned as the summary.
        hints.append("reasoning.summary")
    effort = obj.get("effort")
    return None if effort is None else fields.one_of(effort, EFFORTS, "reasoning.effort")


def _read_text_config(body: Json) -> tuple[JsonOutput | None, str | None]:
    config = body.get("text")
    if config is None:
        return None, None
    obj = fields.as_object(config, "text")
    refuse_unknown(obj, {"format", "verbosity"}, "text")
    verbosity = obj.get("verbosity")
    word = None if verbosity is None else fields.one_of(verbosity, VERBOSITIES, "text.verbosity")
    form = obj.get("format")
    if form is None:
        return None, word
    inner = fields.as_object(form, "text.format")
    kind = fields.one_of(inner.get("type"), _FORMATS, "text.format.type")
    if kind != "json_schema":
        refuse_unknown(inner, {"type"}, "text.format")
    if kind == "text":
        return None, word
    if kind == "json_object":
        return JsonOutput(), word
    refuse_unknown(inner, {"type", "name", "schema", "strict", "description"}, "text.format")
    return JsonOutput(
        schema=fields.as_object(inner.get("schema"), "text.format.schema"),
        name=fields.optional_text(inner, "name", "text.format"),
        strict=fields.optional_bool(inner, "strict", "text.format"),
        description=fields.optional_text(inner, "description", "text.format"),
    ), word


def _read_tools(body: Json) -> list[Tool]:
    tools: list[Tool] = []
    for path, tool in objects(fields.optional_list(body, "tools"), "tools"):
        kind = fields.text_at(tool, "type", path)
        if kind != "function":
            raise untranslatable(f"{path}.type", why=f"a '{kind}' tool runs on its vendor's side")
        known = {"type", "name", "description", "parameters", "strict", "allowed_callers"}
        refuse_unknown(tool, known, path)
        if tool.get("allowed_callers") not in (None, [], ["direct"]):
            raise untranslatable(f"{path}.allowed_callers")
        parameters = tool.get("parameters")
        tools.append(
            Tool(
                name=fields.text_at(tool, "name", path),
                description=fields.optional_text(tool, "description", path),
                parameters=None
                if parameters is None
                else fields.as_object(parameters, f"{path}.parameters"),
                strict=fields.optional_bool(tool, "strict", path),
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
    refuse_unknown(obj, {"type", "name"}, "tool_choice")
    return ToolChoice("named", fields.text_at(obj, "name", "tool_choice"))


def _read_messages(body: Json, hints: list[str]) -> tuple[Message, ...]:
    messages: list[Message] = []
    instructions = fields.optional_text(body, "instructions", "")
    if instructions:
        messages.append(Message(Role.SYSTEM, (TextPart(instructions),), origin="instructions"))
    given = body.get("input")
    if isinstance(given, str):
        return (*messages, Message(Role.USER, (TextPart(given),), origin="input"))
    joined = False
    for path, item in objects(fields.as_list(given, "input"), "input"):
        role, parts = _read_item(item, path, hints)
        last = messages[-1] if messages else None
        # Only items of one turn are joined; the instructions stay separate.
        if (
            joined
            and last is not None
            and last.role is role
            and role in {Role.ASSISTANT, Role.TOOL}
        ):
            messages[-1] = Message(role, (*last.parts, *parts), origin=last.origin)
        else:
            messages.append(Message(role, tuple(parts), origin=path))
        joined = True
    return tuple(messages)


def _read_item(item: Json, path: str, hints: list[str]) -> tuple[Role, list[Part]]:
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    match kind:
        case "message":
            refuse_unknown(item, {"type", "role", "content", "id", "status", "phase"}, path)
            if item.get("phase") is not None:
                hints.append("input[].phase")
            role = _ROLES[fields.one_of(item.get("role"), _ROLES, f"{path}.role")]
            return role, _read_content(item.get("content"), f"{path}.content", hints)
        case "function_call":
            known = {"type", "call_id", "name", "arguments", "id", "status", "caller"}
            refuse_unknown(item, known, path)
            _refuse_program(item, path)
            call_id, name = (
                fields.text_at(item, "call_id", path),
                fields.text_at(item, "name", path),
            )
            return Role.ASSISTANT, [
                ToolCallPart(call_id, name, fields.text_at(item, "arguments", path))
            ]
        case "function_call_output":
            known = {"type", "call_id", "output", "id", "status", "caller", "name"}
            refuse_unknown(item, known, path)
            _refuse_program(item, path)
            if item.get("name"):
                hints.append("input[].name")  # the tool's name, which the call id implies
            return Role.TOOL, [_read_output(item, path, hints)]
        case "reasoning":
            known = {"type", "id", "status", "summary", "content", "encrypted_content"}
            refuse_unknown(item, known, path)
            return Role.ASSISTANT, _read_reasoning_item(item, path)
        case _:
            raise untranslatable(f"{path}.type", why=f"a '{kind}' item has no counterpart")


def _refuse_program(item: Json, path: str) -> None:
    """Refuse calls made by a program on the vendor's side; calls of the model itself pass."""
    if item.get("caller") not in (None, {"type": "direct"}):
        raise untranslatable(f"{path}.caller")


def _read_reasoning_item(item: Json, path: str) -> list[Part]:
    """Restore reasoning that we sealed; another vendor's is text, which the target may drop."""
    texts: list[str] = []
    for name in ("summary", "content"):
        for where, piece in objects(fields.optional_list(item, name, path), f"{path}.{name}"):
            refuse_unknown(piece, {"type", "text"}, where)
            texts.append(fields.optional_text(piece, "text", where))
    signature, redacted = open_seal(item.get("encrypted_content"))
    if redacted:
        return [RedactedThinkingPart(redacted)]
    return [ThinkingPart("\n\n".join(texts), signature)]


def _read_output(item: Json, path: str, hints: list[str]) -> ToolResultPart:
    call_id = fields.text_at(item, "call_id", path)
    parts = result_parts(
        _read_content(item.get("output"), f"{path}.output", hints), f"{path}.output"
    )
    return ToolResultPart(call_id, parts)


def _read_content(content: object, path: str, hints: list[str]) -> list[Part]:
    if isinstance(content, str):
        return [TextPart(content)]
    parts = objects(fields.as_list(content, path), path)
    return [_read_part(part, where, hints) for where, part in parts]


def _read_part(part: Json, path: str, hints: list[str]) -> Part:
    kind = fields.text_at(part, "type", path)
    mark = read_breakpoint(part, path)
    match kind:
        case "input_text" | "output_text" | "text":
            known = {"type", "text", "annotations", "logprobs", "prompt_cache_breakpoint"}
            refuse_unknown(part, known, path)
            hints.extend(
                f"input[].content[].{name}"
                for name in ("annotations", "logprobs")
                if part.get(name)
            )
            return TextPart(fields.text_at(part, "text", path), mark)
        case "refusal":
            refuse_unknown(part, {"type", "refusal"}, path)
            return RefusalPart(fields.text_at(part, "refusal", path))
        case "input_image":
            refuse_unknown(part, {"type", "image_url", "detail", "prompt_cache_breakpoint"}, path)
            url = fields.text_at(part, "image_url", path)
            detail = fields.optional_text(part, "detail", path)
            return read_image(url, detail, mark, f"{path}.image_url")
        case "input_file":
            known = {
                "type", "file_data", "file_id", "file_url", "filename", "prompt_cache_breakpoint",
                "detail",
            }  # fmt: skip
            refuse_unknown(part, known, path)
            if part.get("detail") not in (None, "auto"):
                raise untranslatable(f"{path}.detail")
            return _read_file(part, path)
        case _:
            raise untranslatable(f"{path}.type", why=f"'{kind}' content has no counterpart")


def _read_file(part: Json, path: str) -> DocumentPart:
    mark = read_breakpoint(part, path)
    title = fields.optional_text(part, "filename", path)
    url = fields.optional_text(part, "file_url", path)
    file_id = fields.optional_text(part, "file_id", path)
    if url or file_id:
        return DocumentPart(url=url, file_id="" if url else file_id, title=title, cache=mark)
    data = fields.text_at(part, "file_data", path)
    media_type = "application/pdf"
    if data.startswith("data:"):
        media_type, data = read_data_url(data, f"{path}.file_data")
    return DocumentPart(media_type=media_type, data=data, title=title, cache=mark)
