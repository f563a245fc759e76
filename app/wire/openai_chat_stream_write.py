"""Write Chat Completions streams: neutral events in, chunks out."""

from __future__ import annotations

from app.domain.chat import ChatRequest
from app.domain.events import (
    AnswerStarted,
    Event,
    Finished,
    Frames,
    Progress,
    RefusalDelta,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallSealed,
    ToolCallStarted,
)
from app.domain.usage import Usage
from app.errors import GatewayError
from app.wire import json_text
from app.wire.failures import openai_error
from app.wire.identity import answer_id, created_s
from app.wire.openai_chat_answer import (
    ID_PREFIX,
    write_finish,
    write_usage,
)
from app.wire.sse import comment_frame, data_frame


class ChatWriter:
    """Neutral events in, Chat Completions chunks out.

    The constant parts of a chunk are encoded once, so that a token costs one short JSON string.
    """

    def __init__(self, request: ChatRequest) -> None:
        """Write for the client of ``request``."""
        self._request = request
        self._head = b""
        self._tail = b""
        self._usage_head = b""
        self._role_sent = False
        self._refused = False
        self._open_arguments: dict[int, bool] = {}
        self._over = False

    def write(self, event: Event) -> bytes:  # noqa: C901, PLR0911 (one arm an event)
        """Serialise one event."""
        match event:
            case TextDelta(text):
                return self._delta(b'{"content":' + json_text.encode(text) + b"}")
            case Frames(data):
                # The upstream's own frames include ``[DONE]``.
                self._over = True
                return data
            case AnswerStarted():
                return self._start(event)
            case ThinkingDelta(text):
                return self._delta(b'{"reasoning_content":' + json_text.encode(text) + b"}")
            case ToolCallStarted(index, call_id, name):
                self._open_arguments[index] = False
                function = {"name": name, "arguments": ""}
                return self._tool(
                    {"index": index, "id": call_id, "type": "function", "function": function}
                )
            case ToolCallDelta(index, arguments):
                self._open_arguments[index] = True
                return self._tool({"index": index, "function": {"arguments": arguments}})
            case ToolCallSealed(index, _, _, arguments):
                if self._open_arguments.pop(index, True):
                    return b""
                return self._tool({"index": index, "function": {"arguments": arguments}})
            case RefusalDelta(text):
                self._refused = True
                return self._delta(b'{"refusal":' + json_text.encode(text) + b"}")
            case Finished():
                return self._finish(event)
            case Progress(text):
                return comment_frame(text)
            case _:
                # Reasoning signatures and redacted reasoning have no field in this dialect.
                return b""

    def fail(self, error: GatewayError, request_id: str) -> bytes:  # noqa: ARG002 (the dialect has no place for it)
        """The error chunk that the official client raises; it ends the stream."""
        self._over = True
        return data_frame(json_text.encode({"error": openai_error(error)}))

    def end(self) -> bytes:
        """``[DONE]``, unless the stream failed or was passed through with its own."""
        return b"" if self._over else data_frame(b"[DONE]")

    def _start(self, started: AnswerStarted) -> bytes:
        head = json_text.encode(
            {
                "id": answer_id(started.id, ID_PREFIX),
                "object": "chat.completion.chunk",
                "created": created_s(started.created_s),
                "model": started.model or self._request.model,
            }
        )
        self._usage_head = b"data: " + head[:-1] + b',"choices":['
        self._head = self._usage_head + b'{"index":0,"delta":'
        usage = b',"usage":null' if self._request.include_usage else b""
        self._tail = b',"finish_reason":null}]' + usage + b"}\n\n"
        self._role_sent = True
        return self._head + b'{"role":"assistant","content":""}' + self._tail

    def _delta(self, delta: bytes) -> bytes:
        if self._role_sent:
            return self._head + delta + self._tail
        return self._start(AnswerStarted("", "")) + self._head + delta + self._tail

    def _tool(self, call: dict[str, object]) -> bytes:
        return self._delta(b'{"tool_calls":[' + json_text.encode(call) + b"]}")

    def _finish(self, finished: Finished) -> bytes:
        start = b"" if self._role_sent else self._start(AnswerStarted("", ""))
        word = write_finish(finished.reason, refused=self._refused).encode()
        usage = b',"usage":null' if self._request.include_usage else b""
        last = start + self._head + b'{},"finish_reason":"' + word + b'"}]' + usage + b"}\n\n"
        if not self._request.include_usage:
            return last
        usage_object = json_text.encode(write_usage(finished.usage or Usage()))
        return last + self._usage_head + b'],"usage":' + usage_object + b"}\n\n"
