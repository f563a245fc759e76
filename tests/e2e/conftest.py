"""One gateway over one simulated upstream for a whole module, and the official clients that talk to it.

The clients ask for ``x-slipstream-cache: refresh``: every request goes all the way to the model, and
through the recording that keeps answers, whatever an earlier test has asked. Tests of the cache send
headers of their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from app.providers.simulator import RunningSimulator, SimulatorSettings
from tests.e2e.asking import Asker
from tests.e2e.conversations import THINKER
from tests.support.gateway import Running, configuration, running_gateway
from tests.support.official_clients import anthropic_at, openai_at
from tests.support.plain_http import NO_TLS

ASK_THE_MODEL = {"x-slipstream-cache": "refresh"}


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[RunningSimulator]:
    """The simulated vendors, without waits, with the last requests kept."""
    running = RunningSimulator(SimulatorSettings(time_scale=0, keep_requests=20))
    async with running:
        yield running


@pytest.fixture(scope="module")
async def gateway(upstream: RunningSimulator) -> AsyncIterator[Running]:
    """The gateway with everything on; ``small`` is OpenAI's kind, ``small2`` Anthropic's."""
    server = {"sse_comment_s": 0.1, "max_body_bytes": 1 << 20}
    values = configuration(upstream.base_url, server=server)
    models = values["models"]
    assert isinstance(models, list)
    models.append({**models[0], "name": THINKER, "abilities": {"thinking": "effort"}})
    async with running_gateway(values) as running:
        yield running


@pytest.fixture(scope="module")
async def direct(upstream: RunningSimulator) -> AsyncIterator[httpx2.AsyncClient]:
    """Plain HTTP to the upstream itself."""
    async with httpx2.AsyncClient(verify=NO_TLS, base_url=upstream.base_url) as client:
        yield client


@pytest.fixture(scope="module")
async def http(gateway: Running) -> AsyncIterator[httpx2.AsyncClient]:
    """Plain HTTP to the gateway, with no header of ours."""
    async with httpx2.AsyncClient(verify=NO_TLS, base_url=gateway.url, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
async def openai_client(gateway: Running) -> AsyncIterator[AsyncOpenAI]:
    """The official ``openai`` package, its retries off."""
    async with openai_at(gateway.url, ASK_THE_MODEL) as client:
        yield client


@pytest.fixture(scope="module")
async def anthropic_client(gateway: Running) -> AsyncIterator[AsyncAnthropic]:
    """The official ``anthropic`` package, its retries off."""
    async with anthropic_at(gateway.url, ASK_THE_MODEL) as client:
        yield client


@pytest.fixture
def asker(openai_client: AsyncOpenAI, anthropic_client: AsyncAnthropic) -> Asker:
    """Asks one plain question in any dialect."""
    return Asker(openai_client, anthropic_client)


@pytest.fixture
def script(upstream: RunningSimulator):
    """Say what the next upstream calls meet: fault words in order, None to let one pass."""
    yield upstream.simulator.script_faults
    assert not upstream.simulator._scripted_faults, "a scripted fault was never met"
    upstream.simulator._scripted_faults.clear()
