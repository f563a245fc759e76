"""The caches through the official clients: hits, joined streams, verdicts and invalidation."""

from __future__ import annotations

import asyncio
import json

import pytest
from openai import AsyncOpenAI

from tests.e2e.semantic.conftest import PATIENCE_S
from tests.support.gateway import configuration, running_gateway
from tests.support.official_clients import anthropic_at, openai_at
from tests.support.tool_server import Asked, tool_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
CAPITAL = "What is the capital city of France?"
REWORDED = "What's the capital city of France?"
THIRD = "What is the capital of France?"
PARIS = "Paris is the capital of France."


@pytest.fixture(autouse=True)
async def _nothing_kept(semantic):
    await semantic.open()
    await semantic.http.post("/v1/cache/invalidate", json={"all": True})
    semantic.model.asked.clear()
    semantic.model.topics = {"france": PARIS}


@pytest.fixture
async def openai_client(semantic):
    async with openai_at(semantic.running.url) as client:
        yield client


@pytest.fixture
async def anthropic_client(semantic):
    async with anthropic_at(semantic.running.url) as client:
        yield client


async def ask(semantic, client: AsyncOpenAI, text: str, **headers: str):
    """The cache's word, the answer's text, and the request's id."""
    named = {f"x-slipstream-{name}": value for name, value in headers.items()}
    raw = await client.chat.completions.with_raw_response.create(
        model="small", messages=[{"role": "user", "content": text}], extra_headers=named
    )
    await asyncio.wait_for(semantic.answers.drained(), PATIENCE_S)
    said = raw.parse().choices[0].message.content
    return raw.headers["x-slipstream-cache"], said, raw.headers["x-request-id"]


async def test_openai_whole_and_streamed_hits_by_meaning(semantic, openai_client):
    assert (await ask(semantic, openai_client, CAPITAL))[:2] == ("miss", PARIS)
    assert (await ask(semantic, openai_client, REWORDED))[:2] == ("semantic", PARIS)
    stream = await openai_client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": THIRD}],
        stream=True,
        stream_options={"include_usage": True},
    )
    assert stream.response.headers["x-slipstream-cache"] == "semantic"
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == PARIS
    assert chunks[-1].usage.total_tokens == 16
    assert semantic.model.asked == [CAPITAL]


async def test_anthropic_whole_and_streamed_hits_by_meaning(semantic, anthropic_client):
    async def whole(text: str):
        return await anthropic_client.messages.with_raw_response.create(
            model="small", max_tokens=64, messages=[{"role": "user", "content": text}]
        )

    first = await whole(CAPITAL)
    await asyncio.wait_for(semantic.answers.drained(), PATIENCE_S)
    second = await whole(REWORDED)
    assert [r.headers["x-slipstream-cache"] for r in (first, second)] == ["miss", "semantic"]
    assert (await second.parse()).content[0].text == PARIS
    async with anthropic_client.messages.stream(
        model="small", max_tokens=64, messages=[{"role": "user", "content": THIRD}]
    ) as stream:
        assert stream.response.headers["x-slipstream-cache"] == "semantic"
        assert await stream.get_final_text() == PARIS
    assert semantic.model.asked == [CAPITAL]


async def test_a_wrong_hit_is_explained_reported_and_never_repeated(semantic, openai_client):
    await ask(semantic, openai_client, THIRD, cache="refresh")
    await ask(semantic, openai_client, CAPITAL, cache="refresh")
    word, _, request_id = await ask(semantic, openai_client, REWORDED)
    assert word == "semantic"
    told = (await semantic.http.get(f"/v1/traces/{request_id}")).json()["cache"]
    assert "order of roles equal" in told["words"]
    assert "same name" in told["words"]
    assert any(each.startswith("of 400 labelled questions") for each in told["words"])
    assert "France" not in json.dumps(told)
    said = {"request_id": request_id, "verdict": "wrong"}
    answered = await semantic.http.post("/v1/cache/feedback", json=said)
    assert answered.json()["removed"] is True
    route = await semantic.answers.cache.routes.load("default\x00small")
    assert route.state.drift.evidence > 1, "it counts against the bound"
    assert route.state.biased[-1].answer_group.startswith("not "), "and is a negative pair"
    assert (await ask(semantic, openai_client, REWORDED))[0] == "miss", "nor its twin's answer"
    semantic.running.context.edge.gateway.exact.invalidate(everything=True)
    assert (await ask(semantic, openai_client, REWORDED))[0] == "miss", "ever again"


async def test_a_refused_hit_says_why_in_words_of_its_own(semantic, openai_client):
    await ask(semantic, openai_client, CAPITAL)
    word, _, request_id = await ask(semantic, openai_client, "What is the capital city of Spain?")
    assert word == "miss"
    told = (await semantic.http.get(f"/v1/traces/{request_id}")).json()["cache"]
    assert told["words"][-2:] == ["another name", "that forbids a hit at any score"]


async def test_an_invalidation_holds_for_the_clients_very_next_request(semantic, openai_client):
    await ask(semantic, openai_client, CAPITAL)
    assert (await ask(semantic, openai_client, REWORDED))[0] == "semantic"
    await semantic.http.post("/v1/cache/invalidate", json={"model": "small"})
    assert (await ask(semantic, openai_client, REWORDED))[0] == "miss"


async def test_a_joined_stream_goes_on_when_the_first_client_leaves():
    """Two official clients, one upstream call; the one that caused it leaves in the middle."""
    go_on, calls = asyncio.Event(), []

    def frame(text: str, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"

    async def upstream(asked: Asked) -> None:
        calls.append(asked)
        asked.writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        )
        asked.writer.write(frame("Hello"))
        await asked.writer.drain()
        await go_on.wait()
        asked.writer.write(frame(" world", "stop") + b"data: [DONE]\n\n")
        await asked.writer.drain()
        asked.writer.close()

    async with (
        tool_server({"/v1/chat/completions": upstream}) as server,
        running_gateway(configuration(server.url)) as running,
        openai_at(running.url) as first,
        openai_at(running.url) as second,
    ):
        body = {"model": "small", "messages": [{"role": "user", "content": CAPITAL}]}
        one = await first.chat.completions.create(**body, stream=True)
        assert (await anext(one)).choices[0].delta.content == "Hello"
        two = await second.chat.completions.create(**body, stream=True)
        assert two.response.headers["x-slipstream-cache"] == "coalesced"
        assert (await anext(two)).choices[0].delta.content == "Hello"
        await one.close()
        go_on.set()
        assert [c.choices[0].delta.content async for c in two if c.choices] == [" world"]
        again = await second.chat.completions.with_raw_response.create(**body)
        assert again.headers["x-slipstream-cache"] == "exact"
        assert again.parse().choices[0].message.content == "Hello world"
        assert len(calls) == 1
