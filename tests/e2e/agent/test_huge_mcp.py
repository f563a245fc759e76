"""An MCP server that answers without end costs one call a clear error, and the gateway no memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.tools import ToolCaller
from app.errors import ToolError
from app.tools.registry_from_settings import build_registry
from tests.support.gateway import configuration, settings_of
from tests.support.memory import PeakMemory
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
SERVER = str(Path(__file__).parent / "huge_mcp_server.py")
ANN = ToolCaller("acme", "ann")
HUGE_BYTES = 100 << 20
MOST_GROWN_BYTES = 48 << 20
"""A few copies of the 4 MiB that are read, and what the allocator keeps; far from 100 MiB."""
PIECE = b"x" * (1 << 16)
JSON = "application/json"
STREAM = "text/event-stream"


def registry_of(server: dict[str, object]):
    """A registry over one server named ``huge``."""
    values = configuration("http://127.0.0.1:9", mcp_servers={"huge": server})
    return build_registry(settings_of(values))


@contextlib.asynccontextmanager
async def started(server: dict[str, object]):
    """The registry, with its tools listed and one call made."""
    registry = registry_of({"timeout_s": 60, **server})
    await registry.start()
    try:
        assert "huge__small" in await registry.offered(["huge__*"])
        assert (await registry.call("huge__small", {}, ANN)).text == "small"
        yield registry
    finally:
        await registry.aclose()


async def is_too_large(registry, name: str) -> None:
    """A call fails typed and holds no memory; the next one is answered."""
    memory = PeakMemory()
    with pytest.raises(ToolError) as failed:
        await registry.call(name, {}, ANN)
    assert (failed.value.code, "4194304 bytes" in failed.value.message) == (
        "tool_too_large",
        True,
    ), failed.value.message
    assert memory.grown_bytes() < MOST_GROWN_BYTES
    assert (await registry.call("huge__small", {}, ANN)).text == "small"


@pytest.mark.parametrize("name", ["huge__huge", "huge__endless"])
async def test_a_program_s_answer_without_end_fails_its_call_alone(name) -> None:
    async with started({"command": [sys.executable, SERVER]}) as registry:
        await is_too_large(registry, name)


async def test_a_list_of_tools_without_end_is_not_taken() -> None:
    registry = registry_of({"command": [sys.executable, SERVER, "endless-list"], "timeout_s": 60})
    memory = PeakMemory()
    await registry.start()
    try:
        assert await registry.offered(["huge__*"]) == {}
        assert memory.grown_bytes() < MOST_GROWN_BYTES
    finally:
        await registry.aclose()


async def chunked(asked: Asked, kind: str, extra: str = "") -> Callable:
    """Begin an answer that comes in chunks; what writes one."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n{extra}\r\n"
    asked.writer.write(head.encode())

    async def write(piece: bytes) -> None:
        asked.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await asked.writer.drain()

    return write


async def huge(asked: Asked, request_id: object, how: str) -> None:
    """An answer of 100 MB, or one of 100 KB that unpacks to it."""
    shape = {
        "jsonrpc": "2.0",
        "id": request_id,
        "result": {"content": [{"type": "text", "text": "?"}]},
    }
    begin, _, end = json.dumps(shape).encode().partition(b"?")
    with contextlib.suppress(ConnectionError):
        if how == "packed":
            packing = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
            packed = packing.compress(begin)
            for _ in range(HUGE_BYTES // len(PIECE)):
                packed += packing.compress(PIECE)
            packed += packing.compress(end) + packing.flush()
            await asked.answer(packed, extra="content-encoding: gzip\r\n")
            return
        write = await chunked(asked, STREAM if how == "events" else JSON)
        await write(b"data: " * (how == "events") + begin)
        for _ in range(HUGE_BYTES // len(PIECE)):
            await write(PIECE)
        await write(end + b"\n\n")
        asked.writer.write(b"0\r\n\r\n")
    asked.gone.set()
    asked.writer.close()


async def serve(asked: Asked) -> None:
    """An MCP server over streamable HTTP."""
    if asked.method != "POST":
        await asked.answer({}, 405)
        return
    said = json.loads(asked.body)
    method, params = said["method"], said.get("params") or {}
    if "id" not in said:
        await asked.answer(b"", 202)
        return
    result: object = None
    if method == "initialize":
        about = {"name": "huge", "version": "1"}
        version = params["protocolVersion"]
        result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}
    elif method == "tools/list":
        names = ("small", "whole", "events", "packed")
        result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}
    elif method == "tools/call" and params["name"] == "small":
        result = {"content": [{"type": "text", "text": "small"}]}
    elif method == "tools/call":
        await huge(asked, said["id"], params["name"])
        return
    answer = {"result": result} if result else {"error": {"code": -32601, "message": "no"}}
    await asked.answer({"jsonrpc": "2.0", "id": said["id"], **answer})


@pytest.mark.parametrize("how", ["whole", "events", "packed"])
async def test_a_server_s_answer_without_end_over_http_fails_its_call_alone(how) -> None:
    async with (
        tool_server({"/mcp": serve}) as server,
        started({"url": f"{server.url}/mcp"}) as registry,
    ):
        await is_too_large(registry, f"huge__{how}")
        small, large = await asyncio.gather(  # noqa: TID251 - a call beside it goes on
            registry.call("huge__small", {}, ANN),
            registry.call(f"huge__{how}", {}, ANN),
            return_exceptions=True,
        )
        assert small.text == "small"
        assert large.code == "tool_too_large"
