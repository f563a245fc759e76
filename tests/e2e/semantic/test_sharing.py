"""Whose answers are shown to whom, seen from outside: exact, in flight and by meaning."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager

import httpx2
import pytest

from app.cache.sharing import Sharing
from tests.e2e.semantic.conftest import PLAIN, Semantic, TopicModel
from tests.support.gateway import configuration, running_gateway
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
CAPITAL = "What is the capital city of France?"
REWORDED = "What's the capital city of France?"
assert isinstance(PLAIN, ssl.SSLContext)


@asynccontextmanager
async def sharing(*, semantic: bool = False, model: TopicModel | None = None, **rules: object):
    """A gateway whose tenants' users share by ``rules``."""
    said = model or TopicModel({"france": "Paris is the capital of France."})
    cache = {"semantic": {"enabled": semantic}, "sharing": rules}
    async with (
        tool_server({"/v1/chat/completions": said.answer}) as upstream,
        running_gateway(configuration(upstream.url, cache=cache)) as running,
        httpx2.AsyncClient(verify=PLAIN, base_url=running.url, timeout=60) as http,
    ):
        made = Semantic(running, http, said)
        if semantic:
            made.answers.cache.budget_s = 10.0
            made.answers.max_per_s = 1e9
            await made.open()
        yield made


async def ask(made: Semantic, user: str | None, text: str = CAPITAL) -> str:
    """What the cache did."""
    headers = {} if user is None else {"x-slipstream-user": user}
    body = {"model": "small", "messages": [{"role": "user", "content": text}]}
    reply = await made.http.post("/v1/chat/completions", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    if made.running.context.edge.gateway.semantic is not None:
        await made.answers.drained()
    return reply.headers["x-slipstream-cache"]


async def test_a_named_user_shares_with_nobody_unless_the_tenant_does():
    async with sharing() as apart:
        assert [await ask(apart, user) for user in ("ann", "bob", "ann")] == [
            "miss", "miss", "exact",
        ]  # fmt: skip
    async with sharing(scope="tenant") as together:
        assert [await ask(together, user) for user in ("ann", "bob", None)] == [
            "miss", "exact", "exact",
        ]  # fmt: skip


async def test_others_are_shown_an_answer_once_enough_users_had_their_own():
    async with sharing(scope="tenant", least_askers=3) as made:
        assert [await ask(made, user) for user in ("ann", "ann", "bob", "ann", "cid", "dan")] == [
            "miss", "exact", "miss", "miss", "miss", "exact",
        ]  # fmt: skip
        assert len(made.model.asked) == 4


async def test_a_stream_under_way_is_not_joined_by_a_user_who_may_not_share_it():
    go, arrived = asyncio.Event(), asyncio.Event()

    class Waiting(TopicModel):
        async def answer(self, asked: Asked) -> None:
            arrived.set()
            await go.wait()
            await TopicModel.answer(self, asked)

    async with sharing(scope="tenant", least_askers=2, model=Waiting()) as made:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(ask(made, "ann"))
            await arrived.wait()
            second = group.create_task(ask(made, "bob"))
            while made.running.context.edge.in_flight.now < 2:  # noqa: ASYNC110 - a count has no event
                await asyncio.sleep(0)
            go.set()
        assert [first.result(), second.result()] == ["miss", "miss"]


@pytest.mark.slow
async def test_by_meaning_too_others_are_shown_what_enough_users_were_told():
    async with sharing(semantic=True, scope="tenant", least_askers=2) as made:
        assert await ask(made, "ann") == "miss"
        assert await ask(made, "bob", REWORDED) == "miss", "ann's alone"
        assert await ask(made, "ann", "What is the capital of France?") == "semantic"
        assert await ask(made, "cid", "What is the capital of France?") == "semantic"
        looks = made.running.context.telemetry.metrics.semantic_looks
        assert looks.child("unshared").value == 1


@pytest.mark.slow
async def test_one_user_cannot_fill_the_neighbourhood():
    async with sharing(semantic=True, scope="tenant", most_of_one_user=0.02) as made:
        cache = made.answers.cache
        route = await cache.routes.load("default\x00small")
        route.state.threshold = None
        for number in range(8):
            await ask(made, "mallory", f"What does the word w{number}ord mean in French?")
        assert await cache.store.count() == 4
        assert route.state.labels == 4, "nor is it learned from"
        await ask(made, "ann", CAPITAL)
        assert await cache.store.count() == 5


@pytest.mark.slow
async def test_an_answer_that_declines_is_not_kept_for_other_words():
    model = TopicModel({"france": "I'm sorry, but I can't help with that."})
    async with sharing(semantic=True, model=model) as made:
        assert [await ask(made, None), await ask(made, None, REWORDED)] == ["miss", "miss"]
        assert await made.answers.cache.store.count() == 0


@pytest.mark.slow
async def test_an_entry_says_where_it_is_from():
    async with sharing(semantic=True, scope="tenant") as made:
        headers = {"x-slipstream-tags": "geo"}
        body = {"model": "small", "messages": [{"role": "user", "content": CAPITAL}]}
        first = await made.http.post("/v1/chat/completions", json=body, headers=headers)
        await made.answers.drained()
        hit = await made.http.post("/v1/chat/completions", json=body)
        trace = (await made.http.get(f"/v1/traces/{hit.headers['x-request-id']}")).json()
        where = f"/v1/cache/entries/{trace['cache']['entry']}"
        exact = (await made.http.get(where)).json()
        made.running.context.edge.gateway.exact.remove(trace["cache"]["entry"])
        by_meaning = (await made.http.get(where)).json()
        for told in (exact, by_meaning):
            assert told["request_id"] == first.headers["x-request-id"]
            assert told["model"] == "small"
            assert told["tags"] == ["geo"]
            assert told["kept_at"].endswith("+00:00")
        assert by_meaning["said_by"] == "topical"
        assert by_meaning["askers"] == 1


async def test_hits_linger_where_that_is_configured():
    async with sharing(hit_jitter_ms=0.1) as made:
        rules = made.running.context.edge.gateway.sharing
        assert isinstance(rules, Sharing)
        waited: list[float] = []

        async def sleep(seconds: float) -> None:
            waited.append(seconds)

        rules._sleep = sleep
        assert [await ask(made, None), await ask(made, None)] == ["miss", "exact"]
        assert len(waited) == 1
