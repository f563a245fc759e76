"""One plain question in any of the three dialects, by the official packages: whole and streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import anthropic
import openai

from tests.e2e.conversations import user

DIALECTS = ("chat", "responses", "messages")
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
STATUS_ERRORS = (openai.APIStatusError, anthropic.APIStatusError)
API_ERRORS = (openai.APIError, anthropic.APIError)


def body_of(dialect: str, model: str, text: str, **more: object) -> dict[str, object]:
    """The request's body as JSON would hold it."""
    if dialect == "responses":
        return {"model": model, "input": text, **more}
    limit = {"max_tokens": 500} if dialect == "messages" else {}
    return {"model": model, "messages": user(text), **limit, **more}


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks through the packages."""

    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic

    def _create(self, dialect: str) -> Callable[..., object]:
        return {
            "chat": self.openai.chat.completions.create,
            "responses": self.openai.responses.create,
            "messages": self.anthropic.messages.create,
        }[dialect]

    async def whole(self, dialect: str, model: str, text: str, **more: object) -> str:
        """The answer's text, asked for as one JSON document."""
        answer = await self._create(dialect)(**body_of(dialect, model, text), **more)
        if dialect == "chat":
            return answer.choices[0].message.content
        return answer.output_text if dialect == "responses" else answer.content[0].text

    async def streamed(
        self, dialect: str, model: str, text: str, **more: object
    ) -> AsyncIterator[str]:
        """The answer's text, piece by piece."""
        stream = await self._create(dialect)(**body_of(dialect, model, text), stream=True, **more)
        async for event in stream:
            if dialect == "chat":
                for choice in event.choices or ():
                    yield choice.delta.content or ""
            elif dialect == "responses":
                if event.type == "response.output_text.delta":
                    yield event.delta
                elif event.type == "error":  # the vendor's own form, which the package hands on
                    raise openai.APIError(event.message, stream.response.request, body=None)
            elif event.type == "content_block_delta" and event.delta.type == "text_delta":
                yield event.delta.text
