"""The gateway as users start it, over the scripted model and tools; and a client that times runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import yaml

ROOT = Path(__file__).parents[2]
READ = {"read_only": True, "repeatable": True, "disclosable": True}
START_S = 60.0


def configuration(upstream: str, tool_url: str, *, tool_cache_s: float) -> dict[str, object]:
    """Two models, three lookups, one generic tool, and the agents that use them."""
    lookups = {"get_ticket": "ticket_id", "get_user": "user_id", "check_permissions": "user_id"}
    tools = [_tool(name, key, tool_url, tool_cache_s) for name, key in lookups.items()]
    tools.append(_tool("work", "id", tool_url, 0))
    names = list(lookups)
    agents = [
        {"name": "simple", "model": "fast", "tools": names},
        {"name": "complex", "model": "powerful", "answer_model": "fast", "tools": names},
        {"name": "shapes", "model": "fast", "tools": ["work"], "speculation": {"enabled": False}},
    ]
    models = [
        {"name": tier, "provider": "local", "model": tier, "tier": tier}
        for tier in ("fast", "powerful")
    ]
    return {
        "providers": {"local": {"kind": "openai", "base_url": f"{upstream}/v1"}},
        "models": models,
        "tools": tools,
        "agents": agents,
        "telemetry": {"log_level": "error"},
    }


def _tool(name: str, key: str, url: str, cache_s: float) -> dict[str, object]:
    properties = {key: {"type": "string"}, "ms": {"type": "integer"}}
    return {
        "name": name,
        "http": {"url": f"{url}/{name}/{{{key}}}?ms={{ms}}"},
        "parameters": {"type": "object", "properties": properties, "required": [key]},
        "timeout_s": 60,
        "cache_ttl_s": cache_s,
        "effects": READ,
        "max_concurrency": 256,
    }


@contextlib.asynccontextmanager
async def gateway(values: dict[str, object]) -> AsyncIterator[str]:
    """Run ``slipstream serve`` on ``values``; its URL."""
    with tempfile.TemporaryDirectory(prefix="slipstream-bench-") as folder:
        file = Path(folder) / "gateway.yaml"
        file.write_text(yaml.safe_dump({"state": {"data_dir": folder}, **values}))
        command = [sys.executable, "-m", "app", "serve", "--port", "0", "--config", str(file)]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stderr=asyncio.subprocess.PIPE, env={**os.environ}
        )
        assert process.stderr is not None
        drain: asyncio.Task[bytes] | None = None
        try:
            url = await asyncio.wait_for(_address(process.stderr), START_S)
            drain = asyncio.create_task(process.stderr.read())
            yield url
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            if drain is not None:
                await drain


async def _address(log: asyncio.StreamReader) -> str:
    """The gateway's URL, once it says that it is ready."""
    url = ""
    while not url and (line := (await log.readline()).decode()):
        if found := re.match(r"Slipstream on (http://\S+)", line):
            url = found[1]
    parts = urlsplit(url)
    while True:
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: bench\r\n\r\n")
        status = await reader.readline()
        writer.close()
        if b" 200 " in status:
            return url
        await asyncio.sleep(0.05)


async def ask(
    url: str, agent: str, question: str, headers: dict[str, str] | None = None
) -> tuple[float, float]:
    """Run ``agent`` to its end over a connection of its own; seconds to the first byte and to the last."""
    parts = urlsplit(url)
    body = json.dumps(
        {
            "model": f"agent/{agent}",
            "stream": True,
            "messages": [{"role": "user", "content": question}],
        }
    ).encode()
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    writer.write(head.encode() + body)
    seen = b""
    first_s = 0.0
    while b"[DONE]" not in seen[-64:] and (data := await reader.read(65536)):
        first_s = first_s or time.perf_counter() - began
        seen += data
    took_s = time.perf_counter() - began
    writer.close()
    if b" 200 " not in seen[:20] or b"[DONE]" not in seen:
        raise SystemExit(f"a run failed: {seen[:600].decode(errors='replace')}")
    return first_s, took_s
