"""Write the neutral conversation as an Anthropic Messages request.

System messages before the first turn become ``system``; later ones stay in place as ``role: system``
messages. Tool results and the user message after them share one user message, as the API requires. Another
vendor's reasoning has no signature and is dropped, and reported as dropped.
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
from app.domain.models import MIN_THINKING_BUDGET_TOKENS, THINKING_BUDGET_TOKENS, Model
from app.errors import BadRequest
from app.wire import json_text
from app.wire.field_names import (
    cache_ttl_field,
    check_tool_choice,
    unsupported_field,
    unsupported_part,
)

_TTLS = frozenset({"5m", "1h"})
_TIERS = {"default": "standard_only", "standard_only": "standard_only"}
_CHOICES = {"auto": "auto", "required": "any", "none": "none", "named": "tool"}
_MINIMAL = {"minimal": "low"}

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
        body: Body = {"model": self._model.upstream_model, "max_tokens": self._max_tokens()}
        leading = 0
        for message in conversation.messages:
            if message.role is not Role.SYSTEM:
                break
            leading += 1
        self._system(body, conversation.messages[:leading])
        body["messages"] = self._messages(conversation.messages[leading:])
        if not body["messages"]:
            raise BadRequest(f"A request to {self._target} needs a user message.", param="messages")
        last = conversation.messages[-1]
        if last.role is Role.ASSISTANT and not self._model.abilities.prefill:
            raise unsupported_part(
                last, "role", self._target, "the model does not continue an answer"
            )
        self._sampling(body)
        self._thinking(body)
        self._tools(body)
        self._format(body)
        if conversation.user:
            body["metadata"] = {"user_id": conversation.user}
        if conversation.metadata:
            self._dropped["metadata"] = None
        if conversation.service_tier:
            tier = _TIERS.get(conversation.service_tier)
            if tier is None:
                raise unsupported_field(conversation, "service_tier", self._target)
            body["service_tier"] = tier
        if stream:
            body["stream"] = True
        return body, tuple(self._dropped)

    def _max_tokens(self) -> int:
        limit = self._conversation.sampling.max_tokens
        return self._model.abilities.default_max_tokens if limit is None else limit

    # ------------------------------------------------------------ messages
    def _system(self, body: Body, messages: tuple[Message, ...]) -> None:
        blocks = [block for message in messages for block in self._blocks(message)]
        if blocks:
            body["system"] = _plain(blocks)

    def _messages(self, messages: tuple[Message, ...]) -> list[Body]:
        written: list[Body] = []
        after_results = False
        for message in messages:
            role = "user" if message.role is Role.TOOL else message.role.value
            blocks = self._blocks(message)
            if after_results and role == "user":
                last = written[-1]["content"]
                assert isinstance(last, list)  # noqa: S101 (results are always written as a list)
                last.extend(blocks)
            else:
                content: object = blocks if message.role is Role.TOOL else _plain(blocks)
                written.append({"role": role, "content": content})
            after_results = message.role is Role.TOOL
        return written

    def _blocks(self, message: Message) -> list[Body]:
        if message.name:
            raise unsupported_part(message, "name", self._target)
        blocks: list[Body] = []
        for part in message.parts:
            block = self._block(part, message)
            if block is not None:
                blocks.append(block)
        return blocks

    def _block(self, part: object, message: Message) -> Body | None:  # noqa: PLR0911 (one arm a part)
        match part:
            case TextPart(text, cache):
                return self._text(text, cache)
            case ImagePart():
                return self._image(part, message)
            case DocumentPart():
                return self._document(part, message)
            case ToolCallPart():
                return self._call(part, message)
            case ToolResultPart():
                return self._result(part, message)
            case RefusalPart(text):
                return self._text(text, None)
            case ThinkingPart(text, signature):
                if signature:
                    return {"type": "thinking", "thinking": text, "signature": signature}
                # Another vendor's reasoning: the API only accepts reasoning that it signed.
                self._dropped["reasoning"] = None
                return None
            case RedactedThinkingPart(data):
                return {"type": "redacted_thinking", "data": data}
            case _:
                raise unsupported_part(message, "content", self._target)

    def _text(self, text: str, mark: CacheBreakpoint | None) -> Body | None:
        # The API rejects empty text blocks.
        return self._with_breakpoint({"type": "text", "text": text}, mark) if text else None

    def _with_breakpoint(self, block: Body, mark: CacheBreakpoint | None) -> Body:
        if mark is not None:
            if self._model.abilities.cache_breakpoints == "anthropic":
                control: Body = {"type": "ephemeral"}
                if mark.ttl in _TTLS:
                    control["ttl"] = mark.ttl
                elif mark.ttl:
                    self._dropped[cache_ttl_field(self._conversation)] = None
                block["cache_control"] = control
            else:
                self._dropped["cache_control"] = None
        return block

    def _image(self, part: ImagePart, message: Message) -> Body:
        if not self._model.abilities.images:
            raise unsupported_part(message, "content", self._target, "the model takes no images")
        if part.detail not in {"", "auto"}:
            self._dropped["image_url.detail"] = None
        source: Body
        if part.url:
            source = {"type": "url", "url": part.url}
        else:
            source = {"type": "base64", "media_type": part.media_type, "data": part.data}
        return self._with_breakpoint({"type": "image", "source": source}, part.cache)

    def _document(self, part: DocumentPart, message: Message) -> Body:
        if not self._model.abilities.documents:
            raise unsupported_part(message, "content", self._target, "the model takes no documents")
        source: Body
        if part.url:
            source = {"type": "url", "url": part.url}
        elif part.file_id:
            if self._conversation.source is not Dialect.MESSAGES:
                raise unsupported_part(
                    message, "content", self._target, "the file id belongs to another vendor"
                )
            source = {"type": "file", "file_id": part.file_id}
        elif part.media_type == "application/pdf":
            source = {"type": "base64", "media_type": part.media_type, "data": part.data}
        elif part.media_type == "text/plain" and self._conversation.source is Dialect.MESSAGES:
            source = {"type": "text", "media_type": part.media_type, "data": part.data}
        else:
            raise unsupported_part(
                message, "content", self._target, f"it takes no '{part.media_type}' documents"
            )
        block: Body = {"type": "document", "source": source}
        if part.title:
            block["title"] = part.title
        return self._with_breakpoint(block, part.cache)

    def _call(self, part: ToolCallPart, message: Message) -> Body:
        arguments = json_text.decode_arguments(part.arguments)
        if arguments is None:
            raise BadRequest(
                f"The arguments of tool call '{part.name}' in {message.origin or 'messages'} are not a "
                f"JSON object, which {self._target} demands.",
                param=f"{message.origin or 'messages'}.tool_calls",
            )
        block: Body = {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments}
        return self._with_breakpoint(block, part.cache)

    def _result(self, part: ToolResultPart, message: Message) -> Body:
        written: Body = {"type": "tool_result", "tool_use_id": part.call_id}
        inner = [self._block(piece, message) for piece in part.parts]
        blocks = [block for block in inner if block is not None]
        if blocks:
            written["content"] = _plain(blocks)
        if part.is_error:
            written["is_error"] = True
        return self._with_breakpoint(written, part.cache)

    # ------------------------------------------------------------ parameters
    def _sampling(self, body: Body) -> None:
        sampling = self._conversation.sampling
        self._refuse_openai_only()
        for name, value in (("temperature", sampling.temperature), ("top_p", sampling.top_p)):
            if value is None:
                continue
            if not self._model.abilities.temperature:
                if value != 1:
                    raise unsupported_field(
                        self._conversation, name, self._target, "the model fixes it"
                    )
            elif value > 1:
                raise unsupported_field(
                    self._conversation, name, self._target, "it must be at most 1"
                )
            else:
                body[name] = value
        if sampling.top_k is not None:
            body["top_k"] = sampling.top_k
        if sampling.stop:
            body["stop_sequences"] = list(sampling.stop)

    def _refuse_openai_only(self) -> None:
        """Reject OpenAI-only parameters, unless they ask for the default."""
        sampling = self._conversation.sampling
        for name, value, usual in (
            ("seed", sampling.seed, None),
            ("frequency_penalty", sampling.frequency_penalty, 0),
            ("presence_penalty", sampling.presence_penalty, 0),
            ("verbosity", sampling.verbosity, "medium"),
        ):
            if value is not None and value != usual:
                raise unsupported_field(self._conversation, name, self._target)

    def _thinking(self, body: Body) -> None:
        sampling, kind = self._conversation.sampling, self._model.abilities.thinking
        if sampling.thinking_budget_tokens is not None:
            self._apply_budget(body, sampling.thinking_budget_tokens)
        elif sampling.adaptive_thinking and kind in {"adaptive", "effort"}:
            body["thinking"] = {"type": "adaptive"}
        if sampling.effort is not None:
            self._apply_effort(body, sampling.effort)
        if sampling.adaptive_thinking and "thinking" not in body:
            self._dropped["thinking"] = None

    def _apply_effort(self, body: Body, effort: str) -> None:
        kind = self._model.abilities.thinking
        if effort == "none":
            if kind != "none" and "thinking" not in body:
                body["thinking"] = {"type": "disabled"}
        elif kind in {"effort", "adaptive"}:
            body["output_config"] = {"effort": _MINIMAL.get(effort, effort)}
            if kind == "adaptive" and "thinking" not in body:
                body["thinking"] = {"type": "adaptive"}
        elif kind == "budget":
            if "thinking" not in body:
                self._set_budget(body, THINKING_BUDGET_TOKENS[effort])
        else:
            raise unsupported_field(
                self._conversation, "effort", self._target, "the model does not think"
            )

    def _apply_budget(self, body: Body, budget: int) -> None:
        kind = self._model.abilities.thinking
        if budget == 0:
            if kind != "none":
                body["thinking"] = {"type": "disabled"}
        elif kind == "none":
            raise unsupported_field(
                self._conversation,
                "thinking_budget_tokens",
                self._target,
                "the model does not think",
            )
        elif kind == "budget":
            body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        else:
            # These models take no budget: they decide themselves.
            body["thinking"] = {"type": "adaptive"}
            self._dropped["thinking.budget_tokens"] = None

    def _set_budget(self, body: Body, budget: int) -> None:
        """Set a thinking budget within the caller's ``max_tokens``."""
        limit = self._max_tokens()
        if limit <= MIN_THINKING_BUDGET_TOKENS:
            raise unsupported_field(
                self._conversation,
                "effort",
                self._target,
                f"thinking needs a limit of more than {MIN_THINKING_BUDGET_TOKENS} tokens",
            )
        budget = max(MIN_THINKING_BUDGET_TOKENS, min(budget, limit // 2))
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}

    def _tools(self, body: Body) -> None:
        conversation = self._conversation
        if not conversation.tools:
            check_tool_choice(conversation, self._target)
            return
        if not self._model.abilities.tools:
            raise unsupported_field(conversation, "tools", self._target, "the model takes no tools")
        body["tools"] = [self._tool(tool) for tool in conversation.tools]
        choice, parallel = conversation.tool_choice, conversation.parallel_tool_calls
        if choice is None and parallel is None:
            return
        written: Body = {"type": _CHOICES[choice.mode if choice else "auto"]}
        if choice is not None and choice.mode == "named":
            written["name"] = choice.name
        if parallel is not None and written["type"] != "none":
            written["disable_parallel_tool_use"] = not parallel
        body["tool_choice"] = written

    def _tool(self, tool: Tool) -> Body:
        written: Body = {"name": tool.name}
        if tool.description:
            written["description"] = tool.description
        # A function without parameters: this API requires an explicit empty object schema.
        written["input_schema"] = (
            {"type": "object", "properties": {}} if not tool.parameters else dict(tool.parameters)
        )
        if tool.strict is not None:
            written["strict"] = tool.strict
        return self._with_breakpoint(written, tool.cache)

    def _format(self, body: Body) -> None:
        output = self._conversation.json_output
        if output is None:
            return
        if output.schema is None:
            raise unsupported_field(
                self._conversation, "json_output", self._target, "it takes a JSON schema only"
            )
        if not self._model.abilities.structured_output:
            raise unsupported_field(
                self._conversation, "json_output", self._target, "the model takes no schema"
            )
        schema = dict(output.schema)
        if output.description:
            # The API has no field for it; the model reads the schema's own description.
            schema.setdefault("description", output.description)
        config = body.get("output_config")
        effort = config if isinstance(config, dict) else {}
        body["output_config"] = {**effort, "format": {"type": "json_schema", "schema": schema}}


def _plain(blocks: list[Body]) -> object:
    """A single text block without a cache breakpoint as a plain string."""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return blocks[0]["text"]
    return blocks
