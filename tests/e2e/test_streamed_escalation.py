"""A routed stream whose first tokens are a refusal: every client gets the powerful model's answer instead."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import pytest

from app.providers.simulator import RunningSimulator, SimulatorSettings, expected_answer
from tests.e2e.asking import DIALECTS, Asker
from tests.support.gateway import Running, configuration, running_gateway
from tests.support.official_clients import anthropic_at, openai_at

pytestmark = pytest.mark.anyio
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[RunningSimulator]:
    running = RunningSimulator(SimulatorSettings(time_scale=0))
    async with running:
        yield running


@pytest.fixture(scope="module", params=["local", "claude"])
async def gateway(upstream, request) -> AsyncIterator[Running]:
    """One provider, of OpenAI's kind or Anthropic's, so that frames pass through or are translated."""
    values = configuration(upstream.base_url, routing={"fast_share": 1.0})
    values["models"] = [each for each in values["models"] if each["provider"] == request.param]
    async with running_gateway(values) as running:
        yield running


@pytest.fixture
async def asker(gateway: Running) -> AsyncIterator[Asker]:
    async with openai_at(gateway.url) as a, anthropic_at(gateway.url) as b:
        yield Asker(a, b)


async def said(asker: Asker, dialect: str, text: str) -> str:
    return "".join([piece async for piece in asker.streamed(dialect, "auto", text)])


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_refused_stream_is_the_powerful_models_in_every_dialect(
    asker, upstream, gateway, dialect
):
    text = f"Will {dialect} be refused by {gateway.url}?"
    assert await said(asker, dialect, f"{text} No.") == expected_answer(f"{text} No.", "sim-fast")
    upstream.simulator.script_faults("refusal")
    assert await said(asker, dialect, text) == expected_answer(text, "sim-powerful")
    counted = gateway.context.telemetry.metrics.escalations._children
    assert ("refused", "gained") in counted
