"""The OpenAI Chat Completions codec; its parts are in the `openai_chat_*` modules."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.answer_edit import AnswerEdit
from app.domain.chat import ChatRequest, Conversation, Dialect, Json
from app.domain.decisions import PromptView
from app.domain.events import Answer
from app.domain.models import Model
from app.errors import GatewayError, UpstreamStatus
from app.wire import (
    json_text,
    openai_chat_answer,
    openai_chat_request,
    openai_chat_view,
    openai_chat_write,
)
from app.wire.answer_edit import ChatEditor
from app.wire.failures import openai_error, read_error_answer
from app.wire.openai_chat_stream_read import ChatPassthrough, ChatReader
from app.wire.openai_chat_stream_write import ChatWriter
from app.wire.plain import plain_chat


class OpenAIChatCodec:
    """Chat Completions, both ways; stateless."""

    dialect = Dialect.CHAT
    path = "/chat/completions"

    plain = staticmethod(plain_chat)

    def check(self, body: Json) -> None:
        """Raise ``BadRequest`` for a body that no server of this dialect accepts."""
        openai_chat_request.check(body)

    def view(self, body: Json) -> PromptView:
        """The prompt as the classifier sees it."""
        return openai_chat_view.view(body)

    def read(self, body: Json) -> Conversation:
        """The neutral conversation."""
        return openai_chat_request.read(body)

    def write(
        self, conversation: Conversation, model: Model, *, stream: bool
    ) -> tuple[dict[str, object], tuple[str, ...]]:
        """The request body in this dialect, and the fields that were dropped."""
        return openai_chat_write.write(conversation, model, stream=stream)

    glance = staticmethod(openai_chat_answer.glance)

    def read_answer(self, body: bytes) -> Answer:
        """Parse a complete JSON answer."""
        return openai_chat_answer.read_answer(body)

    def write_answer(self, answer: Answer, request: ChatRequest) -> bytes:
        """Serialise a complete JSON answer for the client."""
        return openai_chat_answer.write_answer(answer, request)

    def reader(self) -> ChatReader:
        """A stream reader that yields neutral events."""
        return ChatReader()

    def passthrough(self, *, hide_usage: bool) -> ChatPassthrough:
        """A stream reader that yields unchanged ``Frames``."""
        return ChatPassthrough(hide_usage=hide_usage)

    def editor(self, edit: AnswerEdit) -> ChatEditor:
        """See ``Codec``."""
        return ChatEditor(edit)

    def writer(self, request: ChatRequest) -> ChatWriter:
        """A writer of the client's stream."""
        return ChatWriter(request)

    def read_error(
        self, status: int, body: bytes, headers: Mapping[bytes, bytes]
    ) -> UpstreamStatus:
        """Parse an upstream's error response."""
        return read_error_answer(status, body, headers)

    def write_error(self, error: GatewayError, request_id: str) -> bytes:  # noqa: ARG002 (the dialect has no place for it)
        """The error body in OpenAI's shape; the request id travels in its header."""
        return json_text.encode({"error": openai_error(error)})
