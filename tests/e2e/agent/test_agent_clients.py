"""The official clients from npm (``@ag-ui/client`` and ``ai``) consume runs without a warning."""

from __future__ import annotations

import asyncio
import json

import pytest

from app.providers.simulator import SimulatorSettings, running_simulator
from tests.e2e.agent.test_agent_loop import agent, echo, tool
from tests.support.gateway import running_gateway
from tests.support.node_packages import NODE_FOLDER, node_packages
from tests.support.tool_server import tool_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
PATIENCE_S = 50.0


@pytest.fixture(scope="module")
async def told():
    """What both clients made of a run with two tool calls."""
    await asyncio.to_thread(node_packages)
    async with (
        running_simulator(SimulatorSettings(time_scale=0.01)) as upstream,
        tool_server({"/ticket/": echo()}) as tools,
        running_gateway(agent(upstream, [tool("ticket", tools.url)])) as gateway,
    ):
        process = await asyncio.create_subprocess_exec(
            "node",
            "agent.mjs",
            gateway.url,
            cwd=NODE_FOLDER,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert process.returncode == 0, err.decode()
        return json.loads(out)


async def test_no_client_warns(told) -> None:
    assert told["warnings"] == []


async def test_the_ag_ui_client_builds_the_conversation(told) -> None:
    run = told["agUi"]
    assert run["events"][0] == "RUN_STARTED"
    assert run["events"][-1] == "RUN_FINISHED"
    roles = [message["role"] for message in run["messages"]]
    assert roles.count("tool") == 2
    assert [m["calls"] for m in run["messages"] if m["calls"]] == [2]
    assert run["messages"][-1]["role"] == "assistant"
    assert run["messages"][-1]["content"]


async def test_the_vercel_client_builds_the_message(told) -> None:
    run = told["vercel"]
    assert (run["invalid"], run["errors"]) == ([], [])
    tools = [part for part in run["parts"] if part["type"] == "dynamic-tool"]
    assert [part["state"] for part in tools] == ["output-available"] * 2
    assert [part["input"]["id"] for part in tools] == ["INC-4821", "INC-4822"]
    texts = [part["text"] for part in run["parts"] if part["type"] == "text"]
    assert "".join(texts)
    assert run["metadata"]["usage"][0]["outputTokens"] > 0
