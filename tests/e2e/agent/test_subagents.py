"""An agent hands tasks to others: side by side, each under its own id; one ahead where it pays."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.e2e.agent.test_agent_endpoint import body, post, read, types
from tests.e2e.agent.test_agent_loop import PATIENCE_S, agent, results
from tests.support.gateway import configuration, running_gateway, settings_of
from tests.support.scripted_model import Speaking, scripted_model

pytestmark = pytest.mark.anyio
LONG = "You look things up. " * 300
COUNT = 4


def config(upstream: str, system: str) -> dict[str, object]:
    """The agent ``desk`` may ask ``scout``."""
    values = agent(upstream, [], agents=["scout"])
    scout = {"name": "scout", "system": system, "model": "small"}
    return {**values, "agents": [*values["agents"], scout]}


def script(arrived: asyncio.Queue[Speaking], go_on: asyncio.Event):
    """The desk asks COUNT scouts; each scout is put into ``arrived`` and answers when told to."""

    async def play(speaking: Speaking) -> None:
        messages = speaking.body["messages"]
        if messages[0]["content"] != "Be brief.":
            arrived.put_nowait(speaking)
            await go_on.wait()
            await speaking.text(f"Found {messages[-1]['content']}.")
            await speaking.finish()
        elif messages[-1]["role"] == "tool":
            await speaking.text("Summed up.")
            await speaking.finish()
        else:
            for index in range(COUNT):
                await speaking.call(index, "ask_scout", json.dumps({"task": f"thing {index}"}))
            await speaking.finish("tool_calls")

    return play


async def test_sub_agents_run_side_by_side_each_under_its_own_id() -> None:
    arrived: asyncio.Queue[Speaking] = asyncio.Queue()
    go_on = asyncio.Event()
    async with (
        scripted_model(script(arrived, go_on)) as model,
        running_gateway(config(model.url, "You scout.")) as gateway,
        asyncio.TaskGroup() as group,
    ):
        given = body(forwardedProps={"agent": "desk"})
        running = group.create_task(post(gateway.url, given))
        for _ in range(COUNT):
            await asyncio.wait_for(arrived.get(), PATIENCE_S)
        go_on.set()
        events = read((await running).text)
        told = types(events)
        assert told.count("SUBAGENT_STARTED") == told.count("SUBAGENT_FINISHED") == COUNT
        said: dict[str, str] = {}
        for _, event in events:
            if event["type"] == "TEXT_MESSAGE_CONTENT" and "subagentRunId" in event:
                key = str(event["subagentRunId"])
                said[key] = said.get(key, "") + str(event["delta"])
        assert sorted(said.values()) == [f"Found thing {n}." for n in range(COUNT)]
        assert [text for _, text in results(model.bodies[-1])] == [
            f"Found thing {n}." for n in range(COUNT)
        ]
        assert events[-1][1]["usage"][0]["inputTokens"] == 10 * (COUNT + 2)


async def test_with_a_long_prefix_the_first_goes_ahead_and_the_others_wait_for_its_first_byte() -> (
    None
):
    arrived: asyncio.Queue[Speaking] = asyncio.Queue()
    go_on = asyncio.Event()
    async with (
        scripted_model(script(arrived, go_on)) as model,
        running_gateway(config(model.url, LONG)) as gateway,
        asyncio.TaskGroup() as group,
    ):
        running = group.create_task(post(gateway.url, body(forwardedProps={"agent": "desk"})))
        await asyncio.wait_for(arrived.get(), PATIENCE_S)
        assert len(model.bodies) == 2  # the desk, and the one who leads
        go_on.set()
        events = read((await running).text)
        assert types(events).count("SUBAGENT_FINISHED") == COUNT
        assert len(model.bodies) == COUNT + 2


async def test_a_sub_agent_that_fails_is_a_tool_error_and_the_run_goes_on() -> None:
    async def play(speaking: Speaking) -> None:
        messages = speaking.body["messages"]
        if messages[0]["content"] == "You scout.":
            await speaking.text("I")
            speaking.asked.writer.transport.abort()
        elif messages[-1]["role"] == "tool":
            await speaking.text("It failed.")
            await speaking.finish()
        else:
            await speaking.call(0, "ask_scout", '{"task": "x"}')
            await speaking.call(1, "ask_scout", '{"work": "x"}')
            await speaking.finish("tool_calls")

    async with (
        scripted_model(play) as model,
        running_gateway(config(model.url, "You scout.")) as gateway,
    ):
        events = read((await post(gateway.url, body(forwardedProps={"agent": "desk"}))).text)
        assert "SUBAGENT_ERROR" in types(events)
        assert types(events)[-1] == "RUN_FINISHED"
        codes = [
            event["metadata"].get("code")
            for _, event in events
            if event["type"] == "TOOL_CALL_RESULT"
        ]
        assert sorted(codes) == ["subagent_failed", "tool_arguments"]


def test_a_sub_agent_that_is_not_there_is_told_at_start() -> None:
    with pytest.raises(Exception, match="names no other entry of agents"):
        settings_of(configuration("http://127.0.0.1:9", agents=[{"name": "a", "agents": ["a"]}]))
