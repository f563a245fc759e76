"""A Redis that dies, returns, stands still or is cut off, under two workers with every kind of request.

All the time there are whole and streamed answers in three dialects, identical ones at once, repeated ones
and agents' runs. An answer that was invalidated before or during the fault is looked for again and again
(``x-slipstream-cache: only``): on neither worker may it be served. In the end Redis is in use again and
hits are back, without a restart.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from bench.chaos.asking import Ask, Tally, ask, exchange
from bench.chaos.experiment import Experiment, Run
from bench.chaos.lab import Lab, gateway_of
from bench.chaos.proxy import CALM, Fault, FaultProxy
from bench.processes import free_port

_SLOWEST_S = 3.0
"""Of any request: the models answer at once, and Redis may cost a few budgets. The machine is busy."""
_BUDGET_MS = 100
_RECOVERS_S = 20.0
_ONLY = (("x-slipstream-cache", "only"),)
_LOOKS = 12
"""Connections on which an answer is looked for: the kernel spreads them over both workers."""


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until it holds; raises ``TimeoutError``."""
    async with asyncio.timeout(_RECOVERS_S):
        while not await holds():  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(0.05)


@dataclass(slots=True)
class RedisProcess:
    """A redis-server that can be killed, frozen and started again; it writes to disk when told to."""

    port: int
    folder: str
    _process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, with what lies in its folder, and wait until it answers."""
        argv = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        argv += ["--appendonly", "no", "--dir", self.folder]
        null = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(*argv, stdout=null)
        await _until(self._answers)

    async def _answers(self) -> bool:
        return (await self.say(b"PING")).startswith(b"+PONG")

    async def say(self, command: bytes) -> bytes:
        """One inline command, and the reply's first line; empty where it is not there."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(command + b"\r\n")
            reply = await reader.readline()
            writer.close()
        except OSError:
            return b""
        return reply

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def kill(self) -> None:
        """End it as a crash would."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()


@dataclass(slots=True)
class Life:
    """What an experiment may do to the Redis, and ask of the two workers meanwhile."""

    redis: RedisProcess
    proxy: FaultProxy
    lab: Lab
    tally: Tally

    async def keep(self, text: str) -> Ask:
        """Have the answer to ``text`` kept, and see both workers serve it."""
        question = Ask(text)

        async def everywhere() -> bool:
            await self.lab.put(self.tally, [question] * 4)  # again: a late Redis keeps nothing
            return await self.served(question) == _LOOKS

        await _until(everywhere)
        return question

    async def served(self, question: Ask) -> int:
        """On how many of a dozen connections it is answered from what is kept."""
        looking = replace(question, headers=_ONLY)
        found = [await ask(self.lab.gateway.port, looking) for _ in range(_LOOKS)]
        return sum(each.status == 200 for each in found)

    async def invalidate(self) -> bool:
        """Invalidate everything; whether that is in force on all workers now."""
        raw = json.dumps({"all": True}).encode()
        head = "POST /v1/cache/invalidate HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
        async with asyncio.timeout(_RECOVERS_S):
            answer = await exchange(self.lab.gateway.port, head.encode() + raw)
        status = int(answer.split(b" ", 2)[1])
        told = status == 503 and b"store_away" in answer
        self.tally.expect(status == 200 or told, f"/v1/cache/invalidate answered {status}")
        return status == 200

    async def gone(self, question: Ask, when: str) -> None:
        """Expect that no worker serves what was kept for it."""
        served = await self.served(question)
        self.tally.expect(served == 0, f"{when}: an invalidated answer was served {served} times")

    async def recovered(self) -> None:
        """Expect that both workers use Redis again, and that hits return."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < _RECOVERS_S:
            ready = await exchange(
                self.lab.gateway.port,
                b"GET /readyz HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n",
            )
            if b'"redis"' not in ready and await self.invalidate():
                break
            await asyncio.sleep(0.1)
        else:
            self.tally.expect(otherwise="Redis is not used again", holds=False)
            return
        try:
            await self.keep(f"What does the word after{time.time_ns()} mean?")
        except TimeoutError:
            self.tally.expect(otherwise="hits do not return", holds=False)


Fate = Callable[[Life], Awaitable[None]]


def _under_load(fate: Fate) -> Run:
    async def run(lab: Lab, tally: Tally) -> None:
        if shutil.which("redis-server") is None:
            return
        async with _two_workers(lab, tally) as life:
            over = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(_load(life, number, over))
                try:
                    await fate(life)
                    await life.recovered()
                finally:
                    over.set()
            tally.amiss += await life.lab.left_over()
        wrong = len(tally.outcomes) - tally.count("right")
        tally.expect(
            wrong == 0, f"{wrong} requests of {len(tally.outcomes)} were not answered right"
        )
        slowest_s = max(each.took_s for each in tally.outcomes)
        tally.expect(slowest_s < _SLOWEST_S, f"a request took {slowest_s:.1f} s")

    return run


@asynccontextmanager
async def _two_workers(lab: Lab, tally: Tally) -> AsyncIterator[Life]:
    with tempfile.TemporaryDirectory(prefix="slipstream-chaos-") as folder:
        redis = RedisProcess(free_port(), folder)
        await redis.start()
        try:
            async with FaultProxy(redis.port, seed=6) as proxy:
                values = {
                    **lab.values,
                    "state": {
                        "redis_url": f"redis://127.0.0.1:{proxy.port}/0",
                        "redis_budget_ms": _BUDGET_MS,
                    },
                }
                async with gateway_of(values, "--workers", "2") as gateway:
                    ours = replace(lab, gateway=gateway, values=values, asked=lab.asked + 50_000)
                    yield Life(redis, proxy, ours, tally)
        finally:
            await redis.kill()


async def _load(life: Life, number: int, over: asyncio.Event) -> None:
    """New, repeated, identical and agents' requests, until it is over."""
    lab, turn = life.lab, 0
    while not over.is_set():
        turn += 1
        fresh = lab.questions(3)
        same = [replace(each, text=f"Identical {number}, {turn}?") for each in fresh[:1]] * 4
        repeated = Ask("What does the word repeated mean?", stream=turn % 2 == 0)
        lab.asked += 1
        ticket = f"INC-{lab.asked}"
        text = f"What is the state of ticket {ticket}?"
        run = Ask(text, "chat", turn % 2 == 0, "agent/desk", ticket=ticket)
        await lab.put(life.tally, [*fresh, *same, repeated, run], at_once=9)


async def _killed_empty(life: Life) -> None:
    kept = await life.keep("What does the word volatile mean?")
    await life.redis.kill()
    await asyncio.sleep(1.0)
    held = await life.invalidate()
    await life.redis.start()
    if held:
        await life.gone(kept, "Redis away")
    await life.recovered()
    await life.gone(kept, "Redis back, empty")


async def _killed_with_data(life: Life) -> None:
    kept = await life.keep("What does the word durable mean?")
    life.tally.expect((await life.redis.say(b"SAVE")).startswith(b"+OK"), "Redis did not save")
    life.tally.expect(await life.invalidate(), "invalidating failed with Redis there")
    await life.gone(kept, "Redis there")
    for pause_s in (0.0, 2.5):  # shorter and longer than a worker's lease
        await life.redis.kill()
        await asyncio.sleep(pause_s)
        await life.redis.start()
        for _ in range(10):
            await life.gone(kept, f"Redis back after {pause_s} s, with older data")
            await asyncio.sleep(0.1)


async def _frozen(life: Life) -> None:
    kept = await life.keep("What does the word frozen mean?")
    for stopped_s in (0.3, 4.0):
        life.redis.send(signal.SIGSTOP)
        await asyncio.sleep(stopped_s)
        held = await life.invalidate()
        if held:
            await life.gone(kept, "Redis frozen")
        life.redis.send(signal.SIGCONT)
        await _until(life.invalidate)
        await life.gone(kept, "Redis thawed")
        kept = await life.keep(f"What does the word thawed{stopped_s:g} mean?")


async def _cut(life: Life) -> None:
    kept = await life.keep("What does the word severed mean?")
    for after in (1, 40, 700):
        life.proxy.inject(Fault(cut="reset", after=after))
        await asyncio.sleep(0.7)
        held = await life.invalidate()
        if held:
            await life.gone(kept, f"connections cut after {after} bytes")
        life.proxy.inject(CALM)
        await _until(life.invalidate)
        await life.gone(kept, "connections whole again")
        kept = await life.keep(f"What does the word cut{after} mean?")


EXPERIMENTS = (
    Experiment(
        "redis-empty",
        "2 workers, load; Redis killed, back empty",
        "all right; invalidations hold",
        _under_load(_killed_empty),
    ),
    Experiment(
        "redis-older",
        "2 workers, load; Redis back with older data",
        "all right; invalidations hold",
        _under_load(_killed_with_data),
    ),
    Experiment(
        "redis-frozen",
        "2 workers, load; Redis stopped and continued",
        "all right; invalidations hold",
        _under_load(_frozen),
    ),
    Experiment(
        "redis-cut",
        "2 workers, load; RST in mid-answer",
        "all right; invalidations hold",
        _under_load(_cut),
    ),
)
