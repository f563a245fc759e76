"""Rolling restarts under load: two gateways behind nginx, ended and started again in turn.

Each gateway is a host of its own: a process with its own loopback address and its own disk. nginx has
the deployment's own rules, which repeat no request that a gateway may have seen. The load asks JSON and
streams through nginx, each client as fast as it is answered, and every answer must be whole. A gateway
drains for longer than nginx holds its twin for dead (`fail_timeout`), so there is always one that nginx
believes in.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bench.processes import free_port

ROOT = Path(__file__).resolve().parents[1]
DRAIN_S = 3.0
"""Longer than nginx's `fail_timeout` of 2 s."""
_PATIENCE_S = 60.0
_OK = 200
_TEMPLATE = ROOT / "deploy" / "nginx" / "nginx.conf"


class NoProxyError(RuntimeError):
    """nginx is not installed."""


@dataclass(frozen=True, slots=True)
class Host:
    """Where a gateway is."""

    ip: str
    port: int
    disk: Path

    @property
    def address(self) -> str:
        """As a proxy names it."""
        return f"{self.ip}:{self.port}"


@dataclass(slots=True)
class Rolled:
    """What the clients saw."""

    restarts: int = 0
    """How often both gateways were replaced."""
    answered: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    """Requests that were not answered whole, by kind."""


async def roll(config: Path, folder: Path, *, restarts: int, clients: int) -> Rolled:
    """Restart both gateways of ``config``, one after the other, ``restarts`` times under load.

    ``folder`` is for nginx's files. Raises ``NoProxyError`` without nginx, ``TimeoutError`` if a gateway does
    not come up.
    """
    hosts = [Host(f"127.0.0.{2 + n}", free_port(), folder / f"host-{n}") for n in range(2)]
    rolled, over = Rolled(), asyncio.Event()
    gateways = [await _gateway(config, host) for host in hosts]
    try:
        async with (
            proxy(folder, [host.address for host in hosts]) as url,
            asyncio.TaskGroup() as group,
        ):
            for number in range(clients):
                group.create_task(_ask(url, number, rolled, over))
            try:
                for _ in range(restarts):
                    for place, host in enumerate(hosts):
                        await _end(gateways[place])
                        gateways[place] = await _gateway(config, host)
                    rolled.restarts += 1
            finally:
                over.set()
    finally:
        for gateway in gateways:
            await _end(gateway)
    return rolled


async def _gateway(config: Path, host: Host) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "app", "serve", "--config", str(config)]
    command += ["--host", host.ip, "--port", str(host.port)]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={
            **os.environ,
            "SLIPSTREAM_SERVER__DRAIN_S": str(DRAIN_S),
            "SLIPSTREAM_STATE__DATA_DIR": str(host.disk),
        },
        stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_PATIENCE_S), httpx.AsyncClient() as client:
            while not await _ready(client, host.address):  # noqa: ASYNC110 - another process's start
                await asyncio.sleep(0.05)
    except BaseException:
        await _end(process)
        raise
    return process


async def _ready(client: httpx.AsyncClient, address: str) -> bool:
    try:
        return (await client.get(f"http://{address}/readyz")).status_code == _OK
    except httpx.TransportError:
        return False


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _PATIENCE_S)
        except TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def proxy(folder: Path, addresses: Sequence[str]) -> AsyncIterator[str]:
    """Serve through nginx with the deployment's own rules, these gateways and its port put in."""
    nginx = shutil.which("nginx")
    if nginx is None:
        raise NoProxyError("nginx is not installed")
    port = free_port()
    text = _TEMPLATE.read_text()
    servers = [f"server {each} max_fails=2 fail_timeout=2s;" for each in addresses]
    lines = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("server gateway:"):
            lines += servers
        elif stripped.startswith("listen "):
            lines.append(f"listen 127.0.0.1:{port};")
        elif stripped.startswith("pid "):
            lines.append(f"pid {folder}/nginx.pid; daemon off;")
        elif stripped.startswith("worker_processes"):
            lines.append("worker_processes 1;")
        else:
            lines.append(line)
    file = folder / "nginx.conf"
    file.write_text("\n".join(lines))
    process = await asyncio.create_subprocess_exec(
        nginx, "-p", str(folder), "-c", str(file), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(_PATIENCE_S), httpx.AsyncClient() as client:
            while not await _ready(client, f"127.0.0.1:{port}"):  # noqa: ASYNC110 - another process's start
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        await _end(process)


async def _ask(url: str, number: int, rolled: Rolled, over: asyncio.Event) -> None:
    """Ask questions never asked before until it is over; every other one as a stream."""
    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE_S) as client:
        for count in itertools.count():
            if over.is_set():
                return
            stream = count % 2 == 0
            text = f"Question {count} of client {number}?"
            body: dict[str, object] = {"model": "small", "stream": stream}
            body["messages"] = [{"role": "user", "content": text}]
            try:
                answer = await client.post("/v1/chat/completions", json=body)
            except httpx.TransportError as failure:
                rolled.lost[type(failure).__name__] += 1
                continue
            problem = _problem(answer, stream=stream)
            if problem:
                rolled.lost[problem] += 1
            else:
                rolled.answered += 1


def _problem(answer: httpx.Response, *, stream: bool) -> str:
    """Why the answer is not whole; empty if it is."""
    if answer.status_code != _OK:
        return f"status {answer.status_code}"
    if stream:
        return "" if answer.text.endswith("data: [DONE]\n\n") else "stream cut"
    return "" if json.loads(answer.content).get("choices") else "no answer"
