"""Write Responses streams: neutral events in, typed events with a sequence number out.

Items are strictly sequential (``BlockSequencer`` orders them), and the last event contains the complete
response object, built from the same items.
"""

from __future__ import annotations

from contextlib import suppress

from app.domain.chat import ChatRequest
from app.domain.events import (
    AnswerStarted,
    Event,
    Finished,
    Frames,
    Progress,
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
from app.errors import GatewayError, UpstreamProtocol
from app.wire import json_text
from app.wire.block_sequencer import BlockSequencer
from app.wire.failures import openai_error
from app.wire.identity import answer_id, created_s
from app.wire.openai_responses_answer import (
    ID_PREFIX,
    Item,
    begin_response,
    call_item,
    finish_response,
    item_id,
    message_item,
    reasoning_item,
    text_part,
)
from app.wire.reasoning_seal import seal_redacted, seal_signature
from app.wire.sse import comment_frame, event_frame, read_events

_TEXT_DELTA = b"response.output_text.delta"
_TEXT_HEAD = b"event: " + _TEXT_DELTA + b'\ndata: {"type":"' + _TEXT_DELTA + b'","sequence_number":'


class ResponsesWriter:
    """Neutral events in, Responses events out."""

    def __init__(self, request: ChatRequest) -> None:
        """Write for the client of ``request``."""
        self._request = request
        self._sequencer = BlockSequencer()
        self._sequence = 0
        self._response: Item | None = None
        self._identity = ""
        self._items: list[Item] = []
        self._open = ""
        """The type of the open item: message, reasoning, function_call, or "" when none is."""
        self._part = ""
        """The type of the open content part of a message: output_text or refusal."""
        self._pieces: list[str] = []
        self._parts: list[Item] = []
        self._text_middle = b""
        self._item_id = ""
        self._call = ("", "")
        self._forwarded = b""
        """The frames passed through last."""

    def write(self, event: Event) -> bytes:
        """Serialise one event, opening and closing items and parts around it."""
        if isinstance(event, Frames):
            self._forwarded = event.data
            return event.data
        if isinstance(event, Progress):
            return comment_frame(event.text)
        if type(event) is TextDelta and self._part == "output_text":
            return self._text(event.text)
        return b"".join([self._write(ready) for ready in self._sequencer.order(event)])

    def fail(self, error: GatewayError, request_id: str) -> bytes:  # noqa: ARG002 (the dialect has no place for it)
        """An ``error`` event; it ends the stream.

        Its fields are at the top level, as the event's type defines, and again under ``error``, where the
        official client looks for them.
        """
        self._sequence = max(self._sequence, _next_sequence_number(self._forwarded))
        inner = openai_error(error)
        flat = {name: inner[name] for name in ("code", "message", "param")}
        return self._emit("error", {**flat, "error": inner})

    def end(self) -> bytes:
        """Empty: ``response.completed`` has already ended the stream."""
        return b""

    def _write(self, event: Event) -> bytes:  # noqa: C901, PLR0911 (one arm an event)
        match event:
            case AnswerStarted():
                return self._start(event)
            case TextDelta(text):
                return self._enter_part("output_text") + self._text(text)
            case RefusalDelta(text):
                opening = self._enter_part("refusal")
                self._pieces.append(text)
                return opening + self._emit(
                    "response.refusal.delta", {**self._at_part(), "delta": text}
                )
            case ThinkingDelta(text):
                return self._reasoning(text)
            case ThinkingSealed(signature):
                return self._seal_reasoning(seal_signature(signature))
            case RedactedThinking(data):
                return self._close() + self._seal_reasoning(seal_redacted(data))
            case ToolCallStarted(_, call_id, name):
                return self._begin_call(call_id, name)
            case ToolCallDelta(_, arguments):
                self._pieces.append(arguments)
                return self._arguments(arguments)
            case ToolCallSealed(_, _, _, arguments):
                arguments_delta = b"" if self._pieces else self._arguments(arguments)
                self._pieces = [arguments]
                return arguments_delta + self._close()
            case Finished():
                return self._finish(event)
            case _:
                return b""

    def _emit(self, kind: str, rest: dict[str, object]) -> bytes:
        event = {"type": kind, "sequence_number": self._sequence, **rest}
        self._sequence += 1
        return event_frame(kind.encode(), json_text.encode(event))

    def _start(self, started: AnswerStarted) -> bytes:
        self._identity = answer_id(started.id, ID_PREFIX)
        made = created_s(started.created_s)
        self._response = begin_response(self._request, self._identity, started.model, made)
        return self._emit("response.created", {"response": self._response}) + self._emit(
            "response.in_progress", {"response": self._response}
        )

    def _begin(self, kind: str) -> bytes:
        """Close the open item and begin one of ``kind``; the caller writes its ``added`` event."""
        opening = self._start(AnswerStarted("", "")) if self._response is None else b""
        opening += self._close()
        self._open = kind
        self._pieces = []
        prefix = {"message": "msg", "reasoning": "rs"}.get(kind, "fc")
        self._item_id = item_id(prefix, self._identity, len(self._items))
        return opening

    def _at_item(self) -> dict[str, object]:
        return {"item_id": self._item_id, "output_index": len(self._items)}

    def _at_part(self) -> dict[str, object]:
        return {**self._at_item(), "content_index": len(self._parts)}

    def _added(self, item: Item) -> bytes:
        return self._emit(
            "response.output_item.added", {"output_index": len(self._items), "item": item}
        )

    def _done(self, item: Item) -> bytes:
        written = self._emit(
            "response.output_item.done", {"output_index": len(self._items), "item": item}
        )
        self._items.append(item)
        self._open = ""
        self._pieces = []
        return written

    # ------------------------------------------------------------ messages
    def _enter_part(self, kind: str) -> bytes:
        if self._part == kind:
            return b""
        opening = b""
        if self._open != "message":
            opening = self._begin("message")
            self._parts = []
            opening += self._added(message_item(self._item_id, [], "in_progress"))
        opening += self._close_part()
        self._part = kind
        self._pieces = []
        rest = json_text.encode({**self._at_part(), "delta": ""})
        self._text_middle = b"," + rest[1 : -len(b'""}')]
        added = {**self._at_part(), "part": self._made_part("")}
        return opening + self._emit("response.content_part.added", added)

    def _made_part(self, text: str) -> Item:
        return (
            text_part(text) if self._part == "output_text" else {"type": "refusal", "refusal": text}
        )

    def _text(self, text: str) -> bytes:
        self._pieces.append(text)
        number = b"%d" % self._sequence
        self._sequence += 1
        return (
            _TEXT_HEAD
            + number
            + self._text_middle
            + json_text.encode(text)
            + b',"logprobs":[]}\n\n'
        )

    def _close_part(self) -> bytes:
        if not self._part:
            return b""
        text = "".join(self._pieces)
        at = self._at_part()
        if self._part == "output_text":
            written = self._emit("response.output_text.done", {**at, "text": text, "logprobs": []})
        else:
            written = self._emit("response.refusal.done", {**at, "refusal": text})
        part = self._made_part(text)
        written += self._emit("response.content_part.done", {**at, "part": part})
        self._parts.append(part)
        self._part = ""
        return written

    # ------------------------------------------------------------ reasoning
    def _reasoning(self, text: str) -> bytes:
        opening = b""
        if self._open != "reasoning":
            opening = self._begin("reasoning")
            opening += self._added(reasoning_item(self._item_id, "", None))
        if not self._pieces:
            part = {"type": "summary_text", "text": ""}
            at = {**self._at_item(), "summary_index": 0}
            opening += self._emit("response.reasoning_summary_part.added", {**at, "part": part})
        self._pieces.append(text)
        return opening + self._emit(
            "response.reasoning_summary_text.delta",
            {**self._at_item(), "summary_index": 0, "delta": text},
        )

    def _seal_reasoning(self, encrypted_content: str | None) -> bytes:
        opening = b""
        if self._open != "reasoning":
            opening = self._begin("reasoning")
            opening += self._added(reasoning_item(self._item_id, "", None))
        text = "".join(self._pieces)
        written = b""
        if text:
            at = {**self._at_item(), "summary_index": 0}
            part = {"type": "summary_text", "text": text}
            written = self._emit("response.reasoning_summary_text.done", {**at, "text": text})
            written += self._emit("response.reasoning_summary_part.done", {**at, "part": part})
        return (
            opening + written + self._done(reasoning_item(self._item_id, text, encrypted_content))
        )

    # ------------------------------------------------------------ calls
    def _begin_call(self, call_id: str, name: str) -> bytes:
        opening = self._begin("function_call")
        self._call = (call_id, name)
        return opening + self._added(call_item(self._item_id, call_id, name, "", "in_progress"))

    def _arguments(self, arguments: str) -> bytes:
        return self._emit(
            "response.function_call_arguments.delta", {**self._at_item(), "delta": arguments}
        )

    def _close(self) -> bytes:
        """Close the open item, whatever it is."""
        match self._open:
            case "message":
                written = self._close_part()
                return written + self._done(message_item(self._item_id, self._parts))
            case "reasoning":
                return self._seal_reasoning(None)
            case "function_call":
                arguments = "".join(self._pieces) or "{}"
                done = {**self._at_item(), "name": self._call[1], "arguments": arguments}
                written = self._emit("response.function_call_arguments.done", done)
                return written + self._done(call_item(self._item_id, *self._call, arguments))
            case _:
                return b""

    def _finish(self, finished: Finished) -> bytes:
        written = self._start(AnswerStarted("", "")) if self._response is None else b""
        written += self._close()
        response = dict(self._response or {})
        response["output"] = self._items
        finish_response(response, finished.reason, finished.usage or Usage())
        kind = "response.completed" if response["status"] == "completed" else "response.incomplete"
        return written + self._emit(kind, {"response": response})


def _next_sequence_number(frames: bytes) -> int:
    """The sequence number after those of an upstream's own events; 0 where they have none."""
    following = 0
    for event in read_events(frames):
        with suppress(UpstreamProtocol):
            number = json_text.decode_upstream_object(event.data).get("sequence_number")
            following = number + 1 if isinstance(number, int) else following
    return following
