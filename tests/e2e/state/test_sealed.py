"""With an encryption key, Redis holds answers that only the gateways can read."""

from __future__ import annotations

import redis

from tests.e2e.state.conftest import BUDGET_MS, workers

SECRET = "tB0qk2+Fyq3n6w6g0nV4qN1mB0s6dS0m9Zk1y2x3c4U="
QUESTION = "Why did the Peloponnesian league dissolve, in a word?"


async def test_answers_in_redis_are_sealed_and_shared_all_the_same(upstream, server):
    body = {"model": "small", "messages": [{"role": "user", "content": QUESTION}]}
    state = {"redis_url": server.url, "redis_budget_ms": BUDGET_MS, "redis_prefix": "sealed"}
    sections = {"state": {**state, "encryption_keys": [SECRET]}}
    async with workers(upstream.base_url, server.url, **sections) as (one, two):
        first = await one.http.post("/v1/chat/completions", json=body)
        await one.written()
        second = await two.http.post("/v1/chat/completions", json=body)
        assert second.headers["x-slipstream-cache"] == "exact"
        said = first.json()["choices"][0]["message"]["content"]
        assert second.json()["choices"][0]["message"]["content"] == said
        client = redis.Redis.from_url(server.url)
        kept = [
            client.get(key) or b""
            for key in client.keys("sealed*")
            if client.type(key) == b"string"
        ]
        client.close()
        assert any(value.startswith(b"sl1") for value in kept)
        for value in kept:
            assert said[:24].encode() not in value
    # A gateway without the key sees nothing, and answers anew.
    async with workers(upstream.base_url, server.url, count=1, state=state) as (other,):
        third = await other.http.post("/v1/chat/completions", json=body)
        assert third.status_code == 200
        assert third.headers["x-slipstream-cache"] == "miss"
