"""A worker leaves an upstream alone because another one has found out."""

from __future__ import annotations

import asyncio

import pytest

from app.pipeline.shared_health import EVERY_S, MAX_HINT_S, SharedHealth
from app.routing.breaker import FAILURES_TO_OPEN
from app.routing.load import LoadBalancer
from app.stores.redis import Redis
from app.stores.redis_health import RedisHealth
from tests.e2e.state.conftest import workers
from tests.e2e.state.test_shared_flights import CHAT, body, over
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
NAMES = ["small", "large"]


class Two:
    """Two workers' loads on one clock, told by real Redis."""

    def __init__(self, redis: Redis) -> None:
        self.now = 100.0
        self.loads = [LoadBalancer(NAMES, clock=lambda: self.now) for _ in range(2)]
        self.parts = [
            SharedHealth(RedisHealth(redis), load, NAMES, clock=lambda: self.now)
            for load in self.loads
        ]

    async def round(self) -> None:
        for part in self.parts:
            await part.exchange()


@pytest.fixture
async def two(server, request):
    said: list[str | None] = []
    redis = Redis(
        server.url, budget_s=1.0, prefix=f"h-{request.node.name[:50]}", on_state=said.append
    )
    await redis.start()
    yield Two(redis)
    await redis.aclose()


async def test_a_vendors_word_holds_on_every_worker_for_as_long_as_it_says(two) -> None:
    two.loads[0].deployment("small").breaker.hold(two.now, 20.0)
    await two.round()
    assert two.loads[1].is_open("small")
    assert not two.loads[1].is_open("large")
    two.now += 15.0
    assert two.loads[1].is_open("small")
    two.now += 5.1
    assert not two.loads[1].is_open("small")


async def test_another_workers_open_breaker_is_believed_for_two_rounds_alone(two) -> None:
    breaker = two.loads[0].deployment("small").breaker
    for _ in range(FAILURES_TO_OPEN + 4):
        breaker.record_failure(two.now)
    assert breaker.open_for_s > MAX_HINT_S
    await two.round()
    assert two.loads[1].is_open("small")
    assert not two.loads[1].deployment("small").breaker.tripped
    two.now += MAX_HINT_S + EVERY_S / 10
    assert not two.loads[1].is_open("small")


async def test_what_was_heard_is_not_said_on(two) -> None:
    two.loads[0].deployment("small").breaker.hold(two.now, 20.0)
    await two.round()
    assert two.parts[1]._own_hints() == {}
    assert "small" in two.parts[0]._own_hints()


async def test_a_429_that_one_worker_met_keeps_the_others_away(server) -> None:
    asked: list[str] = []

    async def limited(seen: Asked) -> None:
        asked.append(seen.target)
        headers = "retry-after: 30\r\n"
        await seen.answer({"error": {"message": "slow", "type": "r"}}, 429, extra=headers)

    async with (
        tool_server({CHAT: limited}) as vendor,
        workers(vendor.url, server.url, **over(vendor.url)) as (one, other),
    ):
        await one.http.post(CHAT, json=body("Well?", stream=False))
        load = other.running.context.edge.gateway.load
        async with asyncio.timeout(20):
            while not load.is_open("small"):  # noqa: ASYNC110 - told once a second
                await asyncio.sleep(0.05)
