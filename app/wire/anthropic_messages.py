"""The Anthropic Messages codec; its parts are in the `anthropic_messages_*` modules."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.answer_edit import AnswerEdit
from app.domain.chat import ChatRequest, Conversation, Dialect, Json, PlainRequest
from app.domain.decisions import PromptView
from app.domain.events import Answer
from app.domain.models import Model
from app.domain.usage import Usage
from app.errors import GatewayError, UpstreamStatus
from app.wire import (
    anthropic_messages_answer,
    anthropic_messages_request,
    anthropic_messages_view,
    anthropic_messages_write,
    json_text,
)
from app.wire.answer_edit import MessagesEditor
from app.wire.anthropic_messages_stream_read import MessagesPassthrough, MessagesReader
from app.wire.anthropic_messages_stream_write import MessagesWriter
from app.wire.failures import anthropic_error, read_error_answer
from app.wire.plain import plain_messages


class AnthropicMessagesCodec:
    """Messages, both ways; stateless."""

    dialect = Dialect.MESSAGES
    path = "/messages"

    def plain(self, raw: bytes) -> PlainRequest | None:
        """See ``Codec``."""
        return plain_messages(raw)

    def check(self, body: Json) -> None:
        """Raise ``BadRequest`` for a body that no server of this dialect accepts."""
        anthropic_messages_request.check(body)

    def check_count(self, body: Json) -> None:
        """Likewise for a body of ``count_tokens``."""
        anthropic_messages_request.check_count(body)

    def view(self, body: Json) -> PromptView:
        """The prompt as the classifier sees it."""
        return anthropic_messages_view.view(body)

    def read(self, body: Json) -> Conversation:
        """The neutral conversation."""
        return anthropic_messages_request.read(body)

    def write(
        self, conversation: Conversation, model: Model, *, stream: bool
    ) -> tuple[dict[str, object], tuple[str, ...]]:
        """The request body in this dialect, and the fields that were dropped."""
        return anthropic_messages_write.write(conversation, model, stream=stream)

    def glance(self, body: bytes) -> tuple[Usage, str]:
        """Usage and neutral finish reason of a complete answer."""
        answer = self.read_answer(body)
        return answer.usage, answer.finish

    def read_answer(self, body: bytes) -> Answer:
        """Parse a complete JSON answer."""
        return anthropic_messages_answer.read_answer(body)

    def write_answer(self, answer: Answer, request: ChatRequest) -> bytes:
        """Serialise a complete JSON answer for the client."""
        return anthropic_messages_answer.write_answer(answer, request)

    def reader(self) -> MessagesReader:
        """A stream reader that yields neutral events."""
        return MessagesReader()

    def passthrough(self, *, hide_usage: bool) -> MessagesPassthrough:  # noqa: ARG002 (usage is always part of the stream)
        """A stream reader that yields unchanged ``Frames``."""
        return MessagesPassthrough()

    def editor(self, edit: AnswerEdit) -> MessagesEditor:
        """See ``Codec``."""
        return MessagesEditor(edit)

    def writer(self, request: ChatRequest) -> MessagesWriter:
        """A writer of the client's stream."""
        return MessagesWriter(request)

    def read_error(
        self, status: int, body: bytes, headers: Mapping[bytes, bytes]
    ) -> UpstreamStatus:
        """Parse an upstream's error response."""
        return read_error_answer(status, body, headers)

    def write_error(self, error: GatewayError, request_id: str) -> bytes:
        """The error body in Anthropic's shape."""
        return json_text.encode(anthropic_error(error, request_id))
