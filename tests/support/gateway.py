"""The real gateway for tests: inside the test's own event loop, or as the process that a user starts.

Inside the loop a test can hold both ends of a connection and wait for events; the process is what clients in
other languages and the browser talk to. Both listen on loopback, on a free port.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvicorn
import yaml
from fastapi import FastAPI
from uvicorn.server import Server

from app.api.context import Context
from app.api.protocol import GatewayProtocol
from app.main import create_app
from app.settings import Settings, loads

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0


def configuration(
    upstream: str, *, semantic: bool = False, **sections: object
) -> dict[str, object]:
    """Four models over one upstream of both vendors' dialects; ``sections`` replace top-level ones.

    The semantic cache starts a process with every gateway; tests that are about something else leave it out.
    """
    values: dict[str, object] = {
        "providers": {
            "local": {"kind": "openai", "base_url": f"{upstream}/v1", "warm_connections": 0},
            "claude": {"kind": "anthropic", "base_url": upstream, "warm_connections": 0},
        },
        "models": [
            _model("small", "local", "fast", 0.15, 0.60),
            _model("small2", "claude", "fast", 0.25, 1.25),
            _model("large", "local", "powerful", 2.5, 10.0),
            _model("large2", "claude", "powerful", 3.0, 15.0),
        ],
        "telemetry": {"log_format": "json", "log_level": "error"},
        "cache": {"semantic": {"enabled": semantic}},
    }
    values.update(sections)
    return values


def _model(
    name: str, provider: str, tier: str, price_in: float, price_out: float
) -> dict[str, object]:
    price = {"input": price_in, "output": price_out}
    return {
        "name": name,
        "provider": provider,
        "model": f"sim-{tier}",
        "tier": tier,
        "price": price,
    }


def settings_of(values: dict[str, object]) -> Settings:
    """The settings that a file with ``values`` gives, with an empty environment."""
    with_state = {"state": {"data_dir": tempfile.mkdtemp(dir=_folder())}, **values}
    return loads(yaml.safe_dump(with_state), "test.yaml", {})


@functools.cache
def _folder() -> str:
    """Where every gateway of these tests has its data; gone when they are over."""
    folder = tempfile.TemporaryDirectory(prefix="slipstream-test-")
    atexit.register(folder.cleanup)
    return folder.name


class _QuietServer(Server):
    """uvicorn without its hands on the process's signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that serves at ``url``."""

    url: str
    app: FastAPI
    server: Server = field(repr=False)

    @property
    def context(self) -> Context:
        """What ``bootstrap`` built."""
        context: Context = self.app.state.context
        return context


@contextlib.asynccontextmanager
async def running_gateway(
    values: dict[str, object],
    *,
    native: bool = True,
    protocol: type[GatewayProtocol] = GatewayProtocol,
) -> AsyncIterator[Running]:
    """Serve ``values`` from this event loop; ``native`` False: under uvicorn's own protocol class."""
    app = create_app(settings_of(values))
    config = uvicorn.Config(
        app,
        port=0,
        http=protocol if native else "httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # as in production: our protocol asks the application's endpoints itself
        timeout_graceful_shutdown=5,
    )
    server = _QuietServer(config)
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if task.done():
                await task
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Running(f"http://127.0.0.1:{port}", app, server)
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        with contextlib.suppress(Exception):
            await server.lifespan.shutdown()


@dataclass(slots=True)
class GatewayProcess:
    """``slipstream serve`` as a process of its own."""

    url: str
    process: subprocess.Popen[str]
    log: list[str]

    def stop(self) -> int:
        """End it as an operator would; its exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def gateway_process(
    values: dict[str, object] | None = None,
    *arguments: str,
    env: dict[str, str] | None = None,
    port: int = 0,
) -> Iterator[GatewayProcess]:
    """Start ``slipstream serve``; ``values`` None: with no configuration file."""
    with tempfile.TemporaryDirectory(prefix="slipstream-test-") as folder:
        command = [sys.executable, "-m", "app", "serve", "--port", str(port), *arguments]
        if values is not None:
            file = Path(folder) / "gateway.yaml"
            file.write_text(yaml.safe_dump({"state": {"data_dir": folder}, **values}))
            command += ["--config", str(file)]
        environment = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
        environment |= {"SLIPSTREAM_DATA": folder, "SLIPSTREAM_SERVER__DRAIN_S": "0", **(env or {})}
        if values is None:
            environment["SLIPSTREAM_STATE__DATA_DIR"] = folder
            # A simulator of its own: one on the usual port is another's, and goes when that one does.
            environment.setdefault("SLIPSTREAM_SIMULATOR__PORT", str(_free_port()))
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        log: list[str] = []
        address: list[str] = []
        up = threading.Event()
        reader = threading.Thread(target=_read, args=(process, log, address, up), daemon=True)
        reader.start()
        try:
            several = "--workers" in arguments  # uvicorn's supervisor says nothing of their start
            if several:
                _await_ready(process, address)
            if (not several and not up.wait(PATIENCE_S)) or not address:
                raise AssertionError("the gateway did not start:\n" + "".join(log))
            yield GatewayProcess(address[0], process, log)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            reader.join(PATIENCE_S)
            if process.stderr is not None:
                process.stderr.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_ready(process: subprocess.Popen[str], address: list[str]) -> None:
    """Ask until a worker answers: the kernel queues the connections of the others' share."""
    until_s = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < until_s:
        with contextlib.suppress(httpx.TransportError):
            if address and httpx.get(f"{address[0]}/readyz", timeout=5).status_code == 200:
                return
        time.sleep(0.05)  # another process's start: there is no event to wait for


def _read(
    process: subprocess.Popen[str], log: list[str], address: list[str], up: threading.Event
) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        log.append(line)
        if found := re.match(r"Slipstream on (http://\S+)", line):
            address.append(found[1])
        if "Application startup complete" in line:
            up.set()
    up.set()


def sse_events(text: str) -> list[dict[str, object]]:
    """The JSON of each ``data:`` line of a stream, ``[DONE]`` left out."""
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]
