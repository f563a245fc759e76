"""With ``race_for`` the look-up by meaning and the model are asked at once, and who speaks first answers."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import httpx2
import pytest

from app.api.fast_request import FastRequest
from tests.e2e.semantic.conftest import PATIENCE_S, PLAIN, Semantic, TopicModel
from tests.support.gateway import configuration, running_gateway
from tests.support.tool_server import Asked, tool_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
CAPITAL = "What is the capital city of France?"
REWORDED = "What's the capital city of France?"
KEPT = 'slipstream_semantic_answers_total{outcome="kept"} 1.0'


class SilentModel(TopicModel):
    """Answers until it is told to be silent; then it says when it is asked, and when its caller leaves."""

    def __init__(self) -> None:
        super().__init__({"capital": "Paris."})
        self.is_silent = False
        self.left = asyncio.Event()

    async def answer(self, asked: Asked) -> None:
        if not self.is_silent:
            await super().answer(asked)
            return
        self.asked.append("silence")
        await asked.until_gone()
        self.left.set()


@asynccontextmanager
async def racing(race_for):
    model = SilentModel()
    cache = {"semantic": {"enabled": True, "race_for": race_for}}
    async with (
        tool_server({"/v1/chat/completions": model.answer}) as upstream,
        running_gateway(configuration(upstream.url, cache=cache)) as running,
        httpx2.AsyncClient(verify=PLAIN, base_url=running.url, timeout=60) as http,
    ):
        semantic = Semantic(running, http, model)
        await semantic.open()
        semantic.answers.cache.budget_s = PATIENCE_S
        semantic.answers.max_per_s = 1e9
        yield semantic


def outcome(reply) -> str:
    assert reply.status_code == 200, reply.text
    return reply.headers["x-slipstream-cache"]


async def learned(semantic: Semantic) -> None:
    """Wait until one answer has been kept for other words: that begins after its last byte."""
    async with asyncio.timeout(PATIENCE_S):
        while KEPT not in (await semantic.http.get("/metrics")).text:  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.01)


async def test_a_hit_answers_while_the_model_is_silent_and_ends_its_call():
    async with racing(["*"]) as semantic:
        assert outcome(await semantic.ask(CAPITAL)) == "miss"
        await learned(semantic)
        semantic.model.is_silent = True
        reply = await semantic.ask(REWORDED)
        assert outcome(reply) == "semantic"
        assert reply.json()["choices"][0]["message"]["content"] == "Paris."
        await asyncio.wait_for(semantic.model.left.wait(), PATIENCE_S)
        text = (await semantic.http.get("/metrics")).text
        assert 'slipstream_semantic_races_total{winner="look"} 1.0' in text


async def test_the_model_answers_while_the_look_up_hangs_and_its_answer_is_kept():
    async with racing(["default"]) as semantic:
        process = semantic.answers.cache.store.pid
        os.kill(process, signal.SIGSTOP)
        try:
            body = {"model": "small", "messages": [{"role": "user", "content": CAPITAL}]}
            async with asyncio.timeout(PATIENCE_S / 2):
                reply = await semantic.http.post("/v1/chat/completions", json=body)
                assert outcome(reply) == "miss"
                again = await semantic.http.post("/v1/chat/completions", json=body)
                assert outcome(again) in {"exact", "coalesced"}
        finally:
            os.kill(process, signal.SIGCONT)
        assert len(semantic.model.asked) == 1
        trace = (await semantic.http.get(f"/v1/traces/{reply.headers['x-request-id']}")).json()
        assert trace["model"] == "small"
        assert trace["usage"]["output_tokens"] == 7


@pytest.fixture
def raced(monkeypatch) -> list[FastRequest]:
    """The requests that raced from the fast path."""
    seen: list[FastRequest] = []
    race = FastRequest.race

    def watched(self: FastRequest) -> None:
        seen.append(self)
        race(self)

    monkeypatch.setattr(FastRequest, "race", watched)
    return seen


@pytest.mark.parametrize("stream", [False, True])
async def test_an_ordinary_request_reaches_its_model_before_anything_is_looked_up(raced, stream):
    """Its bytes are with the upstream when its race begins; both may win as on the general path."""
    async with racing(["*"]) as semantic:
        assert outcome(await semantic.ask(CAPITAL)) == "miss"
        await learned(semantic)
        raced.clear()
        body = {"model": "small", "stream": stream}
        path = "/v1/chat/completions"
        for text in ("Which capital is the coldest?", "Which capital is the oldest of all?"):
            question = {**body, "messages": [{"role": "user", "content": text}]}
            reply = await semantic.http.post(path, json=question)
            assert outcome(reply) == "miss"
            assert b"Paris." in reply.content
            assert reply.content.endswith(b"data: [DONE]\n\n") is stream
        assert len(raced) == 2
        assert all(each._exchange.queued_ns for each in raced)
        semantic.model.is_silent = True
        question = {**body, "messages": [{"role": "user", "content": REWORDED}]}
        reply = await semantic.http.post(path, json=question)
        assert outcome(reply) == "semantic"
        assert b"Paris." in reply.content
        await asyncio.wait_for(semantic.model.left.wait(), PATIENCE_S)
        assert len(raced) == 3
        in_flight = semantic.running.context.edge.in_flight.now
        assert in_flight == 0
        provider = semantic.running.context.edge.gateway.providers["local"]
        assert provider.limiter.in_use == 0
        text = (await semantic.http.get("/metrics")).text
        assert 'slipstream_semantic_races_total{winner="look"} 1.0' in text


async def test_while_look_ups_rest_an_ordinary_request_neither_waits_nor_races(raced):
    async with racing(["*"]) as semantic:
        assert outcome(await semantic.ask(CAPITAL)) == "miss"
        await learned(semantic)
        raced.clear()
        cache = semantic.answers.cache
        cache._suspended_until_s = cache._clock() + 3_600
        for number in range(2):
            question = f"Which capital has number {number} of the list?"
            assert outcome(await semantic.ask(question)) == "miss"
        assert not raced
        late = 'slipstream_semantic_looks_total{outcome="late"} 2.0'
        assert late in (await semantic.http.get("/metrics")).text


async def test_who_does_not_pay_for_it_waits_for_the_look_up():
    async with racing(["another-tenant"]) as semantic:
        await semantic.ask(CAPITAL)
        await learned(semantic)
        semantic.model.is_silent = True
        assert outcome(await semantic.ask(REWORDED)) == "semantic"
        assert "silence" not in semantic.model.asked
