"""The OpenAI Responses codec; its parts are in the `openai_responses_*` modules.

Client requests are fully supported. Towards upstreams only Responses requests pass through: a request of
another dialect for an OpenAI model is written as Chat Completions, which serves the same models.
"""

from __future__ import annotations

from app.domain.chat import Conversation, Dialect
from app.domain.models import Model
from app.domain.usage import Usage
from app.errors import GatewayError, Unsupported
from app.wire import json_text, openai_responses_answer, openai_responses_request
from app.wire.answer_edit import ResponsesEditor
from app.wire.failures import openai_error, read_error_answer
from app.wire.openai_responses_stream_read import ResponsesPassthrough, ResponsesReader
from app.wire.openai_responses_stream_write import ResponsesWriter
from app.wire.plain import plain_responses


class OpenAIResponsesCodec:
    """Responses for clients, and passed through to upstreams; stateless. See ``app.ports.Codec``."""

    dialect = Dialect.RESPONSES
    path = "/responses"

    read_plain = staticmethod(plain_responses)
    check = staticmethod(openai_responses_request.check)
    view = staticmethod(openai_responses_request.view)
    read = staticmethod(openai_responses_request.read)
    read_answer = staticmethod(openai_responses_answer.read_answer)
    write_answer = staticmethod(openai_responses_answer.write_answer)
    reader = ResponsesReader
    editor = ResponsesEditor
    writer = ResponsesWriter
    read_error = staticmethod(read_error_answer)

    def write(
        self,
        conversation: Conversation,  # noqa: ARG002 (the port's signature)
        model: Model,
        *,
        stream: bool,  # noqa: ARG002 (the port's signature)
    ) -> tuple[dict[str, object], tuple[str, ...]]:
        """Raise ``Unsupported``: other dialects reach these models by Chat Completions."""
        raise Unsupported(
            f"Model '{model.name}' is configured for the Responses API, which only takes requests of its own "
            "dialect. Ask it through /v1/responses, or configure its provider for Chat Completions.",
            param="model",
        )

    def read_outcome(self, body: bytes) -> tuple[Usage, str]:
        """Usage and neutral finish reason of a complete answer."""
        answer = self.read_answer(body)
        return answer.usage, answer.finish

    def passthrough(self, *, hide_usage: bool) -> ResponsesPassthrough:  # noqa: ARG002 (usage is always in the last event)
        """A stream reader that yields unchanged ``Frames``."""
        return ResponsesPassthrough()

    def write_error(self, error: GatewayError, request_id: str) -> bytes:  # noqa: ARG002 (the dialect has no place for it)
        """The error body in OpenAI's shape; the request id is only in its header."""
        return json_text.encode({"error": openai_error(error)})
