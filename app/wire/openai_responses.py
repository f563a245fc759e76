"""The OpenAI Responses codec; its parts are in the `openai_responses_*` modules.

Client requests are fully supported. Towards upstreams only Responses requests pass through: a request of
another dialect for an OpenAI model is written as Chat Completions, which serves the same models.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.answer_edit import AnswerEdit
from app.domain.chat import ChatRequest, Conversation, Dialect, Json, PlainRequest
from app.domain.decisions import PromptView
from app.domain.events import Answer
from app.domain.models import Model
from app.domain.usage import Usage
from app.errors import GatewayError, Unsupported, UpstreamStatus
from app.wire import json_text, openai_responses_answer, openai_responses_request
from app.wire.answer_edit import ResponsesEditor
from app.wire.failures import openai_error, read_error_answer
from app.wire.openai_responses_stream_read import ResponsesPassthrough, ResponsesReader
from app.wire.openai_responses_stream_write import ResponsesWriter
from app.wire.plain import plain_responses


class OpenAIResponsesCodec:
    """Responses for clients, and passed through to upstreams; stateless."""

    dialect = Dialect.RESPONSES
    path = "/responses"

    def plain(self, raw: bytes) -> PlainRequest | None:
        """See ``Codec``."""
        return plain_responses(raw)

    def check(self, body: Json) -> None:
        """Raise ``BadRequest`` for a body that no server of this dialect accepts."""
        openai_responses_request.check(body)

    def view(self, body: Json) -> PromptView:
        """The prompt as the classifier sees it."""
        return openai_responses_request.view(body)

    def read(self, body: Json) -> Conversation:
        """The neutral conversation."""
        return openai_responses_request.read(body)

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

    def glance(self, body: bytes) -> tuple[Usage, str]:
        """Usage and neutral finish reason of a complete answer."""
        answer = self.read_answer(body)
        return answer.usage, answer.finish

    def read_answer(self, body: bytes) -> Answer:
        """Parse a complete JSON answer."""
        return openai_responses_answer.read_answer(body)

    def write_answer(self, answer: Answer, request: ChatRequest) -> bytes:
        """Serialise a complete JSON answer for the client."""
        return openai_responses_answer.write_answer(answer, request)

    def reader(self) -> ResponsesReader:
        """A stream reader that yields neutral events."""
        return ResponsesReader()

    def passthrough(self, *, hide_usage: bool) -> ResponsesPassthrough:  # noqa: ARG002 (usage is always in the last event)
        """A stream reader that yields unchanged ``Frames``."""
        return ResponsesPassthrough()

    def editor(self, edit: AnswerEdit) -> ResponsesEditor:
        """See ``Codec``."""
        return ResponsesEditor(edit)

    def writer(self, request: ChatRequest) -> ResponsesWriter:
        """A writer of the client's stream."""
        return ResponsesWriter(request)

    def read_error(
        self, status: int, body: bytes, headers: Mapping[bytes, bytes]
    ) -> UpstreamStatus:
        """Parse an upstream's error response."""
        return read_error_answer(status, body, headers)

    def write_error(self, error: GatewayError, request_id: str) -> bytes:  # noqa: ARG002 (the dialect has no place for it)
        """The error body in OpenAI's shape; the request id travels in its header."""
        return json_text.encode({"error": openai_error(error)})
