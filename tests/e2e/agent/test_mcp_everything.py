"""The MCP project's own test server from npm, driven over standard input and output."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from app.errors import ToolError
from tests.e2e.agent.test_mcp_tools import ANN, registry_of
from tests.support.gateway import ROOT

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
FOLDER = ROOT / "tests" / "support" / "node"
PROGRAM = (
    FOLDER / "node_modules" / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
)


@pytest.fixture(scope="module")
async def everything():
    """The server as a program of the gateway's."""
    made = await asyncio.to_thread(
        subprocess.run,
        [ROOT / "scripts" / "node-packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"scripts/node-packages: {made.stderr.strip()[-200:]}")
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
