"""A redis-server for these tests, and the way to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from app.stores.redis import Redis
from tests.support.redis import RedisServer, redis_server


@pytest.fixture(scope="session")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    made = Redis(server.url, budget_s=2.0, on_state=lambda _: None)
    await made.start()
    assert made.unavailable is None
    await made.command("FLUSHALL")
    yield made
    await made.aclose()
