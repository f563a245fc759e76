"""A client's request: the original body, and its neutral form.

``ChatRequest`` keeps the body exactly as the client sent it. An upstream of the same dialect receives those
bytes with single top-level fields spliced, because a re-serialised prompt misses the vendor's prompt cache.
``Conversation`` is the neutral form, built only where it is needed: for another dialect's upstream, an agent,
or a cache key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from app.domain.models import Model  # names tiers, which this page need not

Json = Mapping[str, object]
"""A parsed JSON object; treated as immutable everywhere."""


DEFAULT_ANTHROPIC_VERSION = b"2023-06-01"
"""The ``anthropic-version`` that the gateway sends by default; clients that send it, or none, are equal."""
KNOWN_ANTHROPIC_VERSIONS = (DEFAULT_ANTHROPIC_VERSION, b"2026-10-21")
"""The versions that Anthropic's clients send. Their differences are unknown here, so answers are never shared
between them.
"""


class Dialect(StrEnum):
    """The wire formats that the gateway speaks."""

    CHAT = "openai_chat"
    RESPONSES = "openai_responses"
    MESSAGES = "anthropic_messages"

    # The string's own hash: the enumeration's is a Python call at each dict look-up.
    __hash__ = str.__hash__


class Role(StrEnum):
    """Who speaks. ``TOOL`` messages hold tool results only."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class CacheBreakpoint:
    """The client's prompt-cache breakpoint after a block; ``ttl`` as the vendor writes it, or ""."""

    ttl: str = ""


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text."""

    text: str
    cache: CacheBreakpoint | None = None


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image by URL, or inline as base64 ``data`` with its ``media_type``."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    detail: str = ""
    cache: CacheBreakpoint | None = None


@dataclass(frozen=True, slots=True)
class DocumentPart:
    """A document: inline base64 or plain text ``data``, or by ``url`` or vendor ``file_id``."""

    media_type: str = ""
    data: str = ""
    url: str = ""
    file_id: str = ""
    title: str = ""
    cache: CacheBreakpoint | None = None


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """An assistant's call of a tool; ``arguments`` is JSON text, byte for byte as it came."""

    id: str
    name: str
    arguments: str
    cache: CacheBreakpoint | None = None


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    """The result of the call ``call_id``."""

    call_id: str
    parts: tuple[TextPart | ImagePart | DocumentPart, ...]
    is_error: bool = False
    cache: CacheBreakpoint | None = None


@dataclass(frozen=True, slots=True)
class ThinkingPart:
    """Earlier reasoning, with its vendor's signature."""

    text: str
    signature: str = ""


@dataclass(frozen=True, slots=True)
class RedactedThinkingPart:
    """Earlier reasoning that only its vendor can read."""

    data: str


@dataclass(frozen=True, slots=True)
class RefusalPart:
    """An earlier refusal."""

    text: str


Part = (
    TextPart
    | ImagePart
    | DocumentPart
    | ToolCallPart
    | ToolResultPart
    | ThinkingPart
    | RedactedThinkingPart
    | RefusalPart
)


@dataclass(frozen=True, slots=True)
class Message:
    """One message; parts in the client's order."""

    role: Role
    parts: tuple[Part, ...]
    name: str = ""
    origin: str = field(default="", compare=False, repr=False)
    """Its path in the caller's body (``messages[2]``), so that errors can name the field."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; ``parameters`` is its JSON Schema, keys in the client's order."""

    name: str
    description: str = ""
    parameters: Json | None = None
    strict: bool | None = None
    cache: CacheBreakpoint | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """``mode``: auto, none, required, or named (then ``name``)."""

    mode: str = "auto"
    name: str = ""


@dataclass(frozen=True, slots=True)
class JsonOutput:
    """The answer must be JSON; with ``schema``: of that schema."""

    schema: Json | None = None
    name: str = ""
    strict: bool | None = None
    description: str = ""
    """A description of the answer for the model."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters; None = the vendor's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    effort: str | None = None
    """Reasoning effort: none, minimal, low, medium, high, xhigh, max."""
    thinking_budget_tokens: int | None = None
    """Anthropic's ``thinking.budget_tokens``; 0 = thinking explicitly off."""
    adaptive_thinking: bool = False
    """Anthropic's ``thinking: {type: adaptive}``: the model decides how much to think."""
    verbosity: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """The neutral form of a request."""

    messages: tuple[Message, ...]
    """In order, system messages included in place."""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    json_output: JsonOutput | None = None
    sampling: Sampling = field(default_factory=Sampling)
    user: str = ""
    """The end user's id for the vendor's abuse detection."""
    metadata: Json | None = None
    service_tier: str = ""
    hints: tuple[str, ...] = ()
    """Fields that are only performance hints or labels (``prompt_cache_key`` ...): dropped where the target
    has no counterpart, and named in ``x-slipstream-dropped``."""
    source: Dialect | None = field(default=None, compare=False)
    """The dialect it was read from, so that errors use the caller's field names."""


class PlainRequest(NamedTuple):
    """A request that is plain text turns and common sampling fields, whatever its dialect."""

    turns: Sequence[object]
    """In order; each encodes to JSON as ``{"role": ..., "content": ...}``, the system prompt first."""
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    stop: tuple[str, ...] | None
    model: str
    stream: bool
    include_usage: bool


@dataclass(slots=True)
class ChatRequest:
    """A client's request for one answer. Treated as immutable (not ``frozen``: one is made per request)."""

    dialect: Dialect
    model: str
    """As requested: ``auto``, a configured name, or ``agent/<name>``."""
    stream: bool
    body: Json
    """The parsed body, keys in the client's order; never changed."""
    raw: bytes
    """The body as received."""
    include_usage: bool = False
    """Chat dialect: the caller asked for the usage chunk (``stream_options.include_usage``)."""
    forward_headers: tuple[tuple[bytes, bytes], ...] = ()
    """Vendor headers forwarded to an upstream of the same dialect (``anthropic-beta`` ...)."""
    plain: PlainRequest | None = None
    """The parsed request where it is surely plain; None also where that was not checked."""
    terms: AnswerTerms | None = None
    """What an output contract requires of the chosen model; None where none applies."""

    def with_body(self, body: Json, raw: bytes) -> ChatRequest:
        """The same caller's request with another body; ``raw`` are its bytes."""
        return ChatRequest(
            self.dialect,
            self.model,
            self.stream,
            body,
            raw,
            self.include_usage,
            self.forward_headers,
            None,
            self.terms,
        )


class AnswerTerms(Protocol):
    """The part of an output contract that depends on the model; see ``app.prompts.terms``."""

    @property
    def key(self) -> str:
        """Identifies these terms: answers under different terms are never shared."""
        ...

    @property
    def hides_reasoning(self) -> bool:
        """Whether the answer comes without the model's reasoning."""
        ...

    def of_many(self) -> AnswerTerms:
        """The terms that apply to a call for several answers at once."""
        ...

    def native(self, request: ChatRequest, model: Model) -> tuple[ChatRequest, str]:
        """``request`` for ``model`` in the client's own dialect, and the prefill ("" = none)."""
        ...

    def neutral(self, conversation: Conversation, model: Model) -> tuple[Conversation, str]:
        """Likewise, on the way to another dialect."""
        ...
