"""Read Anthropic Messages streams: pass them through unchanged, or parse them into neutral events.

A tool call is sealed at its ``content_block_stop``. Usage is cumulative: ``message_delta`` overwrites the
counts of ``message_start``. ``ping`` and blocks and events of unknown types are skipped.
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
from app.errors import UpstreamProtocol
from app.wire.anthropic_messages_answer import (
    Block,
    WireMessage,
    WireUsage,
    arguments_of,
    read_refusal_reason,
    read_stop_reason,
    read_usage,
)
from app.wire.event_reader import EventReader
from app.wire.failures import read_stream_error
from app.wire.passthrough import PassthroughReader
from app.wire.sse import read_events


class _Delta(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: object = None


class _Event(msgspec.Struct):
    type: str
    index: int | None = None
    delta: _Delta | None = None
    content_block: Block | None = None
    message: WireMessage | None = None
    usage: WireUsage | None = None
    error: object = None
    request_id: str | None = None


_LINES = 3
"""Line ends in a frame of one ``event`` and one ``data`` line."""
_EVENT = msgspec.json.Decoder(_Event)
_FAILURES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _decode(data: bytes) -> _Event:
    try:
        return _EVENT.decode(data)
    except _FAILURES as exc:
        raise UpstreamProtocol(
            "The upstream sent an event that is not of the Messages API."
        ) from exc


class MessagesPassthrough(PassthroughReader):
    """Pass events through unchanged."""

    __slots__ = ("_usage_frames",)
    text_mark = b'"text":"'

    def __init__(self) -> None:
        """Start before the first byte."""
        super().__init__()
        self._usage_frames: list[bytes] = []

    def _ordinary(self, frames: bytes) -> int:
        return frames.startswith(b"event: content_block_delta\n") and frames.count(b"\n") == _LINES

    def _inspect(self, frames: bytes) -> bytes:
        # Only the rare events contain these names; nearly every event is a block delta.
        if b'"message_start"' in frames:
            self._usage_frames = [frames]
        if b'"message_delta"' in frames or b'"message_stop"' in frames or b'"error"' in frames:
            self._read_rare(frames)
        return frames

    def _read_rare(self, frames: bytes) -> None:
        for event in read_events(frames):
            try:
                parsed = _EVENT.decode(event.data)
            except _FAILURES:
                continue
            if parsed.type == "message_stop":
                self.complete = self.failure is None
            elif parsed.type == "message_delta":
                if parsed.usage is not None:
                    self._usage_frames.append(frames)
                if parsed.delta is not None and parsed.delta.stop_reason:
                    self.finish = read_stop_reason(parsed.delta.stop_reason).value
            elif parsed.type == "error":
                self.failure = read_stream_error(parsed.error, event.data)
                self.complete = False

    def _usage(self) -> Usage | None:
        usage: Usage | None = None
        for event in read_events(b"".join(self._usage_frames)):
            try:
                parsed = _EVENT.decode(event.data)
            except _FAILURES:
                continue
            if parsed.message is not None and parsed.message.usage is not None:
                usage = read_usage(parsed.message.usage)
            elif parsed.usage is not None:
                usage = read_usage(parsed.usage, usage)
        return usage


@dataclass(slots=True)
class _OpenBlock:
    """An open content block; ``call`` is its index among the tool calls."""

    kind: str
    id: str = ""
    name: str = ""
    call: int = 0
    initial: str = "{}"
    signature: str = ""
    pieces: list[str] = field(default_factory=list)


class MessagesReader(EventReader):
    """Bytes of a Messages stream in, neutral events out."""

    def __init__(self) -> None:
        """Start before the first byte."""
        super().__init__()
        self._blocks: dict[int, _OpenBlock] = {}
        self._calls = 0
        self._finished: Finished | None = None
        self._refusal_reason = ""
        self._has_text = False

    def _event(self, data: bytes, events: list[Event]) -> None:
        event = _decode(data)
        match event.type:
            case "content_block_delta":
                if event.delta is not None:
                    self._delta(event.index or 0, event.delta, events)
            case "content_block_start":
                if event.content_block is not None:
                    self._begin(event.index or 0, event.content_block, events)
            case "content_block_stop":
                self._stop(event.index or 0, events)
            case "message_start":
                message = event.message or WireMessage()
                self.usage = read_usage(message.usage) if message.usage else None
                events.append(
                    AnswerStarted(
                        message.id or "",
                        message.model or "",
                        usage=self.usage,
                        diagnostics=message.diagnostics,
                    )
                )
            case "message_delta":
                self._message_delta(event)
            case "message_stop":
                self._end_answer(events)
            case "error":
                self.failure = read_stream_error(event.error, data)
            case _:
                pass

    def _begin(self, index: int, block: Block, events: list[Event]) -> None:
        opened = _OpenBlock(block.type, block.id or "", block.name or "", self._calls)
        self._blocks[index] = opened
        match block.type:
            case "tool_use":
                if not opened.name:
                    raise UpstreamProtocol("The upstream began a tool call without a name.")
                self._calls += 1
                opened.initial = arguments_of(block)
                events.append(ToolCallStarted(opened.call, opened.id, opened.name))
            case "text" if block.text:
                self._has_text = True
                events.append(TextDelta(block.text))
            case "thinking" if block.thinking:
                events.append(ThinkingDelta(block.thinking))
            case "redacted_thinking":
                events.append(RedactedThinking(block.data or ""))
            case _:
                pass

    def _delta(self, index: int, delta: _Delta, events: list[Event]) -> None:
        match delta.type:
            case "text_delta":
                if delta.text:
                    self._has_text = True
                    events.append(TextDelta(delta.text))
            case "input_json_delta":
                block = self._blocks.get(index)
                if block is not None and block.kind == "tool_use" and delta.partial_json:
                    block.pieces.append(delta.partial_json)
                    events.append(ToolCallDelta(block.call, delta.partial_json))
            case "thinking_delta":
                if delta.thinking:
                    events.append(ThinkingDelta(delta.thinking))
            case "signature_delta":
                block = self._blocks.get(index)
                if block is not None:
                    block.signature += delta.signature or ""
            case _:
                pass

    def _stop(self, index: int, events: list[Event]) -> None:
        block = self._blocks.pop(index, None)
        if block is None:
            return
        if block.kind == "tool_use":
            arguments = "".join(block.pieces) or block.initial
            events.append(ToolCallSealed(block.call, block.id, block.name, arguments))
        elif block.kind == "thinking":
            events.append(ThinkingSealed(block.signature))

    def _message_delta(self, event: _Event) -> None:
        if event.usage is not None:
            self.usage = read_usage(event.usage, self.usage)
        if event.delta is not None and event.delta.stop_reason:
            reason = read_stop_reason(event.delta.stop_reason)
            self._finished = Finished(reason, None, event.delta.stop_sequence)
            self._refusal_reason = read_refusal_reason(event.delta.stop_details)

    def _end_answer(self, events: list[Event]) -> None:
        if self.complete:
            return
        for index in sorted(self._blocks):
            self._stop(index, events)
        if self._refusal_reason and not self._has_text:
            events.append(RefusalDelta(self._refusal_reason))
        finished = self._finished or Finished(read_stop_reason(None))
        self.complete = True
        self.finish = finished.reason.value
        events.append(Finished(finished.reason, self.usage, finished.stop_sequence))
