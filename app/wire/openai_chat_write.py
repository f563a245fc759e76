"""Write the neutral conversation as a Chat Completions request.

Nothing is lost silently. Content without a counterpart in this dialect is refused under the caller's own
field name. Only performance hints, labels, and what means nothing to another vendor (a reasoning signature)
are dropped, and their names are returned.

This dialect has no error flag for tool results, so the text of a failed one begins with ``Error:``.
"""

from __future__ import annotations

from app.domain.chat import (
    CacheBreakpoint,
    Conversation,
    Dialect,
    DocumentPart,
    ImagePart,
    Message,
    RedactedThinkingPart,
    RefusalPart,
    Role,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from app.domain.models import Model
from app.wire.data_url import write_data_url
from app.wire.field_names import (
    cache_ttl_field,
    check_tool_choice,
    unsupported_field,
    unsupported_part,
)

_MAX_STOPS = 4
_BREAKPOINT_TTLS = frozenset({"30m", "12h"})
# Anthropic's token budgets mapped to OpenAI's efforts: its docs suggest at least 1,024, and 16,384 for hard
# problems.
_LOW_BUDGET_TOKENS = 4096
_MEDIUM_BUDGET_TOKENS = 16384
_TIERS = {"standard_only": "default"}

Body = dict[str, object]


def write(
    conversation: Conversation, model: Model, *, stream: bool
) -> tuple[Body, tuple[str, ...]]:
    """The request body and the names of the dropped fields; raises ``Unsupported``."""
    return _Writer(conversation, model).body(stream=stream)


class _Writer:
    """Builds one request body."""

    def __init__(self, conversation: Conversation, model: Model) -> None:
        self._conversation = conversation
        self._model = model
        self._target = model.label
        self._dropped: dict[str, None] = dict.fromkeys(conversation.hints)

    def body(self, *, stream: bool) -> tuple[Body, tuple[str, ...]]:
        conversation = self._conversation
        body: Body = {"model": self._model.upstream_model, "messages": self._messages()}
        self._sampling(body)
        self._tools(body)
        self._format(body)
        if conversation.user:
            body["user"] = conversation.user
        if conversation.metadata:
            body["metadata"] = dict(conversation.metadata)
        if conversation.service_tier:
            tier = conversation.service_tier
            body["service_tier"] = _TIERS.get(tier, tier)
        if stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        return body, tuple(self._dropped)

    # ------------------------------------------------------------ messages
    def _messages(self) -> list[Body]:
        written: list[Body] = []
        self._refuse_prefill()
        for message in self._conversation.messages:
            match message.role:
                case Role.TOOL:
                    written.extend(self._tool_results(message))
                case Role.ASSISTANT:
                    written.append(self._assistant(message))
                case Role.SYSTEM | Role.USER:
                    written.append(self._input_message(message))
        return written

    def _refuse_prefill(self) -> None:
        """Anthropic's models continue a final assistant message; most others start a new one."""
        last = self._conversation.messages[-1] if self._conversation.messages else None
        if (
            last is not None
            and last.role is Role.ASSISTANT
            and self._conversation.source is Dialect.MESSAGES
            and not self._model.abilities.prefill
        ):
            raise unsupported_part(
                last, "role", self._target, "the model does not continue an answer"
            )

    def _input_message(self, message: Message) -> Body:
        parts = [self._input_part(part, message) for part in message.parts]
        return self._with_name(message, {"role": message.role.value, "content": _plain(parts)})

    def _with_name(self, message: Message, written: Body) -> Body:
        if message.name:
            written["name"] = message.name
        return written

    def _input_part(self, part: object, message: Message) -> Body:
        match part:
            case TextPart(text, cache):
                return self._with_breakpoint({"type": "text", "text": text}, cache)
            case ImagePart():
                return self._image(part, message)
            case DocumentPart():
                return self._document(part, message)
            case _:
                raise unsupported_part(message, "content", self._target)

    def _with_breakpoint(self, written: Body, mark: CacheBreakpoint | None) -> Body:
        if mark is not None:
            if self._model.abilities.cache_breakpoints == "openai":
                breakpoint_: Body = {"mode": "explicit"}
                if mark.ttl in _BREAKPOINT_TTLS:
                    breakpoint_["ttl"] = mark.ttl
                elif mark.ttl:
                    self._dropped[cache_ttl_field(self._conversation)] = None
                written["prompt_cache_breakpoint"] = breakpoint_
            else:
                self._dropped["cache_control"] = None
        return written

    def _image(self, part: ImagePart, message: Message) -> Body:
        if not self._model.abilities.images:
            raise unsupported_part(message, "content", self._target, "the model takes no images")
        url = part.url or write_data_url(part.media_type, part.data)
        image: Body = {"url": url}
        if part.detail:
            image["detail"] = part.detail
        return self._with_breakpoint({"type": "image_url", "image_url": image}, part.cache)

    def _document(self, part: DocumentPart, message: Message) -> Body:
        if part.url:
            raise unsupported_part(
                message, "content", self._target, "documents by URL have no counterpart"
            )
        if part.file_id:
            if self._conversation.source is Dialect.MESSAGES:
                raise unsupported_part(
                    message, "content", self._target, "the file id belongs to another vendor"
                )
            file: Body = {"file_id": part.file_id}
        elif part.media_type == "text/plain":
            # Plain text needs no file part: it is sent as text, under its title.
            text = f"{part.title}\n\n{part.data}" if part.title else part.data
            return self._with_breakpoint({"type": "text", "text": text}, part.cache)
        else:
            file = {"filename": part.title or "document.pdf"}
            file["file_data"] = write_data_url(part.media_type, part.data)
        if not self._model.abilities.documents:
            raise unsupported_part(message, "content", self._target, "the model takes no documents")
        if part.title:
            file["filename"] = part.title
        return self._with_breakpoint({"type": "file", "file": file}, part.cache)

    def _assistant(self, message: Message) -> Body:
        content: list[Body] = []
        calls: list[Body] = []
        for part in message.parts:
            match part:
                case TextPart(text, cache):
                    content.append(self._with_breakpoint({"type": "text", "text": text}, cache))
                case RefusalPart(text):
                    content.append({"type": "refusal", "refusal": text})
                case ToolCallPart(call_id, name, arguments, cache):
                    function = {"name": name, "arguments": arguments or "{}"}
                    calls.append({"id": call_id, "type": "function", "function": function})
                    if cache is not None:
                        self._dropped["cache_control"] = None
                case ThinkingPart() | RedactedThinkingPart():
                    # Another vendor cannot verify its signature, and this dialect has no field for reasoning.
                    self._dropped["thinking"] = None
                case _:
                    raise unsupported_part(message, "content", self._target)
        written: Body = {"role": "assistant", "content": _plain(content) if content else None}
        if calls:
            written["tool_calls"] = calls
        elif not content:
            written["content"] = ""
        return self._with_name(message, written)

    def _tool_results(self, message: Message) -> list[Body]:
        written: list[Body] = []
        for part in message.parts:
            if not isinstance(part, ToolResultPart):
                raise unsupported_part(message, "content", self._target)
            if part.cache is not None:
                self._dropped["cache_control"] = None
            content = [self._result_part(inner, message) for inner in part.parts]
            if part.is_error:
                content = _as_error(content)
            written.append(
                {
                    "role": "tool",
                    "tool_call_id": part.call_id,
                    "content": _plain(content) if content else "",
                }
            )
        return written

    def _result_part(self, part: TextPart | ImagePart | DocumentPart, message: Message) -> Body:
        if isinstance(part, TextPart) or (
            isinstance(part, DocumentPart) and part.media_type == "text/plain" and not part.url
        ):
            return self._input_part(part, message)
        raise unsupported_part(
            message, "content", self._target, "a tool's result can only be text there"
        )

    # ------------------------------------------------------------ parameters
    def _sampling(self, body: Body) -> None:
        sampling = self._conversation.sampling
        if sampling.top_k is not None:
            raise unsupported_field(self._conversation, "top_k", self._target)
        self._stop_conditions(body)
        self._randomness(body)
        for name in ("seed", "frequency_penalty", "presence_penalty", "verbosity"):
            value = getattr(sampling, name)
            if value is not None:
                body[name] = value
        effort = self._effort()
        if effort is not None:
            body["reasoning_effort"] = effort

    def _stop_conditions(self, body: Body) -> None:
        """The token limit and the stop sequences."""
        conversation, sampling = self._conversation, self._conversation.sampling
        if sampling.max_tokens is not None:
            if sampling.max_tokens == 0:
                raise unsupported_field(
                    conversation, "max_tokens", self._target, "0 only warms a cache"
                )
            body[self._model.abilities.max_tokens_field] = sampling.max_tokens
        if len(sampling.stop) > _MAX_STOPS:
            raise unsupported_field(
                conversation, "stop", self._target, f"it takes at most {_MAX_STOPS}"
            )
        if sampling.stop:
            body["stop"] = list(sampling.stop)

    def _randomness(self, body: Body) -> None:
        sampling = self._conversation.sampling
        for name, value in (("temperature", sampling.temperature), ("top_p", sampling.top_p)):
            if value is None:
                continue
            if self._model.abilities.temperature:
                body[name] = value
            elif value != 1:
                raise unsupported_field(
                    self._conversation, name, self._target, "the model fixes it"
                )

    def _effort(self) -> str | None:
        sampling = self._conversation.sampling
        thinks = self._model.abilities.thinking != "none"
        budget = sampling.thinking_budget_tokens
        if sampling.adaptive_thinking and not thinks:
            self._dropped["thinking"] = None
        if sampling.effort is not None:
            if thinks:
                return sampling.effort
            if sampling.effort == "none":
                return None
            raise unsupported_field(
                self._conversation, "effort", self._target, "the model does not reason"
            )
        if budget is None:
            return None
        if budget == 0:
            return "none" if thinks else None
        if not thinks:
            raise unsupported_field(
                self._conversation,
                "thinking_budget_tokens",
                self._target,
                "the model does not reason",
            )
        if budget < _LOW_BUDGET_TOKENS:
            return "low"
        return "medium" if budget < _MEDIUM_BUDGET_TOKENS else "high"

    def _tools(self, body: Body) -> None:
        conversation = self._conversation
        if not conversation.tools:
            check_tool_choice(conversation, self._target)
            return
        if not self._model.abilities.tools:
            raise unsupported_field(conversation, "tools", self._target, "the model takes no tools")
        body["tools"] = [self._tool(tool) for tool in conversation.tools]
        choice = conversation.tool_choice
        if choice is not None:
            if choice.mode == "named":
                body["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
            else:
                body["tool_choice"] = choice.mode
        if conversation.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = conversation.parallel_tool_calls

    def _tool(self, tool: Tool) -> Body:
        if tool.cache is not None:
            self._dropped["cache_control"] = None
        function: Body = {"name": tool.name}
        if tool.description:
            function["description"] = tool.description
        if tool.parameters is not None:
            function["parameters"] = dict(tool.parameters)
        if tool.strict is not None:
            function["strict"] = tool.strict
        return {"type": "function", "function": function}

    def _format(self, body: Body) -> None:
        output = self._conversation.json_output
        if output is None:
            return
        if output.schema is None:
            body["response_format"] = {"type": "json_object"}
            return
        if not self._model.abilities.structured_output:
            raise unsupported_field(
                self._conversation, "json_output", self._target, "the model takes no schema"
            )
        # Anthropic's formats are always strict, and do not say so.
        strict = True if self._conversation.source is Dialect.MESSAGES else output.strict
        inner: Body = {"name": output.name or "answer", "schema": dict(output.schema)}
        if output.description:
            inner["description"] = output.description
        if strict is not None:
            inner["strict"] = strict
        body["response_format"] = {"type": "json_schema", "json_schema": inner}


def _plain(parts: list[Body]) -> object:
    """A single text part without a cache breakpoint as a plain string, which every server accepts."""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return parts[0]["text"]
    return parts


def _as_error(content: list[Body]) -> list[Body]:
    if not content:
        return [{"type": "text", "text": "Error: the tool failed and said nothing."}]
    text = content[0]["text"]
    if isinstance(text, str) and text.lower().startswith("error"):
        return content
    return [{**content[0], "text": f"Error: {text}"}, *content[1:]]
