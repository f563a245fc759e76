"""The tools of real MCP servers, over both transports; also one that dies in mid-call."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest

from app.domain.tools import ToolCaller, idempotency_key
from app.errors import ToolError
from app.tools.addresses import Addresses
from app.tools.mcp import McpOptions, McpServer
from app.tools.registry_from_settings import build_registry
from tests.e2e.agent.test_agent_loop import PATIENCE_S
from tests.support.gateway import configuration, settings_of
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
SERVER = str(Path(__file__).parent / "mcp_server.py")
ANN = ToolCaller("acme", "ann")
STDIO = {
    "command": [sys.executable, SERVER, "stdio"],
    "env": {"GREETING": "hello"},
    "timeout_s": 30,
}


def registry_of(server: dict[str, object], *tools: dict[str, object]):
    """A registry over one server named ``small``."""
    values = configuration("http://127.0.0.1:9", mcp_servers={"small": server}, tools=list(tools))
    return build_registry(settings_of(values))


async def test_a_program_s_tools_are_offered_and_called() -> None:
    registry = registry_of(STDIO)
    await registry.start()
    try:
        offered = await registry.offered(["small__*"])
        names = {"add", "environment", "key_of", "fail", "grow", "die", "hang"}
        assert set(offered) == {f"small__{name}" for name in names}
        assert offered["small__add"].spec.parameters["required"] == ["a", "b"]
        assert (await registry.call("small__add", '{"a": 2, "b": 3}', ANN)).text in {
            "5",
            '{"result":5}',
        }
        said = await registry.call("small__environment", {"name": "GREETING"}, ANN)
        assert "hello" in said.text
        token = idempotency_key.set("step-1")
        assert "step-1" in (await registry.call("small__key_of", {}, ANN)).text
        idempotency_key.reset(token)
        with pytest.raises(ToolError, match="fail"):
            await registry.call("small__fail", {}, ANN)
        with pytest.raises(ToolError) as wrong:
            await registry.call("small__add", {"a": "x"}, ANN)
        assert wrong.value.code == "tool_arguments"
    finally:
        await registry.aclose()


async def test_a_server_that_dies_in_mid_call_fails_that_call_and_is_started_anew() -> None:
    registry = registry_of(STDIO)
    await registry.start()
    try:
        await registry.offered(["small__*"])
        with pytest.raises(ToolError) as dead:
            await registry.call("small__die", {}, ANN)
        assert dead.value.code == "tool_closed"
        assert "5" in (await registry.call("small__add", {"a": 2, "b": 3}, ANN)).text
    finally:
        await registry.aclose()


async def test_an_own_name_and_own_effects_for_one_of_a_server_s_tools() -> None:
    tool = {
        "name": "sum",
        "mcp": {"server": "small", "tool": "add"},
        "effects": {"read_only": True},
        "cache_ttl_s": 60,
    }
    registry = registry_of(STDIO, tool)
    try:
        offered = await registry.offered(["sum"])
        assert offered["sum"].spec.description == "Add two numbers."
        assert offered["sum"].spec.parameters["required"] == ["a", "b"]
        await registry.call("sum", {"a": 1, "b": 1}, ANN)
        assert (await registry.call("sum", {"b": 1, "a": 1}, ANN)).cached
    finally:
        await registry.aclose()


async def test_a_server_that_is_not_there_offers_nothing_and_fails_typed() -> None:
    registry = registry_of(
        {"command": [sys.executable, "-c", "raise SystemExit(4)"], "timeout_s": 20}
    )
    await registry.start()
    try:
        assert await registry.offered(["small__*"]) == {}
        with pytest.raises(ToolError) as unknown:
            await registry.call("small__add", {}, ANN)
        assert unknown.value.code == "tool_unknown"
    finally:
        await registry.aclose()


async def test_a_list_is_kept_as_long_as_the_server_says() -> None:
    now_s = 0.0
    command = (sys.executable, SERVER, "stdio")
    options = McpOptions(name="small", command=command, env={"LIST_TTL_MS": "7000"}, timeout_s=30)
    server = McpServer(options, clock=lambda: now_s)
    try:
        assert "small__grown" not in {each.spec.name for each in await server.tools()}
        await server.call("grow", {})
        now_s = 6.9
        assert "small__grown" not in {each.spec.name for each in await server.tools()}
        now_s = 7.1
        assert "small__grown" in {each.spec.name for each in await server.tools()}
    finally:
        await server.aclose()


async def test_a_server_that_is_away_is_not_waited_for_by_every_run() -> None:
    """One run finds out; those that follow go on at once, with the tools that were known."""
    now_s, asked = 0.0, 0

    async def resolve(_: str, __: int) -> list[str]:
        nonlocal asked
        asked += 1
        return ["127.0.0.1"]

    options = McpOptions(name="m", url="http://mcp.example:9/mcp", timeout_s=20)
    server = McpServer(options, clock=lambda: now_s, addresses=Addresses(resolve=resolve))
    try:
        assert await server.tools() == ()
        found_out = asked
        assert found_out > 0
        for _ in range(5):
            assert await server.tools() == ()
        assert asked == found_out
        now_s = 60.0
        assert await server.tools() == ()
        assert asked > found_out
    finally:
        await server.aclose()


async def test_streamable_http() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, SERVER, "http", str(port), stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(30):
            while b"running on" not in await process.stderr.readline():
                pass
        registry = registry_of({"url": f"http://127.0.0.1:{port}/mcp", "timeout_s": 20})
        await registry.start()
        try:
            assert "small__add" in await registry.offered(["small__*"])
            assert "5" in (await registry.call("small__add", {"a": 2, "b": 3}, ANN)).text
            with pytest.raises(ToolError) as dead:
                await registry.call("small__die", {}, ANN)
            assert dead.value.code in {"tool_closed", "tool_failed", "tool_refused"}
        finally:
            await registry.aclose()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_server_that_does_not_answer_keeps_no_other_from_being_asked_at_the_start() -> None:
    async def hang(asked: Asked) -> None:
        await asked.until_gone()

    async with tool_server({"/one": hang, "/other": hang}) as server:
        each = {
            name: {"url": f"{server.url}/{name}", "timeout_s": 600} for name in ("one", "other")
        }
        registry = build_registry(
            settings_of(configuration("http://127.0.0.1:9", mcp_servers=each))
        )
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(registry.start())
            async with asyncio.timeout(PATIENCE_S):
                asked = {(await server.arrived.get()).target for _ in range(2)}
            starting.cancel()
        assert asked == {"/one", "/other"}
        await registry.aclose()
