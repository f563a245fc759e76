"""The OpenAI Chat Completions codec; its parts are in the `openai_chat_*` modules."""

from __future__ import annotations

from app.domain.chat import Dialect
from app.errors import GatewayError
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
    """Chat Completions in both directions; stateless. See ``app.ports.Codec``."""

    dialect = Dialect.CHAT
    path = "/chat/completions"

    read_plain = staticmethod(plain_chat)
    check = staticmethod(openai_chat_request.check)
    view = staticmethod(openai_chat_view.view)
    read = staticmethod(openai_chat_request.read)
    write = staticmethod(openai_chat_write.write)
    read_outcome = staticmethod(openai_chat_answer.read_outcome)
    read_answer = staticmethod(openai_chat_answer.read_answer)
    write_answer = staticmethod(openai_chat_answer.write_answer)
    reader = ChatReader
    passthrough = ChatPassthrough
    editor = ChatEditor
    writer = ChatWriter
    read_error = staticmethod(read_error_answer)

    def write_error(self, error: GatewayError, request_id: str) -> bytes:  # noqa: ARG002 (the dialect has no place for it)
        """The error body in OpenAI's shape; the request id is only in its header."""
        return json_text.encode({"error": openai_error(error)})
