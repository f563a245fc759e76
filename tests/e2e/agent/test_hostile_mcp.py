"""An MCP server that lists what it should not spoils neither the agent's requests nor the operator's word."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app.domain.tools import ToolCaller
from app.tools.registry_from_settings import build_registry
from tests.e2e.agent.test_agent_endpoint import body, post, read, types
from tests.e2e.agent.test_agent_loop import answers, results
from tests.support.gateway import configuration, running_gateway, settings_of
from tests.support.scripted_model import Speaking, scripted_model

pytestmark = pytest.mark.anyio
SERVER = str(Path(__file__).parent / "hostile_mcp_server.py")
ANN = ToolCaller("acme", "ann")
STDIO = {"command": [sys.executable, SERVER], "timeout_s": 30}


def values(upstream: str, *tools: dict[str, object], asks: str = "odd__*") -> dict[str, object]:
    """The agent ``desk`` with all tools of the server ``odd``."""
    desk = {"name": "desk", "model": "small", "tools": [asks]}
    return configuration(upstream, mcp_servers={"odd": STDIO}, tools=list(tools), agents=[desk])


async def test_names_and_schemas_that_a_vendor_refuses_are_mended_or_left_out() -> None:
    registry = build_registry(settings_of(values("http://127.0.0.1:9")))
    await registry.start()
    try:
        offered = await registry.offered(["odd__*"])
        assert all(name.replace("_", "").replace("-", "").isalnum() for name in offered)
        assert all(name.isascii() and len(name) <= 64 for name in offered)
        assert not any("no_schema" in name or "runs_away" in name for name in offered)
        dotted = next(name for name in offered if "read_file" in name)
        assert (await registry.call(dotted, {"path": "a"}, ANN)).text == "files.read/file"
        assert len(offered) == len(await registry.offered(["odd__*"])) == 4
    finally:
        await registry.aclose()


async def test_what_the_operator_says_of_a_tool_holds_under_the_wildcard_too() -> None:
    """Its approval would otherwise be got around by who lists it."""
    entry = {
        "name": "odd__plain",
        "mcp": {"server": "odd", "tool": "plain"},
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
        "approval": True,
    }

    async def calls(speaking: Speaking) -> None:
        if any(m["role"] == "tool" for m in speaking.body["messages"]):
            await answers(speaking)
            return
        await speaking.call(0, "odd__plain", '{"path": "x"}')
        await speaking.finish("tool_calls")

    async with (
        scripted_model(calls) as model,
        running_gateway(values(model.url, entry)) as gateway,
    ):
        events = read((await post(gateway.url, body())).text)
        assert types(events)[-1] == "RUN_FINISHED"
        assert events[-1][1]["outcome"]["type"] == "interrupt"
        offered = [tool["function"]["name"] for tool in model.bodies[0]["tools"]]
        assert offered.count("odd__plain") == 1


async def test_arguments_that_its_schema_cannot_judge_are_an_error_and_the_run_goes_on() -> None:
    async def calls(speaking: Speaking) -> None:
        if any(m["role"] == "tool" for m in speaking.body["messages"]):
            await answers(speaking)
            return
        await speaking.call(0, "odd__refers_away", '{"path": "x"}')
        await speaking.call(1, "odd__plain", '{"path": "x"}')
        await speaking.finish("tool_calls")

    async with (
        scripted_model(calls) as model,
        running_gateway(values(model.url)) as gateway,
    ):
        events = read((await post(gateway.url, body())).text)
        assert events[-1][1]["outcome"] == {"type": "success"}
        told = dict(results(model.bodies[1]))
        assert "schema" in told["c0"]
        assert told["c1"] == "plain"
