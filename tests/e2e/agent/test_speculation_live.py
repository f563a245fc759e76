"""A foreseen tool runs before the model has asked; a wrong guess leaves no trace but in figures."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from tests.e2e.agent.test_agent_loop import PATIENCE_S, agent, answers, chat, results, said, tool
from tests.support.gateway import running_gateway
from tests.support.scripted_model import Speaking, scripted_model
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio


async def test_foreseen_calls_start_before_the_model_decides() -> None:
    order: list[str] = []
    early = asyncio.Event()

    async def slow(asked: Asked) -> None:
        order.append("tool")
        early.set()
        await asyncio.sleep(0.02)  # the tool's own time is what is being hidden
        await asked.answer({"got": asked.target})

    async def model_turn(speaking: Speaking) -> None:
        last = speaking.body["messages"][-1]
        if last["role"] == "tool":
            await answers(speaking)
            return
        question = str(last["content"])
        if "early" in question:
            await asyncio.wait_for(early.wait(), PATIENCE_S)
        else:
            await asyncio.sleep(0.02)
        order.append("model")
        if "never" in question:
            await answers(speaking)
            return
        await speaking.call(0, "get", json.dumps({"id": question.rsplit(maxsplit=1)[-1]}))
        await speaking.finish("tool_calls")

    async with (
        tool_server({"/get/": slow}) as tools,
        scripted_model(model_turn) as model,
        running_gateway(agent(model.url, [tool("get", tools.url)])) as gateway,
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
    ):
        for number in range(6):
            await chat(gateway.url, f"what of INC-{number}")
        order.clear()
        early.clear()
        asked_before = len(tools.asked)
        assert said(await chat(gateway.url, "early: what of INC-77")) == "All done."
        assert order == ["tool", "model"]
        assert len(tools.asked) == asked_before + 1
        assert results(model.bodies[-1]) == [("c0", '{"got":"/get/INC-77"}')]
        trace = gateway.context.telemetry.traces.latest(1)[0]
        assert trace["tools"][0]["speculative"] is True

        said(await chat(gateway.url, "never mind INC-78"))
        statistics = (await client.get(f"{gateway.url}/v1/speculation")).json()["tools"]["get"]
        assert statistics["wasted_calls"] == 1
        assert statistics["hits"] >= 1
        assert 0 <= statistics["brier"] < 0.5

        shown = (await client.get(f"{gateway.url}/metrics")).text
        assert 'slipstream_speculated_calls_total{tool="get",outcome="wasted"} 1' in shown
        hits = f'slipstream_speculated_calls_total{{tool="get",outcome="hit"}} {statistics["hits"]}'
        assert hits in shown

        halted = await client.post(f"{gateway.url}/v1/speculation?halted=true")
        assert halted.json()["halted"] is True
        fired = statistics["fired"]
        await chat(gateway.url, "what of INC-79")
        again = (await client.get(f"{gateway.url}/v1/speculation")).json()["tools"]["get"]
        assert again["fired"] == fired


async def test_without_the_flags_nothing_is_ever_started_early() -> None:
    async def get(asked: Asked) -> None:
        await asked.answer({})

    async def model_turn(speaking: Speaking) -> None:
        if speaking.body["messages"][-1]["role"] == "tool":
            await answers(speaking)
            return
        await speaking.call(0, "get", json.dumps({"id": speaking.body["messages"][-1]["content"]}))
        await speaking.finish("tool_calls")

    effects = {"read_only": True, "repeatable": False, "disclosable": True}
    async with (
        tool_server({"/get/": get}) as tools,
        scripted_model(model_turn) as model,
        running_gateway(agent(model.url, [tool("get", tools.url, effects=effects)])) as gateway,
    ):
        for number in range(8):
            await chat(gateway.url, f"INC-{number}")
        assert gateway.context.edge.gateway.speculation.tool_statistics("get").fired == 0
        assert gateway.context.edge.gateway.speculation.tool_statistics("get").predictions > 0


@pytest.mark.parametrize("remember", [True, False])
async def test_what_was_learned_outlives_the_gateway_unless_it_may_not_be_kept(
    tmp_path: Path,
    remember: bool,
) -> None:
    """The first question of a restarted gateway, about a ticket that nobody has named before."""
    early = asyncio.Event()

    async def get(asked: Asked) -> None:
        early.set()
        await asyncio.sleep(0.02)  # what would be hidden: a tool that takes no time is not worth it
        await asked.answer({})

    async def model_turn(speaking: Speaking) -> None:
        last = speaking.body["messages"][-1]
        if last["role"] == "tool":
            await answers(speaking)
            return
        await asyncio.sleep(0.02)
        arguments = json.dumps({"id": str(last["content"]).rsplit(maxsplit=1)[-1]})
        await speaking.call(0, "get", arguments)
        await speaking.finish("tool_calls")

    async with tool_server({"/get/": get}) as tools, scripted_model(model_turn) as model:
        more = {"speculation": {"remember": remember}}
        values = agent(model.url, [tool("get", tools.url)], **more)
        values["state"] = {"data_dir": str(tmp_path)}
        async with running_gateway(values) as gateway:
            learned = gateway.context.edge.gateway.speculation
            for number in range(6):
                await chat(gateway.url, f"what of INC-{number}")
            async with asyncio.timeout(PATIENCE_S):
                while sum(each.turns for each in learned.next_call_models.values()) < 6:  # noqa: ASYNC110 - learned behind the answer
                    await asyncio.sleep(0.01)
        file = tmp_path / "speculation" / "lessons.jsonl"
        assert file.exists() is remember
        if not remember:
            return
        assert len(file.read_bytes().splitlines()) == 6
        async with running_gateway(values) as gateway:
            learned = gateway.context.edge.gateway.speculation
            async with asyncio.timeout(PATIENCE_S):
                while not learned.next_call_models:  # noqa: ASYNC110 - restored beside the first requests
                    await asyncio.sleep(0.01)
            stages = learned.patterns.values()
            known = [found for each in stages for found in each.predict("and INC-77?", ["get"])]
            assert max(each.p for each in known if each.arguments == {"id": "INC-77"}) > 0.5
