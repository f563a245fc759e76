"""Two real upstreams for one tier: the one that keeps silent is overtaken, a limited one is left alone."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from app.providers.simulator import RunningSimulator, SimulatorSettings, expected_answer
from tests.support.gateway import Running, configuration, running_gateway

pytestmark = pytest.mark.anyio
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CHAT = "/v1/chat/completions"
HEADERS = {"x-slipstream-cache": "bypass", "x-slipstream-tier": "fast"}


@asynccontextmanager
async def two_upstreams(
    **hedge: float,
) -> AsyncIterator[tuple[httpx2.AsyncClient, Running, RunningSimulator, RunningSimulator]]:
    first = RunningSimulator(SimulatorSettings(time_scale=0.01))
    second = RunningSimulator(SimulatorSettings(time_scale=0.01))
    async with first, second:
        values = configuration(first.base_url, routing={"hedge": hedge})
        local = values["providers"]["local"]
        values["providers"] = {
            "a": {**local, "base_url": f"{first.base_url}/v1"},
            "b": {**local, "base_url": f"{second.base_url}/v1"},
        }
        small = next(model for model in values["models"] if model["name"] == "small")
        values["models"] = [{**small, "name": name, "provider": name} for name in ("a", "b")]
        async with (
            running_gateway(values) as running,
            httpx2.AsyncClient(verify=NO_TLS, base_url=running.url, timeout=20) as client,
        ):
            yield client, running, first, second


async def ask(client: httpx2.AsyncClient, text: str, *, stream: bool = True) -> httpx2.Response:
    messages = [{"role": "user", "content": text}]
    body = {"model": "auto", "stream": stream, "messages": messages}
    return await client.post(CHAT, json=body, headers=HEADERS)


def text_of(answer: httpx2.Response) -> str:
    said = ""
    for line in answer.text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                said += choice["delta"].get("content") or ""
    return said


def prefer_a(running: Running) -> None:
    load = running.context.edge.gateway.load
    load.deployment("a").ttft_s, load.deployment("b").ttft_s = 0.001, 10.0


async def test_a_silent_upstream_is_overtaken_by_the_other_and_the_hedge_is_counted():
    async with two_upstreams(max_share=0.2) as (client, running, first, _):
        for number in range(60):
            await ask(client, f"Question {number}")
        prefer_a(running)
        first.simulator.script_faults("hang")
        answer = await ask(client, "And this one?")
        assert answer.status_code == 200
        assert text_of(answer) == expected_answer("And this one?", "sim-fast")
        metrics = (await client.get("/metrics")).text
        assert 'slipstream_hedges_total{outcome="won"}' in metrics
        assert "slipstream_hedge_cost_usd_total" in metrics
        load = running.context.edge.gateway.load
        assert [load.deployment(name).in_flight for name in "ab"] == [0, 0]


async def test_without_a_budget_no_second_call_is_made():
    async with two_upstreams(max_share=0, max_usd_per_hour=0) as (client, running, *_):
        for number in range(30):
            await ask(client, f"Question {number}")
        assert running.context.edge.gateway.hedging is None


async def test_an_hour_without_money_allows_no_second_call_of_a_priced_model():
    async with two_upstreams(max_share=0.2, max_usd_per_hour=0) as (client, running, *_):
        for number in range(60):
            await ask(client, f"Question {number}")
        counts = running.context.telemetry.metrics.guards.hedges
        assert not [cell.value for cell in counts._children.values() if cell.value]


async def test_a_limited_upstream_is_left_alone_until_its_time_is_over():
    async with two_upstreams(max_share=0) as (client, running, first, _):
        prefer_a(running)
        first.simulator.script_faults("429:7")
        answers = [await ask(client, f"Question {number}", stream=False) for number in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 5
        load = running.context.edge.gateway.load
        assert load.is_open("a")
        assert load.deployment("a").upstream_s == 0.0  # only asked once, in vain
