"""A gateway whose vector process is there, over a model that answers by topic in whatever words it is asked.

The route is opened by a certified threshold put in by hand, as a year of traffic would: what it takes
to earn one is the decision core's own tests' matter.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx2
import pytest

from app.cache.bound import Threshold
from app.cache.semantic import route_name
from app.pipeline.semantic_answers import SemanticAnswers
from tests.support.gateway import Running, configuration, running_gateway
from tests.support.tool_server import Asked, tool_server

PATIENCE_S = 40.0
OPEN = Threshold(
    0.75, labels=1_000, hits=400, wrong=0, upper_per_request=0.002, upper_per_hit=0.004
)
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass(slots=True)
class TopicModel:
    """Answers by the first topic that the last user turn names; remembers what it was asked."""

    topics: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def answer(self, asked: Asked) -> None:
        """One answer, whole."""
        text = json.loads(asked.body)["messages"][-1]["content"]
        self.asked.append(text)
        found = next((a for t, a in self.topics.items() if re.search(t, text, re.IGNORECASE)), None)
        message = {"role": "assistant", "content": found or f"Nothing is known about {text!r}."}
        usage = {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await asked.answer(
            {"id": "c1", "object": "chat.completion", "created": 1, "model": "topical",
             "choices": [choice], "usage": usage}
        )  # fmt: skip


@dataclass(slots=True)
class Semantic:
    """One gateway, and what a test does with it."""

    running: Running
    http: httpx2.AsyncClient
    model: TopicModel

    @property
    def answers(self) -> SemanticAnswers:
        """The semantic cache in the pipeline."""
        found = self.running.context.edge.gateway.semantic
        assert found is not None
        return found

    async def there(self) -> None:
        """Wait until the vector process is."""
        await asyncio.wait_for(self.answers.cache.store.there.wait(), PATIENCE_S)

    async def open(self, model: str = "small", tenant: str = "default") -> None:
        """Let the route serve from a certified threshold on, none of its hits audited."""
        await self.there()
        route = await self.answers.cache.routes.load(route_name(tenant, model))
        route.state = self.answers.cache.routes.new_state()
        route.state.threshold, route.state.audit_rate = OPEN, 0.0

    async def ask(self, text: str, *, model: str = "small", more=None, history=(), **headers: str):
        """Ask, and wait until what is learned from the answer has been learned."""
        named = {f"x-slipstream-{name.replace('_', '-')}": value for name, value in headers.items()}
        messages = [*history, {"role": "user", "content": text}]
        body = {"model": model, "messages": messages, **(more or {})}
        reply = await self.http.post("/v1/chat/completions", json=body, headers=named)
        await asyncio.wait_for(self.answers.drained(), PATIENCE_S)
        return reply


@pytest.fixture(scope="module")
async def semantic() -> AsyncIterator[Semantic]:
    """One gateway for a module; its budget is generous, for a busy machine must not decide a test."""
    model = TopicModel()
    async with (
        tool_server({"/v1/chat/completions": model.answer}) as upstream,
        running_gateway(configuration(upstream.url, semantic=True)) as running,
        httpx2.AsyncClient(verify=PLAIN, base_url=running.url, timeout=60) as http,
    ):
        made = Semantic(running, http, model)
        made.answers.cache.budget_s = 10.0
        made.answers.max_per_s = 1e9
        await made.open()
        yield made
