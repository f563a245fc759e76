"""The Anthropic Messages codec; its parts are in the `anthropic_messages_*` modules."""

from __future__ import annotations

from app.domain.chat import Dialect
from app.domain.usage import Usage
from app.errors import GatewayError
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
    """Messages in both directions; stateless. See ``app.ports.Codec``."""

    dialect = Dialect.MESSAGES
    path = "/messages"

    read_plain = staticmethod(plain_messages)
    check = staticmethod(anthropic_messages_request.check)
    check_count = staticmethod(anthropic_messages_request.check_count)
    view = staticmethod(anthropic_messages_view.view)
    read = staticmethod(anthropic_messages_request.read)
    write = staticmethod(anthropic_messages_write.write)
    read_answer = staticmethod(anthropic_messages_answer.read_answer)
    write_answer = staticmethod(anthropic_messages_answer.write_answer)
    reader = MessagesReader
    editor = MessagesEditor
    writer = MessagesWriter
    read_error = staticmethod(read_error_answer)

    def read_outcome(self, body: bytes) -> tuple[Usage, str]:
        """Usage and neutral finish reason of a complete answer."""
        answer = self.read_answer(body)
        return answer.usage, answer.finish

    def passthrough(self, *, hide_usage: bool) -> MessagesPassthrough:  # noqa: ARG002 (usage is always part of the stream)
        """A stream reader that yields unchanged ``Frames``."""
        return MessagesPassthrough()

    def write_error(self, error: GatewayError, request_id: str) -> bytes:
        """The error body in Anthropic's shape."""
        return json_text.encode(anthropic_error(error, request_id))
