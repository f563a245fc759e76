"""Output contracts as the official clients see them, over the simulated vendors."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anthropic
import httpx2
import openai
import pytest

from app.providers.simulator import SimulatorSettings, running_simulator
from tests.support.gateway import configuration, running_gateway

pytestmark = pytest.mark.anyio

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
HIDDEN = {"model": "large2", "name": "quiet", "hide_reasoning": True, "effort": "low"}
QUIET = {"x-slipstream-contract": "quiet"}
ASKED = [{"role": "user", "content": "Why is the sky blue?"}]
TOOL = {"name": "find", "description": "Find it.", "input_schema": {"type": "object"}}
THINKING = {"type": "adaptive"}


@asynccontextmanager
async def serving(
    *contracts: object,
) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, openai.AsyncOpenAI]]:
    simulated = SimulatorSettings(time_scale=0)
    async with running_simulator(simulated) as upstream:
        values = configuration(upstream, prompts={"contracts": list(contracts)})
        for model in values["models"]:
            kind = "adaptive" if model["provider"] == "claude" else "effort"
            model["abilities"] = {"thinking": kind}
        async with (
            running_gateway(values) as running,
            httpx2.AsyncClient(verify=NO_TLS) as http,
        ):
            shared = {"api_key": "x", "max_retries": 0, "http_client": http}
            yield (
                anthropic.AsyncAnthropic(base_url=running.url, **shared),
                openai.AsyncOpenAI(base_url=running.url + "/v1", **shared),
            )


async def message(claude, *, stream, contract=True, **more):
    """A Messages answer, whole or put together from its stream by the vendor's package."""
    headers = QUIET if contract else {}
    wanted = {
        "model": "large2",
        "max_tokens": 2000,
        "messages": ASKED,
        "thinking": THINKING,
        **more,
    }
    if not stream:
        return await claude.messages.create(**wanted, extra_headers=headers)
    async with claude.messages.stream(**wanted, extra_headers=headers) as events:
        return await events.get_final_message()


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_is_hidden_from_who_asked_for_that_and_is_paid_for_all_the_same(stream):
    async with serving(HIDDEN) as (claude, _):
        quiet = await message(claude, stream=stream)
        open_ = await message(claude, stream=stream, contract=False)
        assert [block.type for block in quiet.content] == ["text"]
        assert quiet.content[0].text
        assert "thinking" in [block.type for block in open_.content]
        assert quiet.usage.output_tokens_details.thinking_tokens > 0
        assert quiet.usage.output_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_where_tools_are_called_the_seal_stays_for_the_client_to_hand_back(stream):
    async with serving(HIDDEN) as (claude, _):
        forced = await message(claude, stream=stream, tools=[TOOL])
        sealed = [block for block in forced.content if block.type == "thinking"]
        assert [block.thinking for block in sealed] == [""] * len(sealed)
        assert sealed
        assert all(block.signature for block in sealed)


@pytest.mark.parametrize("stream", [False, True])
async def test_clients_of_another_dialect_see_none_of_it_either(stream):
    async with serving(HIDDEN) as (_, gpt):
        wanted = {"model": "large2", "messages": ASKED, "reasoning_effort": "high"}
        told = []
        if stream:
            async for chunk in await gpt.chat.completions.create(
                **wanted, stream=True, extra_headers=QUIET
            ):
                told += [choice.delta.model_dump() for choice in chunk.choices]
        else:
            answer = await gpt.chat.completions.create(**wanted, extra_headers=QUIET)
            told.append(answer.choices[0].message.model_dump())
            assert answer.usage.completion_tokens_details.reasoning_tokens > 0
        assert any(each.get("content") for each in told)
        assert not any("reasoning" in name for each in told for name in each)
        kinds = []
        if stream:
            async with gpt.responses.stream(
                model="large2", input="Why?", reasoning={"effort": "high"}, extra_headers=QUIET
            ) as events:
                final = await events.get_final_response()
        else:
            final = await gpt.responses.create(
                model="large2", input="Why?", reasoning={"effort": "high"}, extra_headers=QUIET
            )
        kinds = [item.type for item in final.output]
        assert kinds == ["message"]
        assert final.output_text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_responses_answer_of_its_own_dialect_loses_its_reasoning_items(stream):
    async with serving({**HIDDEN, "model": "large"}) as (_, gpt):
        wanted = {"model": "large", "input": "Why is it?", "reasoning": {"effort": "high"}}
        if stream:
            async with gpt.responses.stream(**wanted, extra_headers=QUIET) as events:
                final = await events.get_final_response()
        else:
            final = await gpt.responses.create(**wanted, extra_headers=QUIET)
        assert [item.type for item in final.output] == ["message"]
        assert final.output_text
        assert final.usage.output_tokens_details.reasoning_tokens > 0
