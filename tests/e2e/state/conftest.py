"""Two gateways of one Redis in the test's own loop, over one simulated upstream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx2
import pytest

from app.providers.simulator import RunningSimulator, SimulatorSettings
from tests.e2e.conftest import NO_TLS
from tests.support.gateway import Running, configuration, running_gateway
from tests.support.redis import RedisServer, redis_server

BUDGET_MS = 1_000
"""Generous: these tests are about what is shared, on a machine that is busy."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One gateway, and a client of it."""

    running: Running
    http: httpx2.AsyncClient

    @property
    def shared(self):
        """Its half of what is shared."""
        return self.running.context.edge.gateway.shared

    async def written(self) -> None:
        """Wait until what it answered has been written to Redis."""
        await self.shared.drained()


@pytest.fixture(scope="session")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@asynccontextmanager
async def workers(
    upstream: str, redis_url: str, count: int = 2, **sections: object
) -> AsyncIterator[list[Worker]]:
    """So many gateways of one Redis."""
    state = {"redis_url": redis_url, "redis_budget_ms": BUDGET_MS}
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            values = configuration(upstream, **{"state": state, **sections})
            running = await stack.enter_async_context(running_gateway(values))
            client = httpx2.AsyncClient(verify=NO_TLS, base_url=running.url, timeout=30)
            http = await stack.enter_async_context(client)
            worker = Worker(running, http)
            async with asyncio.timeout(20):
                await worker.shared.workers.subscribed.wait()
            made.append(worker)
        yield made


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[RunningSimulator]:
    running = RunningSimulator(SimulatorSettings(time_scale=0, keep_requests=20))
    async with running:
        yield running


@pytest.fixture(scope="module")
async def pair(upstream: RunningSimulator, server: RedisServer) -> AsyncIterator[list[Worker]]:
    async with workers(upstream.base_url, server.url) as made:
        yield made
