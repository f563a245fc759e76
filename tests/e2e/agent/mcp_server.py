"""A small MCP server for the tests: ``python mcp_server.py stdio`` or ``python mcp_server.py http PORT``."""

from __future__ import annotations

import asyncio
import os
import sys

from mcp.server import CacheHint, MCPServer
from mcp.server.mcpserver import Context

LIST_TTL_MS = int(os.environ.get("LIST_TTL_MS", "0"))  # noqa: TID251 - a program of its own
server = MCPServer("small", cache_hints={"tools/list": CacheHint(ttl_ms=LIST_TTL_MS)})


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def environment(name: str) -> str:
    """Say an environment variable."""
    return os.environ.get(name, "")  # noqa: TID251 - a program of its own, asked for what it was given


@server.tool()
def key_of(ctx: Context) -> str:
    """Say the call's idempotency key."""
    meta = ctx.request_context.meta or {}
    return str(meta.get("slipstream.dev/idempotency-key"))


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("as asked")


@server.tool()
def grow() -> str:
    """Offer one tool more."""
    server.add_tool(lambda: "grown", name="grown", description="It was not there before.")
    return "done"


@server.tool()
def die() -> str:
    """End the process in mid-call."""
    os._exit(3)


@server.tool()
async def hang() -> str:
    """Never answer."""
    await asyncio.Event().wait()
    return ""


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run()
    else:
        server.run("streamable-http", port=int(sys.argv[2]))
