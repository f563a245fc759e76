"""A sample of the replay through the server as users start it, over HTTP, beside the same in this process.

No time passes between two requests here: nothing expires, and each is answered before the next is sent. The
replay in this process gets the same schedule, so both figures are of the same thing.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx2

from app.providers.simulator import SimulatorSettings, running_simulator
from bench.agent.gateway import gateway
from bench.prompts.replay import Clock, Slipstream, Tally, oracle, replay
from bench.prompts.traffic import Sent, conversations

_STEP_S = 1e-3


def over_http(seed: int, count: int) -> tuple[Tally, Tally, Tally]:
    """``count`` conversations: tokens through the server, through its code in this process, and the most."""
    traffic = [
        replace(sent, at_s=at * _STEP_S, answered_s=(at + 0.5) * _STEP_S, tenant="")
        for at, sent in enumerate(conversations(seed, count))
    ]
    clock = Clock()
    inside = replay(traffic, clock, Slipstream(clock))
    return asyncio.run(_served(traffic)), inside, oracle(traffic, Clock())


async def _served(traffic: list[Sent]) -> Tally:
    async with running_simulator(SimulatorSettings(time_scale=0)) as upstream:
        values: dict[str, object] = {
            "providers": {"claude": {"kind": "anthropic", "base_url": upstream}},
            "models": [
                {
                    "name": "claude",
                    "provider": "claude",
                    "model": "sim-powerful",
                    "tier": "powerful",
                    "price": {"input": 3, "output": 15, "cached_input": 0.3, "cache_write": 3.75},
                }
            ],
            "telemetry": {"log_level": "error"},
            "cache": {"semantic": {"enabled": False}},
        }
        async with gateway(values) as url, httpx2.AsyncClient(timeout=60) as client:
            return await _ask(client, f"{url}/v1/messages", traffic)


async def _ask(client: httpx2.AsyncClient, url: str, traffic: list[Sent]) -> Tally:
    tally = Tally()
    for sent in traffic:
        answer = await client.post(url, json=sent.body)
        answer.raise_for_status()
        usage = answer.json()["usage"]
        tally.read += usage["cache_read_input_tokens"]
        tally.written += usage["cache_creation_input_tokens"]
        tally.plain += usage["input_tokens"]
        tally.requests += 1
    return tally
