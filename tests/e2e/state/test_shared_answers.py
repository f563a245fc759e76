"""Answers that several workers share: kept by one, served by another, forgotten by all."""

from __future__ import annotations

import asyncio
import os
import signal
from uuid import uuid4

import pytest

from tests.e2e.asking import DIALECTS
from tests.e2e.state.conftest import workers
from tests.e2e.test_exact_cache import ask, outcome
from tests.support.redis import redis_server
from tests.support.scripted_model import Speaking, scripted_model

pytestmark = pytest.mark.anyio


@pytest.fixture
def question() -> str:
    return f"What does the word {uuid4().hex[:10]} mean in the glossary of TCP?"


def calls(upstream) -> int:
    return upstream.simulator.stats.requests.total()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_one_worker_answered_another_serves_byte_for_byte(
    pair, upstream, question, dialect, stream
):
    one, other = pair
    how = {"model": "small2" if dialect == "messages" else "small", "stream": stream}
    first = await ask(one.http, dialect, question, **how)
    await one.written()
    asked = calls(upstream)
    second = await ask(other.http, dialect, question, **how)
    third = await ask(other.http, dialect, question, **how)
    assert [outcome(each) for each in (first, second, third)] == ["miss", "exact", "exact"]
    assert first.content == second.content == third.content
    assert calls(upstream) == asked


async def test_only_asks_redis_too(pair, question):
    one, other = pair
    assert (await ask(other.http, "chat", question, cache="only")).status_code == 504
    await ask(one.http, "chat", question)
    await one.written()
    assert outcome(await ask(other.http, "chat", question, cache="only")) == "exact"


async def test_refresh_replaces_what_the_others_serve(pair, question):
    one, other = pair
    await ask(one.http, "chat", question)
    await one.written()
    refreshed = await ask(other.http, "chat", question, cache="refresh")
    assert outcome(refreshed) == "miss"
    await other.written()
    one.running.context.edge.gateway.exact.clear()
    again = await ask(one.http, "chat", question)
    assert (outcome(again), again.content) == ("exact", refreshed.content)


async def test_what_one_gateway_imported_another_serves(pair, upstream, question):
    one, other = pair
    given = {"question": question, "answer": "As imported.", "tags": ["glossary"], "model": "small"}
    told = await one.http.post("/v1/cache/import", json={"entries": [given]})
    assert told.status_code == 200, told.text
    asked = calls(upstream)
    body = {"model": "small", "messages": [{"role": "user", "content": question}]}
    hit = await other.http.post("/v1/chat/completions", json=body)
    assert outcome(hit) == "exact"
    assert hit.json()["choices"][0]["message"]["content"] == "As imported."
    assert calls(upstream) == asked
    await one.http.post("/v1/cache/invalidate", json={"tags": ["glossary"]})
    again = await other.http.post("/v1/chat/completions", json=body)
    assert outcome(again) == "miss", "it is forgotten like any other"


async def test_an_answer_that_may_not_be_kept_is_not_written(pair):
    one, other = pair
    volatile = f"What is the weather in Paris right now? {uuid4().hex[:6]}"
    await ask(one.http, "chat", volatile)
    await one.written()
    assert outcome(await ask(other.http, "chat", volatile)) == "miss"


FORGETTING = {
    "all": {"all": True},
    "model": {"model": "small"},
    "tag": {"tags": ["glossary", "unused"]},
}


@pytest.mark.parametrize("what", FORGETTING)
@pytest.mark.parametrize("taken_by", [0, 1], ids=["by the one that kept it", "by the other"])
async def test_the_very_next_request_on_every_worker_misses(pair, question, what, taken_by):
    for worker in pair:
        await ask(worker.http, "chat", question, tags="glossary")
        await worker.written()
        assert outcome(await ask(worker.http, "chat", question)) == "exact"
    answer = await pair[taken_by].http.post("/v1/cache/invalidate", json=FORGETTING[what])
    assert answer.status_code == 200
    assert answer.json()["invalidated"] >= 1
    assert outcome(await ask(pair[1 - taken_by].http, "chat", question, cache="only")) != "exact"
    assert outcome(await ask(pair[1 - taken_by].http, "chat", question)) == "miss"
    assert (await ask(pair[taken_by].http, "chat", question)).status_code == 200


async def test_what_does_not_match_stays(pair, question):
    one, other = pair
    await ask(one.http, "chat", question, tags="glossary")
    await one.written()
    await other.http.post("/v1/cache/invalidate", json={"tags": ["another"]})
    await other.http.post("/v1/cache/invalidate", json={"model": "large"})
    assert outcome(await ask(one.http, "chat", question)) == "exact"
    assert outcome(await ask(other.http, "chat", question)) == "exact"


async def test_an_entry_is_described_and_removed_by_any_worker(pair, question):
    one, other = pair
    await ask(one.http, "chat", question)
    await one.written()
    hit = await ask(one.http, "chat", question)
    trace = (await one.http.get(f"/v1/traces/{hit.headers['x-request-id']}")).json()
    entry = trace["cache"]["entry"]
    described = await other.http.get(f"/v1/cache/entries/{entry}")
    assert described.json()["model"] == "small"
    assert (await other.http.delete(f"/v1/cache/entries/{entry}")).json() == {"invalidated": 1}
    assert (await one.http.get(f"/v1/cache/entries/{entry}")).status_code == 404
    assert outcome(await ask(one.http, "chat", question)) == "miss"
    assert (await other.http.get(f"/v1/cache/entries/{'0' * 32}")).status_code == 404


async def test_a_wrong_hit_is_not_repeated_by_any_worker(pair, question):
    one, other = pair
    await ask(one.http, "chat", question)
    await one.written()
    hit = await ask(other.http, "chat", question)
    verdict = {"request_id": hit.headers["x-request-id"], "verdict": "wrong"}
    said = await other.http.post("/v1/cache/feedback", json=verdict)
    assert said.json()["removed"] is True
    assert outcome(await ask(one.http, "chat", question)) == "miss"


async def test_another_tenants_entries_are_neither_served_nor_forgotten(upstream, server):
    keys = [{"key": "a", "tenant": "a"}, {"key": "b", "tenant": "b"}]
    question = f"What does the word {uuid4().hex[:10]} mean in the glossary of TCP?"
    body = {"model": "small", "messages": [{"role": "user", "content": question}]}
    async with workers(upstream.base_url, server.url, auth={"keys": keys}) as (one, other):

        async def as_(worker, key: str):
            head = {"authorization": f"Bearer {key}"}
            return await worker.http.post("/v1/chat/completions", json=body, headers=head)

        assert outcome(await as_(one, "a")) == "miss"
        await one.written()
        assert outcome(await as_(other, "b")) == "miss"
        head = {"authorization": "Bearer b"}
        await other.http.post("/v1/cache/invalidate", json={"all": True}, headers=head)
        assert outcome(await as_(one, "a")) == "exact"
        assert outcome(await as_(other, "a")) == "exact"


@pytest.mark.parametrize("damage", ["version", "cut", "corrupt", "foreign", "text"])
async def test_an_entry_that_cannot_be_read_is_a_miss_that_is_counted(pair, question, damage):
    one, other = pair
    await ask(one.http, "chat", question)
    await one.written()
    hit = await ask(one.http, "chat", question)
    trace = (await one.http.get(f"/v1/traces/{hit.headers['x-request-id']}")).json()
    redis = one.shared._redis
    key = redis.key(b"answer", trace["cache"]["entry"].encode())
    data = bytearray(await redis.command("GET", key))
    if damage == "version":
        data[4] += 1
    elif damage == "cut":
        data = data[:-3]
    elif damage == "corrupt":
        data[-5] ^= 0xFF
    elif damage == "foreign":
        data[:4] = b"ABCD"
    else:
        data = bytearray(b"hello")
    await redis.command("SET", key, bytes(data))
    assert outcome(await ask(other.http, "chat", question)) == "miss"
    counted = other.running.context.telemetry.metrics.shared_looks._children
    assert any(word[0].startswith("unreadable") for word in counted)
    await other.written()
    one.running.context.edge.gateway.exact.clear()
    assert outcome(await ask(one.http, "chat", question)) == "exact"


async def test_gateways_of_another_prefix_share_nothing(upstream, server, question):
    apart = {"redis_url": server.url, "redis_budget_ms": 1_000, "redis_prefix": "staging"}
    async with (
        workers(upstream.base_url, server.url, 1) as (one,),
        workers(upstream.base_url, server.url, 1, state=apart) as (other,),
    ):
        await ask(one.http, "chat", question)
        await one.written()
        assert outcome(await ask(other.http, "chat", question)) == "miss"
        await other.http.post("/v1/cache/invalidate", json={"all": True})
        assert outcome(await ask(one.http, "chat", question)) == "exact"


async def test_a_redis_that_answers_too_late_is_left_alone_and_taken_back(upstream, question):
    with redis_server() as own:
        quick = {"redis_url": own.url, "redis_budget_ms": 30}
        async with workers(upstream.base_url, own.url, 1, state=quick) as (one,):
            os.kill(own.pid, signal.SIGSTOP)
            for number in range(4):
                reply = await ask(one.http, "chat", f"{question} {number}")
                assert (reply.status_code, outcome(reply)) == (200, "miss")
            degraded = (await one.http.get("/readyz")).json()["degraded"]
            assert "does not answer within 30 ms" in degraded["redis"]
            os.kill(own.pid, signal.SIGCONT)
            async with asyncio.timeout(20):
                while (await one.http.get("/readyz")).json()["degraded"].get("redis"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)


async def test_what_is_forgotten_is_told_to_the_hits_by_meaning_of_every_worker(pair, question):
    told: list[tuple[int, object]] = []
    before = [worker.shared.on_forget for worker in pair]
    for number, worker in enumerate(pair):
        worker.shared.on_forget = lambda what, number=number: told.append((number, what))
    try:
        await ask(pair[0].http, "chat", question)
        await pair[0].http.post("/v1/cache/invalidate", json={"tags": ["t"], "model": "small"})
    finally:
        for worker, hook in zip(pair, before, strict=True):
            worker.shared.on_forget = hook
    assert sorted(number for number, _ in told) == [0, 1]
    assert {(what.model, what.tags) for _, what in told} == {("small", ("t",))}


async def test_an_answer_that_cannot_be_written_down_keeps_no_other_from_being_written(server):
    """Usage beyond 64 bits, as only a broken upstream tells it."""

    def says(prompt_tokens: int):
        async def script(speaking: Speaking) -> None:
            await speaking.text("It means hello.")
            await speaking.finish(usage=(prompt_tokens, 5))

        return script

    async with (
        scripted_model(says(1 << 70), says(10)) as model,
        workers(model.url, server.url) as (one, other),
    ):
        broken, sound = (f"What does the word {uuid4().hex[:10]} mean?" for _ in range(2))
        for each in (broken, sound):
            assert outcome(await ask(one.http, "chat", each, stream=True)) == "miss"
        async with asyncio.timeout(20):
            await one.written()
        assert outcome(await ask(other.http, "chat", sound, stream=True)) == "exact"
