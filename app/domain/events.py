"""The neutral event stream of one answer, which every dialect can be parsed into and written from.

An answer is a sequence of events in this grammar (``Frames`` may stand for any part of it)::

    AnswerStarted  (TextDelta | ThinkingDelta | ThinkingSealed | RedactedThinking | RefusalDelta
                    | ToolCallStarted ToolCallDelta* ToolCallSealed)*   Finished

``Frames`` is the fast path: complete SSE frames of the client's own dialect, exactly as the upstream sent
them. They are passed through unchanged, so nothing is re-serialised per token and no unknown field is lost.
``WholeBody`` is the same for an answer that is not streamed.

Tool calls may interleave (parallel calls); ``index`` tells them apart and counts from 0 per answer.
A call is *sealed* when its arguments are complete: that is the moment a tool can start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from app.domain.usage import Usage


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    STOP_SEQUENCE = "stop_sequence"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"
    PAUSE = "pause"
    CONTEXT_EXCEEDED = "context_exceeded"

    __hash__ = str.__hash__  # the enumeration's own is a Python call

    @property
    def complete(self) -> bool:
        """Whether the answer is complete: neither cut short, filtered nor refused."""
        return self in COMPLETE_FINISHES


COMPLETE_FINISHES = frozenset(
    {FinishReason.STOP, FinishReason.STOP_SEQUENCE, FinishReason.TOOL_CALLS}
)
"""The finish reasons of complete answers; they compare equal to their strings."""


REFUSED_FINISHES = frozenset({FinishReason.REFUSAL, FinishReason.CONTENT_FILTER})
"""The finish reasons of refusals by the model or its vendor."""


@dataclass(frozen=True, slots=True)
class AnswerStarted:
    """The first event. ``id`` and ``model`` are the upstream's own."""

    id: str
    model: str
    created_s: int = 0
    """Unix time in seconds; 0 when unknown."""
    usage: Usage | None = None
    """Prompt usage, where the dialect reports it at the start (Anthropic)."""
    diagnostics: object = None
    """The vendor's prompt-cache diagnostics, in its own form, where requested."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the visible text."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """More of the visible reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingSealed:
    """The end of a reasoning block, with the vendor's signature over it ("" where there is none)."""

    signature: str = ""


@dataclass(frozen=True, slots=True)
class RedactedThinking:
    """Reasoning that only its vendor can read; sent back unchanged."""

    data: str


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    """More of a refusal's text (OpenAI's ``refusal``)."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model begins to call a tool."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of the call's arguments: a piece of JSON text."""

    index: int
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallSealed:
    """The call's arguments are complete; ``arguments`` is the whole JSON text."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a whole answer."""

    reason: FinishReason
    usage: Usage | None = None
    stop_sequence: str | None = None
    diagnostics: object = None
    """As in ``AnswerStarted``, for vendors that send it at the end."""


@dataclass(slots=True)
class Frames:
    """Complete SSE frames of the client's dialect, unchanged, blank lines included.

    Treated as immutable; not ``frozen``, because one is made per token and freezing triples the cost.
    """

    data: bytes
    count: int = 1
    """Number of ``data:`` frames; approximates the number of tokens."""


@dataclass(slots=True)
class WholeBody:
    """A complete JSON answer of the client's dialect, unchanged. Treated as immutable (see ``Frames``)."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """A status note for the user; an SSE comment in the vendors' dialects."""

    text: str


Event = (
    AnswerStarted
    | TextDelta
    | ThinkingDelta
    | ThinkingSealed
    | RedactedThinking
    | RefusalDelta
    | ToolCallStarted
    | ToolCallDelta
    | ToolCallSealed
    | Finished
    | Frames
    | WholeBody
    | Progress
)

Emit = Callable[[Event], Awaitable[None]]
"""Emit one event; awaiting it applies back-pressure. Raises when the receiver is gone."""

Offer = Callable[[Frames | WholeBody], bool]
"""A non-blocking ``Emit``: accepts the event at once, or returns False without effect."""


Pipe = Callable[[bytes, bytes], bool]
"""An ``Offer`` of one ordinary frame, passed as its bytes and as the HTTP/1.1 chunk that contained it."""


def pipe_of(emit: Emit) -> Pipe | None:
    """The ``Pipe`` of ``emit``'s receiver while a stream is open; None where there is none (any more)."""
    open_pipe: Callable[[], Pipe | None] | None = getattr(emit, "pipe", None)
    return None if open_pipe is None else open_pipe()


def offer_of(emit: Emit) -> Offer | None:
    """The ``Offer`` of ``emit``'s receiver, where it has one."""
    return getattr(emit, "offer", None)


@dataclass(frozen=True, slots=True)
class TextBlock:
    """A piece of visible text of a whole answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingBlock:
    """A piece of visible reasoning with its vendor's signature."""

    text: str
    signature: str = ""


@dataclass(frozen=True, slots=True)
class RedactedThinkingBlock:
    """Reasoning that only its vendor can read."""

    data: str


@dataclass(frozen=True, slots=True)
class RefusalBlock:
    """The text of a refusal."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallBlock:
    """A call of a tool; ``arguments`` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


AnswerBlock = TextBlock | ThinkingBlock | RedactedThinkingBlock | RefusalBlock | ToolCallBlock


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer in neutral form: stored by the cache, and the source of JSON responses."""

    id: str
    model: str
    blocks: tuple[AnswerBlock, ...]
    finish: FinishReason
    usage: Usage = field(default_factory=Usage)
    created_s: int = 0
    stop_sequence: str | None = None
    diagnostics: object = field(default=None, compare=False)
    """See ``AnswerStarted``."""

    @property
    def text(self) -> str:
        """The visible text, blocks joined."""
        return "".join(block.text for block in self.blocks if isinstance(block, TextBlock))

    @property
    def tool_calls(self) -> tuple[ToolCallBlock, ...]:
        """The calls of tools, in order."""
        return tuple(block for block in self.blocks if isinstance(block, ToolCallBlock))


@dataclass(slots=True)
class AnswerBuilder:
    """Folds events into an ``Answer``; mutable, owned by one turn."""

    started: AnswerStarted | None = None
    finished: Finished | None = None
    _parts: list[list[object]] = field(default_factory=list)
    _calls: dict[int, list[object]] = field(default_factory=dict)

    def add(self, event: Event) -> None:  # noqa: C901 - one arm an event
        """Add one event; ``Frames``, ``WholeBody`` and ``Progress`` are ignored."""
        match event:
            case AnswerStarted():
                self.started = event
            case TextDelta(text):
                self._append("text", text)
            case ThinkingDelta(text):
                self._append("thinking", text)
            case ThinkingSealed(signature):
                self._seal_thinking(signature)
            case RedactedThinking(data):
                self._parts.append(["redacted", data])
            case RefusalDelta(text):
                self._append("refusal", text)
            case ToolCallStarted(index, call_id, name):
                part: list[object] = ["call", call_id, name, ""]
                self._calls[index] = part
                self._parts.append(part)
            case ToolCallDelta(index, arguments):
                self._calls[index][3] = str(self._calls[index][3]) + arguments
            case ToolCallSealed(index, _, _, arguments):
                self._calls[index][3] = arguments
            case Finished():
                self.finished = event
            case Frames() | WholeBody() | Progress():
                pass

    def _append(self, kind: str, text: str) -> None:
        if self._parts and self._parts[-1][0] == kind:
            self._parts[-1].append(text)
        else:
            self._parts.append([kind, text])

    def _seal_thinking(self, signature: str) -> None:
        if self._parts and self._parts[-1][0] == "thinking":
            self._parts[-1][0] = "sealed"
            self._parts[-1].append(signature)
        else:
            self._parts.append(["sealed", "", signature])

    def answer(self) -> Answer | None:
        """The answer, or None while the stream has not finished."""
        if self.started is None or self.finished is None:
            return None
        usage = self.finished.usage or self.started.usage or Usage()
        return Answer(
            id=self.started.id,
            model=self.started.model,
            blocks=tuple(_block(part) for part in self._parts),
            finish=self.finished.reason,
            usage=usage,
            created_s=self.started.created_s,
            stop_sequence=self.finished.stop_sequence,
        )


def _block(part: list[object]) -> AnswerBlock:
    kind, rest = part[0], [str(piece) for piece in part[1:]]
    match kind:
        case "text":
            return TextBlock("".join(rest))
        case "thinking":
            return ThinkingBlock("".join(rest))
        case "sealed":
            return ThinkingBlock("".join(rest[:-1]), rest[-1])
        case "redacted":
            return RedactedThinkingBlock(rest[0])
        case "refusal":
            return RefusalBlock("".join(rest))
        case _:
            return ToolCallBlock(rest[0], rest[1], rest[2])
