"""Kill the worker at each step of a job's life, once, and say what was lost or done twice.

For each point one worker is started that dies there, by SIGKILL: around each write to the store of jobs,
or while a model, the tool or the webhook's receiver has its request. A second worker takes the job up.
In the end the job must be finished, its events must begin and end once, its webhook must have come in,
under one id, and no call of the tool may have been made twice. The store is the file, or a Postgres.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from bench.chaos.jobs import World, configuration, forked_workers

_PATIENCE_S = 90.0
_ACCEPTED = 202
_SECRET = "a secret of the laboratory alone"  # noqa: S105 - signs to a receiver on loopback
_MODEL_CALLS, _TOOL_CALLS = 3, 2
WRITES: Final = (
    *(f"{each} {when} 1" for each in ("add", "settle") for when in ("before", "after")),
    "claim after 1",
    *(f"begin_step {when} {n}" for n in (1, 2) for when in ("before", "after")),
    *(f"finish_step {when} {n}" for n in range(1, 6) for when in ("before", "after")),
    *(f"append_events {when} {n}" for n in (1, 2, 3) for when in ("before", "after")),
    *("claim_delivery after 1", "record_delivery before 1", "record_delivery after 1"),
)
"""Each write to the store in a job of three model calls, two calls of a tool and a webhook."""
CALLS: Final = ("model 1", "model 2", "model 3", "tool 1", "tool 2", "hook 1")
POINTS: Final = (*WRITES, *CALLS)


@dataclass(frozen=True, slots=True)
class Died:
    """What became of one job whose worker died at a point."""

    point: str
    amiss: tuple[str, ...]
    effects: int
    unknown: int
    """Calls of the tool of whose outcome the model was told that nobody knows."""
    model_calls: int
    webhooks: int
    took_s: float


async def die_at_each_step(
    points: Sequence[str] = POINTS,
    *,
    postgres_url: str | None = None,
    on_done: Callable[[Died], None] = lambda _: None,
) -> list[Died]:
    """Run one job for each point. Raises ``TimeoutError`` where a job does not end."""
    world = World(random.Random(8))
    server = await asyncio.start_server(world.on_peer, "127.0.0.1", 0)
    world.port = server.sockets[0].getsockname()[1]
    hook = {"name": "ci", "url": f"http://127.0.0.1:{world.port}/hook", "secret": _SECRET}
    jobs: dict[str, object] = {"webhooks": [hook], "webhook_backoff_s": 0.05}
    if postgres_url is not None:
        jobs["postgres_url"] = postgres_url
    found = []
    with tempfile.TemporaryDirectory(prefix="slipstream-steps-") as name:
        file = configuration(Path(name), world.port, **jobs)
        async with server, forked_workers(file) as (more, url):
            for point in points:
                found.append(await _die(point, world, more, url))
                on_done(found[-1])
    return found


async def _die(point: str, world: World, more: Callable[..., Awaitable[int]], url: str) -> Died:
    world.effects.clear()
    world.delivered.clear()
    world.model_calls = 0
    began_s = time.monotonic()
    text = f"{point.replace(' ', '-')}-{time.time_ns()}"
    first = await more(point if point in WRITES else "")
    if point in CALLS:
        _kill_at(point, world, first)
    async with _asking(url) as client:
        submitted = asyncio.get_running_loop().create_task(_submit(client, text))
        try:
            await _gone(first)
            second = await more()
            job_id = await submitted
            job, events, unknown = await _ended(client, job_id)
        finally:
            submitted.cancel()
    os.kill(second, signal.SIGKILL)
    await _gone(second)
    kinds = [line.partition('"type":"')[2].partition('"')[0] for line in events]
    amiss = []
    if job["state"] != "finished":
        amiss.append(f"{job['state']} {job['code']}")
    if (kinds.count("RUN_STARTED"), kinds.count("RUN_FINISHED")) != (1, 1):
        amiss.append(f"its events: {kinds}")
    doubled = [path for path, count in world.effects.items() if count > 1]
    if doubled:
        amiss.append(f"done twice: {doubled}")
    if len(world.effects) + unknown < _TOOL_CALLS:
        amiss.append(f"{len(world.effects)} effects, {unknown} of unknown outcome")
    if len(set(world.delivered)) != 1:
        amiss.append(f"webhooks: {world.delivered}")
    if world.model_calls > _MODEL_CALLS + 1:
        amiss.append(f"{world.model_calls} model calls")
    took_s = round(time.monotonic() - began_s, 1)
    return Died(
        point,
        tuple(amiss),
        len(world.effects),
        unknown,
        world.model_calls,
        len(world.delivered),
        took_s,
    )


def _kill_at(point: str, world: World, pid: int) -> None:
    """Kill the worker when the call that ``point`` names has come in."""
    kind, number = point.split()
    left = int(number)

    def on_call(which: str) -> None:
        nonlocal left
        if which == kind:
            left -= 1
            if left == 0:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    world.on_call = on_call


async def _gone(pid: int) -> None:
    """Wait until the process is dead."""
    async with asyncio.timeout(_PATIENCE_S):
        while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110, ASYNC240 - another's child; procfs
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _asking(url: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"connection": "close"}
    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE_S, headers=headers) as client:
        yield client


async def _submit(client: httpx.AsyncClient, text: str) -> str:
    """Ask for the job, under one key, until it is accepted."""
    messages = [{"id": "m", "role": "user", "content": text}]
    body = {"threadId": "t", "runId": "r", "messages": messages}
    while True:
        with suppress(httpx.TransportError):
            headers = {"idempotency-key": text}
            answer = await client.post("/v1/jobs?webhook=ci", json=body, headers=headers)
            if answer.status_code == _ACCEPTED:
                return str(answer.json()["id"])
        await asyncio.sleep(0.02)


async def _ended(
    client: httpx.AsyncClient, job_id: str
) -> tuple[dict[str, object], list[str], int]:
    """The job once it is over and its webhook delivered, its events, and the unknown outcomes."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            job = (await client.get(f"/v1/jobs/{job_id}")).json()
            if job["ended_at"] is not None and job["webhook"]["state"] != "waiting":
                break
            await asyncio.sleep(0.05)
        text = (await client.get(f"/v1/jobs/{job_id}/events")).text
    lines = [line for line in text.splitlines() if line.startswith("data: ")]
    return job, lines, sum("whether it took effect is not known" in line for line in lines)
