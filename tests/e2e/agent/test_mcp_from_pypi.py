"""A reference server of the MCP project from PyPI, of another generation of the protocol than our client."""

from __future__ import annotations

import asyncio
import json

import pytest

from app.errors import ToolError
from bench.agent.environment import UnavailableError, python_with
from tests.e2e.agent.test_mcp_tools import ANN, registry_of

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
PACKAGES = ("mcp-server-time==2026.1.26", "mcp==1.30.0")


async def test_its_tools_are_called_and_its_refusals_are_typed() -> None:
    try:
        python = await asyncio.to_thread(python_with, "mcp-server-time", PACKAGES)
    except UnavailableError as why:
        pytest.skip(f"{' '.join(PACKAGES)}: {why}")
    command = [str(python), "-m", "mcp_server_time", "--local-timezone", "UTC"]
    registry = registry_of({"command": command, "timeout_s": 60})
    await registry.start()
    try:
        assert set(await registry.offered(["small__*"])) == {
            "small__get_current_time",
            "small__convert_time",
        }
        asked = {
            "source_timezone": "Asia/Kolkata",
            "time": "12:00",
            "target_timezone": "Asia/Tokyo",
        }
        told = json.loads((await registry.call("small__convert_time", asked, ANN)).text)
        assert told["time_difference"] == "+3.5h"
        with pytest.raises(ToolError) as wrong:
            await registry.call("small__convert_time", {"time": "12:00"}, ANN)
        assert wrong.value.code == "tool_arguments"
        with pytest.raises(ToolError, match="Nowhere"):
            await registry.call("small__get_current_time", {"timezone": "Nowhere/At_All"}, ANN)
    finally:
        await registry.aclose()
