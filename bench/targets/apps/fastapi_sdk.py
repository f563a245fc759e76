"""The gateway that most teams write first: FastAPI, pydantic models, the official openai SDK."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """One message of a request."""

    role: str
    content: str


class ChatRequest(BaseModel):
    """The fields that the endpoint knows; others pass."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[Message]
    stream: bool = False
    temperature: float | None = None
    max_tokens: int | None = None


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    base_url = os.environ["BENCH_UPSTREAM"] + "/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        app.state.client = client
        yield


async def _events(stream: Any) -> AsyncIterator[str]:
    async for chunk in stream:
        yield f"data: {chunk.model_dump_json()}\n\n"
    yield "data: [DONE]\n\n"


def create_app() -> FastAPI:
    """The application, for `uvicorn --factory`."""
    app = FastAPI(lifespan=_lifespan)

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(asked: ChatRequest, request: Request) -> Any:
        client: openai.AsyncOpenAI = request.app.state.client
        arguments: dict[str, Any] = asked.model_dump(exclude_none=True)
        answer = await client.chat.completions.create(**arguments)
        if asked.stream:
            return StreamingResponse(_events(answer), media_type="text/event-stream")
        return answer

    return app
