"""The laboratory: simulated vendors, a Redis and a gateway process, with a fault proxy between each pair.

After each experiment the lab is calm again and must look as before: nothing in flight, no place at an
upstream in use, no client's socket open, and no more file descriptors than the connections that are kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from app.providers.simulator import RunningSimulator, SimulatorSettings
from bench.chaos.asking import DIALECTS, Ask, Outcome, Tally, ask, exchange
from bench.chaos.proxy import CALM, Fault, FaultProxy
from bench.chaos.servers import answering, tool
from bench.loopback import port_of, served
from bench.machine import process_tree
from bench.processes import Server as Started
from bench.processes import free_port, running, wait_for_answer, wait_for_line

START_S = 60.0
SETTLE_S = 35.0
"""Longer than a breaker stays open at most."""


@dataclass(slots=True)
class Gateway:
    """A gateway process that serves."""

    port: int
    pid: int
    folder: Path

    def rss_kib(self) -> int:
        """Resident memory of its process and children."""
        return sum(_rss_kib(pid) for pid in process_tree(self.pid))

    def descriptors(self) -> int:
        """Open files and sockets of the process itself."""
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - names only, quickly
        except OSError:
            return -1

    def sockets_of_clients(self) -> int:
        """Connections that clients have with it, as the kernel counts them."""
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        here = f":{self.port:04X}"
        fields = [line.split() for line in lines]
        return sum(f[1].endswith(here) and f[3] in {"01", "08"} for f in fields)

    async def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric's samples, of those with a label where it is given."""
        text = (await exchange(self.port, _get("/metrics"))).decode(errors="replace")
        found = [line for line in text.splitlines() if line.startswith((name + " ", name + "{"))]
        return sum(float(line.rpartition(" ")[2]) for line in found if label in line)


@dataclass(slots=True)
class Lab:
    """What an experiment may use."""

    simulator: RunningSimulator
    openai: FaultProxy
    anthropic: FaultProxy
    gateway: Gateway
    values: dict[str, object]
    tools: FaultProxy
    redis: FaultProxy | None = None
    asked: int = 0

    def questions(self, count: int, **more: object) -> list[Ask]:
        """So many questions that were never asked, in every dialect, whole and streamed in turn."""
        made = []
        for number in range(count):
            self.asked += 1
            form: dict[str, object] = {
                "dialect": DIALECTS[number % 3],
                "stream": number // 3 % 2 == 1,
                "model": ("small", "small2")[number // 6 % 2],
                **more,
            }
            made.append(Ask(f"Question {self.asked} of the laboratory?", **form))  # type: ignore[arg-type]
        return made

    def lasting(self, count: int) -> list[Ask]:
        """Questions whose answers last, so that hits by meaning are looked for."""
        asked = self.questions(count)
        return [
            replace(each, text=f"What does the word wu{self.asked}x{n} mean?")
            for n, each in enumerate(asked)
        ]

    async def put(
        self, tally: Tally, questions: Sequence[Ask], *, at_once: int = 8, patience_s: float = 30.0
    ) -> list[Outcome]:
        """Ask them, some at once, and count what became of each."""
        places = asyncio.Semaphore(at_once)

        async def one(question: Ask) -> Outcome:
            async with places:
                return await ask(self.gateway.port, question, patience_s=patience_s)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(question)) for question in questions]
        found = [task.result() for task in tasks]
        tally.outcomes += found
        return found

    def inject(self, fault: Fault) -> None:
        """Harm both vendors' connections."""
        self.openai.inject(fault)
        self.anthropic.inject(fault)

    async def calm(self) -> None:
        """End every fault, and wait until each model answers each dialect again. Raises LeftOverError."""
        self.simulator.simulator._scripted_faults.clear()  # noqa: SLF001 - an experiment's rest
        for proxy in self._proxies():
            proxy.inject(CALM)
            await proxy.up()
        until_s = time.monotonic() + SETTLE_S
        for model in ("small", "small2"):
            while (
                out := await ask(self.gateway.port, *self.questions(1, model=model))
            ).verdict != "right":
                if time.monotonic() > until_s:
                    raise LeftOverError(f"{model} does not recover: {out}")
                await asyncio.sleep(0.2)

    def _proxies(self) -> list[FaultProxy]:
        proxies = [self.openai, self.anthropic, self.tools]
        return [*proxies, self.redis] if self.redis is not None else proxies

    async def left_over(self) -> list[str]:
        """What is still there that should not be, once it had a few seconds to go."""
        until_s = time.monotonic() + 8.0
        while left := await self._left_over():
            if time.monotonic() > until_s:
                return left
            await asyncio.sleep(0.1)
        return []

    async def _left_over(self) -> list[str]:
        gateway, left = self.gateway, []
        in_flight = await gateway.metric("slipstream_in_flight")
        if in_flight > 0:
            left.append(f"{in_flight:g} turns in flight")
        text = (await exchange(gateway.port, _get("/metrics"))).decode(errors="replace")
        for which in ("in_use", "waiting"):
            held = [
                float(line.rpartition(" ")[2])
                for line in text.splitlines()
                if line.startswith("slipstream_upstream_places{") and f'which="{which}"' in line
            ]
            if sum(held) > 0:
                left.append(f"{sum(held):g} places {which}")
        if sockets := gateway.sockets_of_clients():
            left.append(f"{sockets} sockets of clients")
        return left

    async def grown_descriptors(self, before: int) -> int:
        """How many more it has of its own; the proxies learn of an end a moment after it."""
        until_s = time.monotonic() + 5
        while (  # noqa: ASYNC110 - the kernel and another process send no event
            more := self.own_descriptors() - before
        ) > 1 and time.monotonic() < until_s:
            await asyncio.sleep(0.05)
        return more

    def own_descriptors(self) -> int:
        """Descriptors of the gateway, less the upstream connections that it keeps open."""
        return self.gateway.descriptors() - sum(proxy.live for proxy in self._proxies())


class LeftOverError(AssertionError):
    """The gateway did not come back to what it was."""


def configuration(openai: int, anthropic: int, **sections: object) -> dict[str, object]:
    """Three models over both dialects with short patience; ``sections`` replace top-level ones."""
    patience = {
        "warm_connections": 0,
        "connect_timeout_s": 1,
        "first_byte_timeout_s": 1.5,
        "between_bytes_timeout_s": 1.0,
        "total_timeout_s": 6,
        "queue_timeout_s": 2,
    }
    price = {"input": 0.1, "output": 0.4}
    values: dict[str, object] = {
        "providers": {
            "local": {
                "kind": "openai",
                "base_url": f"http://127.0.0.1:{openai}/v1",
                "responses": "native",
                **patience,
            },
            "claude": {
                "kind": "anthropic",
                "base_url": f"http://127.0.0.1:{anthropic}",
                **patience,
            },
        },
        "models": [
            {"name": name, "provider": provider, "model": model, "tier": tier, "price": price}
            for name, provider, model, tier in (
                ("small", "local", "sim-fast", "fast"),
                ("small2", "claude", "sim-fast", "fast"),
                ("large", "local", "sim-powerful", "powerful"),
            )
        ],
        "telemetry": {"log_format": "json", "log_level": "error"},
        "server": {"max_body_bytes": 1 << 20, "sse_comment_s": 5},
        "cache": {"semantic": {"enabled": False}},
    }
    values.update(sections)
    return values


def agents(tool_port: int) -> dict[str, object]:
    """Two agents: one asks an HTTP tool, the other a tool that blocks the event loop."""
    ticket = {
        "name": "ticket_state",
        "description": "The state of a ticket",
        "parameters": {
            "type": "object",
            "properties": {"ticket_id": {"type": "string"}},
            "required": ["ticket_id"],
        },
        "http": {"url": f"http://127.0.0.1:{tool_port}/t/{{ticket_id}}"},
        "timeout_s": 1,
        "effects": {"read_only": True, "repeatable": True},
    }
    blocker = {
        "name": "block_loop",
        "description": "Block the loop now",
        "python": "bench.chaos.blocking:block",
        "effects": {"read_only": True},
    }
    return {
        "tools": [ticket, blocker],
        "agents": [
            {"name": "desk", "model": "small", "tools": ["ticket_state"]},
            {"name": "blocker", "model": "small", "tools": ["block_loop"]},
        ],
    }


@asynccontextmanager
async def gateway_of(
    values: dict[str, object],
    *arguments: str,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Gateway]:
    """Serve ``values`` in a process of its own, stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="slipstream-chaos-") as made:
        place = folder or Path(made)
        with_state = dict(values)
        state = values.get("state", {})
        assert isinstance(state, dict)
        with_state["state"] = {"data_dir": str(place / "data"), **state}
        file = Path(made) / "gateway.yaml"
        file.write_text(json.dumps(with_state), encoding="utf-8")  # JSON is YAML
        argv = [sys.executable, "-m", "app", "serve", "--port", "0", "--config", str(file)]
        log = Path(made) / "log"
        with running(
            [*argv, *arguments], cpu=max(os.sched_getaffinity(0)), log=log, env=env
        ) as process:
            # Every CPU: the lab is about faults, and several workers share none.
            os.sched_setaffinity(process.pid, os.sched_getaffinity(0))
            told = await asyncio.to_thread(
                wait_for_line, process, log, "Slipstream on http://127.0.0.1:", START_S
            )
            port = int(told.split()[0].rstrip("/"))
            body = json.dumps(Ask("Are you there?").body()).encode()
            await asyncio.to_thread(
                wait_for_answer,
                Started(process, port, log),
                "/v1/chat/completions",
                body,
                {},
                START_S,
            )
            yield Gateway(port, process.pid, place)


@contextmanager
def redis_of(port: int) -> Iterator[None]:
    """A redis-server on ``port`` that keeps nothing, as a process; ends with the block."""
    with tempfile.TemporaryDirectory(prefix="slipstream-chaos-") as folder:
        argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        argv += ["--appendonly", "no", "--dir", folder]
        with running(argv, cpu=min(os.sched_getaffinity(0)), log=Path(folder) / "log"):
            until_s = time.monotonic() + 10
            while time.monotonic() < until_s:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.02)
            yield


@asynccontextmanager
async def laboratory(*, redis: bool = True, time_scale: float = 0.0) -> AsyncIterator[Lab]:
    """Everything, warm and calm. Without redis-server installed the lab has no Redis."""
    async with AsyncExitStack() as stack:
        simulator = RunningSimulator(SimulatorSettings(time_scale=time_scale))
        port = port_of(await stack.enter_async_context(simulator))
        openai = await stack.enter_async_context(FaultProxy(port, seed=1))
        anthropic = await stack.enter_async_context(FaultProxy(port, seed=2))
        desk = await stack.enter_async_context(served(answering(tool)))
        tools = await stack.enter_async_context(FaultProxy(port_of(desk), seed=4))
        values = configuration(openai.port, anthropic.port, **agents(tools.port))
        store = None
        if redis and shutil.which("redis-server"):
            redis_port = free_port()
            await asyncio.to_thread(stack.enter_context, redis_of(redis_port))
            store = await stack.enter_async_context(FaultProxy(redis_port, seed=3))
            values["state"] = {"redis_url": f"redis://127.0.0.1:{store.port}/0"}
        gateway = await stack.enter_async_context(gateway_of(values))
        lab = Lab(simulator, openai, anthropic, gateway, values, tools, store)
        warm = Tally()
        await lab.put(warm, lab.questions(120), at_once=16)
        if warm.count("right") != 120:
            raise LeftOverError(f"the calm lab does not answer: {warm.codes()}")
        yield lab


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n".encode()


def _rss_kib(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0
