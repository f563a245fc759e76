"""Write Anthropic Messages streams: neutral events in, Messages events out.

Blocks are strictly sequential with a growing ``index``; a call that starts while another is open is queued by
``BlockSequencer``.
"""

from __future__ import annotations

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
from app.errors import GatewayError
from app.wire import json_text
from app.wire.anthropic_messages_answer import (
    ID_PREFIX,
    write_stop_reason,
    write_usage,
)
from app.wire.block_sequencer import BlockSequencer
from app.wire.failures import anthropic_error
from app.wire.identity import answer_id
from app.wire.sse import comment_frame, event_frame

_TEXT_HEAD = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":'
_TEXT_MIDDLE = b',"delta":{"type":"text_delta","text":'


class MessagesWriter:
    """Neutral events in, Messages events out."""

    def __init__(self, request: ChatRequest) -> None:
        """Write for the client of ``request``."""
        self._request = request
        self._sequencer = BlockSequencer()
        self._index = -1
        self._open = ""
        """The type of the open block, "" when none is."""
        self._text_head = b""
        self._started = False
        self._arguments_sent = False

    def write(self, event: Event) -> bytes:
        """Serialise one event, opening and closing blocks around it."""
        if isinstance(event, Frames):
            return event.data
        if isinstance(event, Progress):
            return comment_frame(event.text)
        if type(event) is TextDelta and self._open == "text":
            return self._text_head + json_text.encode(event.text) + b"}}\n\n"
        return b"".join([self._write(ready) for ready in self._sequencer.order(event)])

    def fail(self, error: GatewayError, request_id: str) -> bytes:
        """The ``error`` event that the official client raises; it ends the stream."""
        return _frame(anthropic_error(error, request_id))

    def end(self) -> bytes:
        """Empty: ``message_stop`` has already ended the stream."""
        return b""

    def _write(self, event: Event) -> bytes:  # noqa: C901, PLR0911 (one arm an event)
        match event:
            case AnswerStarted():
                return self._start(event)
            case TextDelta(text) | RefusalDelta(text):
                return self._enter("text", {"type": "text", "text": ""}) + (
                    self._text_head + json_text.encode(text) + b"}}\n\n"
                )
            case ThinkingDelta(text):
                block = {"type": "thinking", "thinking": "", "signature": ""}
                return self._enter("thinking", block) + self._delta(
                    {"type": "thinking_delta", "thinking": text}
                )
            case ThinkingSealed(signature):
                return self._seal_thinking(signature)
            case RedactedThinking(data):
                block = {"type": "redacted_thinking", "data": data}
                return self._close() + self._enter("redacted_thinking", block) + self._close()
            case ToolCallStarted(_, call_id, name):
                self._arguments_sent = False
                block_: dict[str, object] = {
                    "type": "tool_use",
                    "id": call_id,
                    "name": name,
                    "input": {},
                }
                return self._close() + self._enter("tool_use", block_)
            case ToolCallDelta(_, arguments):
                self._arguments_sent = True
                return self._delta({"type": "input_json_delta", "partial_json": arguments})
            case ToolCallSealed(_, _, _, arguments):
                arguments_delta = b""
                if not self._arguments_sent:
                    arguments_delta = self._delta(
                        {"type": "input_json_delta", "partial_json": arguments}
                    )
                return arguments_delta + self._close()
            case Finished():
                return self._finish(event)
            case _:
                return b""

    def _start(self, started: AnswerStarted) -> bytes:
        self._started = True
        message: dict[str, object] = {
            "id": answer_id(started.id, ID_PREFIX),
            "type": "message",
            "role": "assistant",
            "model": started.model or self._request.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": write_usage(started.usage or Usage()),
        }
        return _frame({"type": "message_start", "message": message})

    def _enter(self, kind: str, block: object) -> bytes:
        """Open a block of ``kind`` unless one is open already."""
        if self._open == kind:
            return b""
        opening = b"" if self._started else self._start(AnswerStarted("", ""))
        opening += self._close()
        self._index += 1
        self._open = kind
        if kind == "text":
            self._text_head = _TEXT_HEAD + str(self._index).encode() + _TEXT_MIDDLE
        return opening + _frame(
            {"type": "content_block_start", "index": self._index, "content_block": block}
        )

    def _delta(self, delta: dict[str, object]) -> bytes:
        return _frame({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _frame({"type": "content_block_stop", "index": self._index})

    def _seal_thinking(self, signature: str) -> bytes:
        written = b""
        if self._open != "thinking":
            block = {"type": "thinking", "thinking": "", "signature": ""}
            written = self._enter("thinking", block)
        if signature:
            written += self._delta({"type": "signature_delta", "signature": signature})
        return written + self._close()

    def _finish(self, finished: Finished) -> bytes:
        start = b"" if self._started else self._start(AnswerStarted("", ""))
        delta = {
            "stop_reason": write_stop_reason(finished.reason),
            "stop_sequence": finished.stop_sequence,
        }
        usage = write_usage(finished.usage or Usage())
        return (
            start
            + self._close()
            + _frame({"type": "message_delta", "delta": delta, "usage": usage})
            + _frame({"type": "message_stop"})
        )


def _frame(event: dict[str, object]) -> bytes:
    return event_frame(str(event["type"]).encode(), json_text.encode(event))
