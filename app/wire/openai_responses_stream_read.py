"""Read Responses streams: pass them through unchanged, or parse them into neutral events.

A tool call is sealed at ``response.function_call_arguments.done``, or with its item where a server omits
that event. Events and items of unknown types are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from app.domain.events import (
    AnswerStarted,
    Event,
    Finished,
    RedactedThinking,
    RefusalDelta,
    TextDelta,
    ThinkingDelta,
    ThinkingSealed,
    ToolCallDelta,
    ToolCallSealed,
    ToolCallStarted,
)
from app.domain.usage import Usage
from app.errors import UpstreamError, UpstreamProtocol
from app.wire.event_reader import EventReader
from app.wire.failures import read_stream_error
from app.wire.openai_responses_answer import WireItem, WireResponse, read_status, read_usage
from app.wire.passthrough import PassthroughReader
from app.wire.reasoning_seal import open_seal
from app.wire.sse import read_events


class _Event(msgspec.Struct):
    type: str | None = None
    delta: object = None
    output_index: int | None = None
    summary_index: int | None = None
    arguments: str | None = None
    item: WireItem | None = None
    response: WireResponse | None = None
    error: object = None
    code: object = None
    message: str | None = None
    param: str | None = None


_LINES = 3
"""Line ends in a frame of one ``event`` and one ``data`` line."""
_EVENT = msgspec.json.Decoder(_Event)
_FAILURES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_ENDINGS = frozenset({"response.completed", "response.incomplete", "response.failed"})


def _decode(data: bytes) -> _Event:
    try:
        return _EVENT.decode(data)
    except _FAILURES as exc:
        raise UpstreamProtocol(
            "The upstream sent an event that is not of the Responses API."
        ) from exc


def _failure(event: _Event, data: bytes) -> UpstreamError:
    if event.response is not None and event.response.error is not None:
        return read_stream_error(event.response.error, data)
    if event.error is not None:
        return read_stream_error(event.error, data)
    fields = {"message": event.message, "code": event.code, "param": event.param}
    return read_stream_error(fields, data)


def _finish_of(response: WireResponse) -> str:
    kinds = {item.type for item in response.output or ()}
    pieces = {piece.type for item in response.output or () for piece in item.content or ()}
    called, refused = "function_call" in kinds, "refusal" in pieces
    return read_status(response, called=called, refused=refused).value


class ResponsesPassthrough(PassthroughReader):
    """Pass events through unchanged."""

    __slots__ = ("_last_usage",)
    text_mark = b'"delta":"'

    def __init__(self) -> None:
        """Start before the first byte."""
        super().__init__()
        self._last_usage: Usage | None = None

    def _ordinary(self, frames: bytes) -> int:
        if not frames.startswith(b"event: response.") or frames.count(b"\n") != _LINES:
            return False
        return frames.startswith(b".delta", frames.find(b"\n") - len(b".delta"))

    def _inspect(self, frames: bytes) -> bytes:
        # Only the rare events contain these names; nearly every event is a delta.
        if (
            b'"response.completed"' in frames
            or b'"response.incomplete"' in frames
            or b'"response.failed"' in frames
            or b'"error"' in frames
        ):
            self._read_rare(frames)
        return frames

    def _read_rare(self, frames: bytes) -> None:
        for event in read_events(frames):
            try:
                parsed = _EVENT.decode(event.data)
            except _FAILURES:
                continue
            if (
                parsed.type in _ENDINGS
                and parsed.response is not None
                and parsed.response.usage is not None
            ):
                self._last_usage = read_usage(parsed.response.usage)
            if parsed.type in {"error", "response.failed"} or (
                parsed.type is None and parsed.error
            ):
                self.failure = _failure(parsed, event.data)
                self.complete = False
            elif parsed.type in _ENDINGS:
                self.complete = self.failure is None
                if parsed.response is not None:
                    self.finish = _finish_of(parsed.response)

    def _usage(self) -> Usage | None:
        return self._last_usage


@dataclass(slots=True)
class _Call:
    index: int
    id: str
    name: str
    pieces: list[str] = field(default_factory=list)
    sealed: bool = False


class ResponsesReader(EventReader):
    """Bytes of a Responses stream in, neutral events out."""

    def __init__(self) -> None:
        """Start before the first byte."""
        super().__init__()
        self._calls: dict[int, _Call] = {}
        self._refused = False
        self._started = False
        self._summaries: dict[int, int] = {}

    def _event(self, data: bytes, events: list[Event]) -> None:
        event = _decode(data)
        match event.type:
            case "response.output_text.delta":
                self._text(event, events)
            case "response.function_call_arguments.delta":
                self._arguments(event, events)
            case "response.function_call_arguments.done":
                self._seal(event.output_index or 0, event.arguments, events)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                self._reasoning(event, events)
            case "response.refusal.delta" if isinstance(event.delta, str):
                self._refused = True
                events.append(RefusalDelta(event.delta))
            case "response.output_item.added" if event.item is not None:
                self._added(event.output_index or 0, event.item, events)
            case "response.output_item.done" if event.item is not None:
                self._done(event.output_index or 0, event.item, events)
            case _:
                self._lifecycle(event, data, events)

    def _lifecycle(self, event: _Event, data: bytes, events: list[Event]) -> None:
        """The events about the answer as a whole: its start and its ends."""
        match event.type:
            case "response.created" | "response.in_progress" | "response.queued":
                self._start(event.response, events)
            case "response.completed" | "response.incomplete":
                self._finish(event.response or WireResponse(), events)
            case "response.failed" | "error":
                self.failure = _failure(event, data)
            case None if event.error is not None:
                self.failure = _failure(event, data)
            case _:
                pass

    def _start(self, response: WireResponse | None, events: list[Event]) -> None:
        if self._started:
            return
        self._started = True
        begun = response or WireResponse()
        events.append(AnswerStarted(begun.id or "", begun.model or "", int(begun.created_at or 0)))

    def _text(self, event: _Event, events: list[Event]) -> None:
        if isinstance(event.delta, str) and event.delta:
            events.append(TextDelta(event.delta))

    def _arguments(self, event: _Event, events: list[Event]) -> None:
        call = self._calls.get(event.output_index or 0)
        if call is not None and not call.sealed and isinstance(event.delta, str) and event.delta:
            call.pieces.append(event.delta)
            events.append(ToolCallDelta(call.index, event.delta))

    def _reasoning(self, event: _Event, events: list[Event]) -> None:
        if not isinstance(event.delta, str) or not event.delta:
            return
        output, part = event.output_index or 0, event.summary_index or 0
        if self._summaries.setdefault(output, part) != part:
            self._summaries[output] = part
            events.append(ThinkingDelta("\n\n"))
        events.append(ThinkingDelta(event.delta))

    def _added(self, output: int, item: WireItem, events: list[Event]) -> None:
        if item.type == "function_call":
            if not item.name:
                raise UpstreamProtocol("The upstream began a tool call without a name.")
            call = _Call(len(self._calls), item.call_id or item.id or "", item.name or "")
            self._calls[output] = call
            events.append(ToolCallStarted(call.index, call.id, call.name))

    def _done(self, output: int, item: WireItem, events: list[Event]) -> None:
        if item.type == "function_call":
            self._seal(output, item.arguments, events)
        elif item.type == "reasoning":
            signature, redacted = open_seal(item.encrypted_content)
            events.append(RedactedThinking(redacted) if redacted else ThinkingSealed(signature))

    def _seal(self, output: int, arguments: str | None, events: list[Event]) -> None:
        call = self._calls.get(output)
        if call is not None and not call.sealed:
            call.sealed = True
            whole = arguments or "".join(call.pieces) or "{}"
            events.append(ToolCallSealed(call.index, call.id, call.name, whole))

    def _finish(self, response: WireResponse, events: list[Event]) -> None:
        if self.complete:
            return
        self._start(response, events)
        for output in sorted(self._calls):
            self._seal(output, None, events)
        if response.usage is not None:
            self.usage = read_usage(response.usage)
        reason = read_status(response, called=bool(self._calls), refused=self._refused)
        self.finish = reason.value
        self.complete = True
        events.append(Finished(reason, self.usage, diagnostics=response.prompt_cache_diagnostics))
