"""The MCP project's own test server from npm, driven over standard input and output."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import ToolError
from tests.e2e.agent.test_mcp_tools import ANN, registry_of
from tests.support.node_packages import NODE_FOLDER, node_packages

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
PROGRAM = (
    NODE_FOLDER
    / "node_modules"
    / "@modelcontextprotocol"
    / "server-everything"
    / "dist"
    / "index.js"
)


@pytest.fixture(scope="module")
async def everything():
    """The server as a program of the gateway's."""
    await asyncio.to_thread(node_packages)
    return {"command": ["node", str(PROGRAM), "stdio"], "timeout_s": 30}


async def test_its_tools_are_listed_and_called_side_by_side(everything) -> None:
    registry = registry_of(everything)
    await registry.start()
    try:
        offered = await registry.offered(["small__*"])
        assert {"small__echo", "small__get-sum"} <= set(offered)
        async with asyncio.TaskGroup() as group:
            echoes = [
                group.create_task(registry.call("small__echo", {"message": f"hello {n}"}, ANN))
                for n in range(5)
            ]
        assert [f"hello {n}" in each.result().text for n, each in enumerate(echoes)] == [True] * 5
        total = await registry.call("small__get-sum", {"a": 2, "b": 40}, ANN)
        assert "42" in total.text
        with pytest.raises(ToolError) as wrong:
            await registry.call("small__get-sum", {"a": "two"}, ANN)
        assert wrong.value.code == "tool_arguments"
    finally:
        await registry.aclose()
