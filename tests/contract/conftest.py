"""The simulator without waits, and the official clients that talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from app.providers.simulator import SimulatorSettings, running_simulator
from tests.support.official_clients import anthropic_at, openai_at


@pytest.fixture
async def base_url() -> AsyncIterator[str]:
    """Of a simulator that keeps the last requests."""
    async with running_simulator(SimulatorSettings(time_scale=0, keep_requests=5)) as url:
        yield url


@pytest.fixture
async def chat(base_url: str) -> AsyncIterator[AsyncOpenAI]:
    """The ``openai`` package, for both of its dialects."""
    async with openai_at(base_url) as client:
        yield client


@pytest.fixture
async def claude(base_url: str) -> AsyncIterator[AsyncAnthropic]:
    """The ``anthropic`` package."""
    async with anthropic_at(base_url) as client:
        yield client
