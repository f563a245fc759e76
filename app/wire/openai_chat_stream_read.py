"""Read Chat Completions streams: pass them through unchanged, or parse them into neutral events.

A tool call is sealed when the next one begins (and its arguments are complete JSON) or at the
``finish_reason``. The neutral ``Finished`` waits for usage, which follows the ``finish_reason``: it is
emitted with the usage-only chunk, with ``[DONE]``, or at the end of the stream, whichever comes first.

Tolerated, because real servers do it: no ``index`` in a tool call's piece, the same index for
several calls, no id, no ``[DONE]``, a ``finish_reason`` before the last delta or twice, usage in the last
chunk with choices, ``reasoning_content`` or ``reasoning`` deltas, content in parts, unknown events and
fields.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from app.domain.events import (
    AnswerStarted,
    Event,
    Finished,
    Frames,
    RefusalDelta,
    TextDelta,
    ThinkingDelta,
    ThinkingSealed,
    ToolCallDelta,
    ToolCallSealed,
    ToolCallStarted,
)
from app.domain.usage import Usage
from app.errors import UpstreamClosed, UpstreamProtocol
from app.wire import json_text
from app.wire.event_reader import EventReader
from app.wire.failures import read_stream_error
from app.wire.openai_chat_answer import (
    WireUsage,
    fallback_call_id,
    read_arguments,
    read_content,
    read_created,
    read_finish,
    read_usage,
)
from app.wire.passthrough import PassthroughReader
from app.wire.sse import read_events, split_frames

_DONE = b"[DONE]"
_DONE_EVENT = b"data: [DONE]"
_LINE_END = ord("\n")
_CARRIAGE_RETURN = ord("\r")
_USUAL_WORDS = {
    word: read_finish(word, called=False, refused=False).value
    for word in ("stop", "length", "tool_calls")
}
_DONE_LINE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]")
_USAGE_OBJECT = re.compile(rb'"usage"\s*:\s*\{')
_FINISH_WORD = re.compile(rb'"finish_reason"\s*:\s*"([A-Za-z_]{1,32})"')


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: object = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: object = None
    tool_calls: list[_ToolCall] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: object = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None
    index: int | None = None


class _Chunk(msgspec.Struct):
    id: str | None = None
    created: object = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: WireUsage | None = None
    error: object = None


_CHUNK = msgspec.json.Decoder(_Chunk)


def _decode(data: bytes) -> _Chunk:
    try:
        return _CHUNK.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UpstreamProtocol(
            "The upstream sent an event that is not a Chat Completions chunk."
        ) from exc


class ChatPassthrough(PassthroughReader):
    """Pass chunks through unchanged; with ``hide_usage``, without the usage-only chunk."""

    __slots__ = ("_hide_usage", "_last_usage", "_usage_frames")
    text_mark = b'"content":"'

    def __init__(self, *, hide_usage: bool) -> None:
        """Start before the first byte."""
        super().__init__()
        self._hide_usage = hide_usage
        self._usage_frames = b""
        self._last_usage: WireUsage | None = None
        """The last usage parsed by ``_usual``."""

    def end(self) -> Sequence[Event]:
        """The upstream closed: some servers omit ``[DONE]``, so a finish reason also ends the answer."""
        events = super().end()
        if self.finish and self.failure is None:
            self.complete = True
        return events

    def ordinary(self, data: bytes) -> int:
        """See the base class; a single-token frame, the usual case, is checked without a further call."""
        end = len(data) - 2
        if data.find(b"\n") != end or end < 0 or data[-1] != _LINE_END:
            # Several frames, or no complete one.
            return 0 if self._splitter.tail or data[-2:] != b"\n\n" else self._several(data)
        if self._splitter.tail or data[:5] != b"data:" or data.find(b'"usage":{') >= 0:
            return 0
        return 1 if data.rfind(b'"finish_reason":null') >= 0 else 0

    def _ordinary(self, frames: bytes) -> int:
        # Two searches of the chunk: not finished, and no usage. An unfinished chunk is no error either; if a
        # server sends both, its stream lacks an end and is incomplete in any case.
        # (``find`` rather than ``in``, which costs three times as much for bytes.)
        if frames.find(b"\n") != len(frames) - 2:
            return self._several(frames)
        if frames[:5] != b"data:" or frames.find(b'"usage":{') >= 0:
            return 0
        return 1 if frames.rfind(b'"finish_reason":null') >= 0 else 0

    def _several(self, frames: bytes) -> int:
        """The number of frames, if each is one unfinished ``data`` line and a blank one; else 0."""
        if frames[-8:] == b"[DONE]\n\n" or frames.find(b'"usage":{') >= 0:
            return 0
        # Splitting at one byte costs a fraction of splitting at more.
        parts = frames.split(b"\n")
        lines = parts[:-1:2]
        for line in lines:
            if line[:5] != b"data:" or line.rfind(b'"finish_reason":null') < 0:
                return 0
        return 0 if any(parts[1::2]) or parts[-1] else len(lines)

    def _usual(  # noqa: C901, PLR0911, PLR0912 - inlined: it runs at every stream's end
        self, frames: bytes
    ) -> Sequence[Event] | None:
        """Handle deltas, finish reason, usage and ``[DONE]``: each one ``data`` line and a blank one."""
        if _CARRIAGE_RETURN in frames:
            return None
        word, usage, done = "", None, False
        shown: list[bytes] = []
        parts = frames.split(b"\n")  # one byte is found at a fraction of the cost of two
        if any(parts[1::2]) or parts[-1]:
            return None
        for line in parts[:-1:2]:
            if line == _DONE_EVENT:
                done = True
            elif done or line[:6] != b"data: ":
                return None
            elif line.rfind(b'"finish_reason":null') < 0 or line.find(b'"usage":{') >= 0:
                try:
                    chunk = _CHUNK.decode(line[6:])
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    return None
                if chunk.error:
                    return None
                usage = chunk.usage or usage
                if chunk.choices:
                    word = chunk.choices[-1].finish_reason or word
                elif self._hide_usage and chunk.usage is not None:
                    continue
            shown.append(line)
        if word:
            finish = _USUAL_WORDS.get(word)
            if finish is None:
                return None
            self.finish = finish
        if usage is not None:
            self._last_usage, self._usage_frames = usage, b""
        self.complete = self.complete or (done and self.failure is None)
        if not shown:
            return ()
        count = len(shown)
        if 2 * count + 1 < len(parts):
            shown.append(b"")
            frames = b"\n\n".join(shown)
        return (Frames(frames, count),)

    def _inspect(self, frames: bytes) -> bytes:
        # Find it first: a regular expression over the whole chunk costs 20,000 instructions.
        at = frames.rfind(b'"finish_reason":"')
        match = _FINISH_WORD.match(frames, at) if at >= 0 else None
        if match is not None and frames.find(b'"finish_reason" ') < 0:
            self._finished(match[1].decode())
        elif frames.find(b'"finish_reason"') >= 0:
            found = _FINISH_WORD.findall(frames)
            if found:
                self._finished(found[-1].decode())
        if frames.find(_DONE) >= 0 and (
            frames.find(b"\ndata: [DONE]") >= 0 or _DONE_LINE.search(frames)
        ):
            self.complete = self.failure is None
        if frames.find(b'"error"') >= 0:
            self._check_for_error(frames)
        if frames.find(b'"usage"') >= 0 and (
            frames.find(b'"usage":{') >= 0 or _USAGE_OBJECT.search(frames)
        ):
            return self._inspect_usage(frames)
        return frames

    def _inspect_usage(self, frames: bytes) -> bytes:
        shown, usage_frames = [], []
        for frame in split_frames(frames):
            if frame.find(b'"usage"') >= 0:
                usage_frames.append(frame)
                if self._hide_usage and _only_usage(frame):
                    continue
            shown.append(frame)
        self._usage_frames, self._last_usage = b"".join(usage_frames), None
        return b"".join(shown) if self._hide_usage else frames

    def _finished(self, word: str) -> None:
        try:
            self.finish = read_finish(word, called=False, refused=False).value
        except UpstreamClosed as exc:
            self.failure = exc

    def _check_for_error(self, frames: bytes) -> None:
        for event in read_events(frames):
            if b'"error"' not in event.data:
                continue
            try:
                error = _CHUNK.decode(event.data).error
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if error:
                self.failure = read_stream_error(error, event.data)
                self.complete = False

    def _usage(self) -> Usage | None:
        if self._last_usage is not None:
            return read_usage(self._last_usage)
        usage: Usage | None = None
        for event in read_events(self._usage_frames):
            try:
                wire_usage = _CHUNK.decode(event.data).usage
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if wire_usage is not None:
                usage = read_usage(wire_usage)
        return usage


def _only_usage(frame: bytes) -> bool:
    for event in read_events(frame):
        try:
            chunk = _CHUNK.decode(event.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if chunk.usage is not None and not chunk.choices:
            return True
    return False


@dataclass(slots=True)
class _Call:
    """An open tool call."""

    index: int
    id: str
    name: str
    pieces: list[str] = field(default_factory=list)
    sealed: bool = False

    def seal(self) -> ToolCallSealed:
        self.sealed = True
        return ToolCallSealed(self.index, self.id, self.name, "".join(self.pieces) or "{}")


class ChatReader(EventReader):
    """Bytes of a Chat Completions stream in, neutral events out."""

    def __init__(self) -> None:
        """Start before the first byte."""
        super().__init__()
        self._started = False
        self._ended = False
        self._thinking = False
        self._refused = False
        self._word = ""
        self._calls: list[_Call] = []
        self._by_upstream_index: dict[int, _Call] = {}

    def end(self) -> Sequence[Event]:
        """The upstream closed: emit what is still pending."""
        return [*super().end(), *self._finish()]

    def _event(self, data: bytes, events: list[Event]) -> None:
        chunk = _decode(data)
        if chunk.error:
            self.failure = read_stream_error(chunk.error, data)
            return
        if not self._started and (chunk.choices or chunk.id):
            self._started = True
            events.append(
                AnswerStarted(chunk.id or "", chunk.model or "", read_created(chunk.created))
            )
        for choice in chunk.choices or ():
            # Only one choice was requested; others would be mixed into it.
            if choice.index:
                continue
            if choice.delta is not None:
                self._delta(choice.delta, events)
            if choice.finish_reason:
                self._word = choice.finish_reason
                self._seal_all(events)
        if chunk.usage is not None:
            self.usage = read_usage(chunk.usage)
            if self._word and not chunk.choices:
                events.extend(self._finish())

    def _delta(self, delta: _Delta, events: list[Event]) -> None:
        reasoning = delta.reasoning_content or delta.reasoning
        if isinstance(reasoning, str) and reasoning:
            self._thinking = True
            events.append(ThinkingDelta(reasoning))
        if delta.content:
            self._content(delta.content, events)
        if delta.refusal:
            self._seal_thinking(events)
            self._refused = True
            events.append(RefusalDelta(delta.refusal))
        for piece in delta.tool_calls or ():
            self._seal_thinking(events)
            self._tool_piece(piece, events)

    def _content(self, content: object, events: list[Event]) -> None:
        if isinstance(content, str):
            self._seal_thinking(events)
            events.append(TextDelta(content))
            return
        for thought, text in read_content(content):
            if thought:
                self._thinking = True
                events.append(ThinkingDelta(text))
            else:
                self._seal_thinking(events)
                events.append(TextDelta(text))

    def _seal_thinking(self, events: list[Event]) -> None:
        if self._thinking:
            self._thinking = False
            events.append(ThinkingSealed())

    def _tool_piece(self, piece: _ToolCall, events: list[Event]) -> None:
        call = self._call_of(piece, events)
        arguments = read_arguments(piece.function.arguments) if piece.function else ""
        if not arguments:
            return
        if call.sealed:
            if arguments.strip():
                raise UpstreamProtocol(
                    "The upstream continued a tool call that was already complete."
                )
            return
        call.pieces.append(arguments)
        events.append(ToolCallDelta(call.index, arguments))

    def _call_of(self, piece: _ToolCall, events: list[Event]) -> _Call:
        name = (piece.function.name if piece.function else None) or ""
        known = self._known(piece)
        # A second id under a known index is a new call: some servers number every call 0.
        if known is not None and not (piece.id and name and piece.id != known.id):
            return known
        if not name:
            raise UpstreamProtocol("The upstream began a tool call without a name.")
        self._seal_complete(events)
        index = len(self._calls)
        call = _Call(index, piece.id or fallback_call_id(index), name)
        self._calls.append(call)
        if piece.index is not None:
            self._by_upstream_index[piece.index] = call
        events.append(ToolCallStarted(index, call.id, name))
        return call

    def _known(self, piece: _ToolCall) -> _Call | None:
        if piece.index is not None:
            return self._by_upstream_index.get(piece.index)
        if piece.id:
            return next((call for call in self._calls if call.id == piece.id), None)
        if piece.function is not None and piece.function.name:
            return None
        return self._calls[-1] if self._calls else None

    def _seal_complete(self, events: list[Event]) -> None:
        """The next call begins: seal the previous ones whose arguments are complete JSON.

        A call without arguments so far may still get some, so it waits for the finish reason.
        """
        events.extend(
            call.seal()
            for call in self._calls
            if not call.sealed and call.pieces and json_text.is_json("".join(call.pieces))
        )

    def _seal_all(self, events: list[Event]) -> None:
        self._seal_thinking(events)
        events.extend(call.seal() for call in self._calls if not call.sealed)

    def _on_done(self) -> Sequence[Event]:
        return self._finish()

    def _finish(self) -> list[Event]:
        if self._ended or not self._word or self.failure is not None:
            return []
        self._ended = True
        try:
            reason = read_finish(self._word, called=bool(self._calls), refused=self._refused)
        except UpstreamClosed as exc:
            self.failure = exc
            return []
        events: list[Event] = []
        self._seal_all(events)
        self.finish = reason.value
        self.complete = True
        events.append(Finished(reason, self.usage))
        return events
