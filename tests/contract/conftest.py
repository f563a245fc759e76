"""The simulator without waits, and the official clients that talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from app.providers.simulator import SimulatorSettings, running_simulator
from tests.support.plain_http import NO_TLS


@pytest.fixture
async def base_url() -> AsyncIterator[str]:
    """Of a simulator that keeps the last requests."""
    async with running_simulator(SimulatorSettings(time_scale=0, keep_requests=5)) as url:
        yield url


@pytest.fixture
async def chat(base_url: str) -> AsyncIterator[AsyncOpenAI]:
    """The ``openai`` package, for both of its dialects."""
    http = httpx2.AsyncClient(verify=NO_TLS)
    async with AsyncOpenAI(
        base_url=f"{base_url}/v1", api_key="x", max_retries=0, http_client=http
    ) as client:
        yield client


@pytest.fixture
async def claude(base_url: str) -> AsyncIterator[AsyncAnthropic]:
    """The ``anthropic`` package."""
    http = httpx2.AsyncClient(verify=NO_TLS)
    async with AsyncAnthropic(
        base_url=base_url, api_key="x", max_retries=0, http_client=http
    ) as client:
        yield client
