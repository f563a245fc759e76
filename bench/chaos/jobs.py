"""Kill workers under running jobs, as often as asked, and count what was lost or done twice.

Four workers share one store of jobs. Each job calls a tool that changes something, twice, between
three model calls; the tool's server is here and counts every call that reached it. A worker that has
a job running is chosen at random, at a random moment, and gets SIGKILL; another takes its place. Jobs
come in all the time, each with an idempotency key, repeated until one is accepted. In the end every
job that was accepted must be finished, have begun and ended once in its events, and no call of the
tool may have been made twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 4
_WAITING = 8
"""Jobs that are kept waiting or under way for each worker."""
_PATIENCE_S = 120.0
_ACCEPTED = 202
_CALLS = 2
_SLOWEST_S = 0.05
_BETWEEN_S = 0.4
"""Kills are this far apart at most, beside what it takes to find a worker that has a job."""


@dataclass(slots=True)
class Killed:
    """What came of it."""

    kills: int = 0
    crashes: int = 0
    """Attempts at jobs that a kill ended."""
    jobs: int = 0
    finished: int = 0
    unfinished: int = 0
    why: dict[str, int] = field(default_factory=dict)
    """How those that are not finished ended: state, code, workers that died under it."""
    misreported: int = 0
    """Jobs whose events do not begin and end once."""
    effects: int = 0
    doubled: int = 0
    unknown: int = 0
    """Calls of which nobody knows whether they took effect: the model was told."""
    took_s: float = 0.0

    @property
    def good(self) -> bool:
        """Whether no job was lost and nothing was done twice."""
        return not (self.unfinished or self.misreported or self.doubled)


def _ignore(_: str) -> None:
    """Nobody follows the calls."""


@dataclass(slots=True)
class World:
    """A model, a tool and a webhook's receiver on one port."""

    luck: random.Random
    port: int = 0
    effects: Counter[str] = field(default_factory=Counter)
    """How often each path of the tool was called."""
    model_calls: int = 0
    delivered: list[str] = field(default_factory=list)
    """The ids of the webhooks that came in."""
    on_call: Callable[[str], None] = _ignore
    """Called with ``model``, ``tool`` or ``hook`` when such a request has come in, before its answer."""

    async def on_peer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = next(
                    (
                        int(line.split(":")[1])
                        for line in head.lower().splitlines()
                        if line.startswith("content-length")
                    ),
                    0,
                )
                raw = await reader.readexactly(length)
                answer, kind = self._take(head.split(" ", 2)[1], head, raw)
                await asyncio.sleep(self.luck.random() * _SLOWEST_S)
                lines = f"content-type: {kind}\r\ncontent-length: {len(answer)}"
                writer.write(f"HTTP/1.1 200 OK\r\n{lines}\r\n\r\n".encode() + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def _take(self, path: str, head: str, raw: bytes) -> tuple[bytes, str]:
        """Count a request, and give its answer and the answer's type."""
        if path.startswith("/pay/"):
            self.effects[path] += 1  # it has taken effect, whether or not it is told
            self.on_call("tool")
            return json.dumps({"paid": path}).encode(), "application/json"
        if path == "/hook":
            names = [line.partition(": ") for line in head.split("\r\n")]
            self.delivered += [value for name, _, value in names if name.lower() == "webhook-id"]
            self.on_call("hook")
            return b"{}", "application/json"
        self.model_calls += 1
        self.on_call("model")
        return _answer(json.loads(raw)), "text/event-stream"


def _answer(body: dict[str, object]) -> bytes:
    """The next call of the tool, or the end; a function of the conversation alone."""
    messages = body["messages"]
    assert isinstance(messages, list)
    number = sum(message["role"] == "tool" for message in messages)
    who = next(message["content"] for message in messages if message["role"] == "user")
    delta: dict[str, object] = {"content": f"Paid for {who}."}
    if number < _CALLS:
        call = {"name": "pay", "arguments": json.dumps({"id": f"{who}-{number}"})}
        delta = {"tool_calls": [{"index": 0, "id": "c0", "type": "function", "function": call}]}
    frame = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    reason = "tool_calls" if number < _CALLS else "stop"
    chunks = [
        {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
    ]
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return f"{text}data: [DONE]\n\n".encode()


def configuration(folder: Path, port: int, **jobs: object) -> Path:
    """The file of a gateway whose agent pays; ``jobs``: more of that section."""
    url = f"http://127.0.0.1:{port}"
    parameters = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
    values = {
        "providers": {"local": {"kind": "openai", "base_url": f"{url}/v1", "warm_connections": 0}},
        "models": [
            {"name": "m", "provider": "local", "model": "m", "tier": "fast", "price": {"input": 0, "output": 0}}  # noqa: E501
        ],
        "tools": [
            {"name": "pay", "http": {"url": f"{url}/pay/{{id}}"}, "parameters": parameters}
        ],
        "agents": [{"name": "desk", "system": "Pay.", "model": "m", "tools": ["pay"]}],
        "cache": {"semantic": {"enabled": False}},
        "jobs": {"per_tenant": 1000, **jobs},
        "telemetry": {"log_format": "json", "log_level": "error"},
        "state": {"data_dir": str(folder / "data")},
    }  # fmt: skip
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


async def kill_under_jobs(kills: int, seed: int = 8, *, say: bool = False) -> Killed:
    """Kill ``kills`` workers, each while it runs a job. Raises ``TimeoutError`` when nothing moves."""
    luck, found = random.Random(seed), Killed()
    world = World(luck)
    server = await asyncio.start_server(world.on_peer, "127.0.0.1", 0)
    world.port = server.sockets[0].getsockname()[1]
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="slipstream-kills-") as name:
        folder = Path(name)
        async with server, forked_workers(configuration(folder, world.port)) as (more, url):
            for _ in range(WORKERS):
                await more()
            jobs = folder / "data" / "jobs"
            over, killed = asyncio.Event(), set[int]()
            async with asyncio.TaskGroup() as group:
                accepting = group.create_task(_submit(url, jobs, over))
                while found.kills < kills:
                    await asyncio.sleep(luck.random() * _BETWEEN_S)
                    pid = await _busy(jobs, luck, killed)
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)  # it may take a while to be gone: none is counted twice
                    found.kills = len(killed)
                    await more()
                    if say and found.kills % 50 == 0:
                        print(f"{found.kills} kills", file=sys.stderr, flush=True)
                over.set()
            ids = accepting.result()
            await _settled(jobs)
            _judge(found, jobs, ids, world.effects)
    found.took_s = round(time.monotonic() - began_s, 1)
    return found


@asynccontextmanager
async def forked_workers(config: Path) -> AsyncIterator[tuple[Callable[..., Awaitable[int]], str]]:
    """A way to fork one more worker, which gives its process id, and their common address. What is given to
    it is the point at which the worker dies (``bench.chaos.zygote``).
    """
    pipe = asyncio.subprocess.PIPE
    zygote = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.chaos.zygote", str(config)),
        cwd=ROOT,
        stdin=pipe,
        stdout=pipe,
    )
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    stdin, stdout = zygote.stdin, zygote.stdout

    async def more(dies_at: str = "") -> int:
        stdin.write(f"{dies_at}\n".encode())
        await stdin.drain()
        return int(await asyncio.wait_for(stdout.readline(), _PATIENCE_S))

    try:
        port = int((await asyncio.wait_for(stdout.readline(), _PATIENCE_S)).split()[1])
        yield more, f"http://127.0.0.1:{port}"
    finally:
        stdin.close()
        await zygote.wait()


async def _submit(url: str, jobs: Path, over: asyncio.Event) -> list[str]:
    """Keep enough jobs waiting; each is asked for until it was accepted."""
    ids: list[str] = []
    async with httpx.AsyncClient(timeout=5.0) as client:
        while not over.is_set():
            if _count(jobs, "ended IS NULL") >= _WAITING * WORKERS:
                await asyncio.sleep(0.01)
                continue
            text = f"j{len(ids)}"
            body = {
                "threadId": "t",
                "runId": "r",
                "messages": [{"id": "m", "role": "user", "content": text}],
            }
            while True:
                try:
                    key = {"idempotency-key": text, "connection": "close"}
                    answer = await client.post(f"{url}/v1/jobs", json=body, headers=key)
                except httpx.TransportError:
                    await asyncio.sleep(0.01)  # its worker was killed: ask again under the same key
                    continue
                if answer.status_code == _ACCEPTED:
                    break
            ids.append(answer.json()["id"])
    return ids


async def _busy(jobs: Path, luck: random.Random, killed: set[int]) -> int:
    """The process id of a worker that has a job running now."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            rows = _rows(jobs, "SELECT DISTINCT owner FROM jobs WHERE state = 'running'")
            luck.shuffle(rows)
            for (owner,) in rows:
                try:
                    pid = int((jobs / f"{owner}.worker").read_text())
                    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]  # noqa: ASYNC240 - procfs
                except (OSError, ValueError):
                    continue  # killed already, and not adopted yet
                if state != "Z" and pid not in killed:
                    return pid
            await asyncio.sleep(0.002)


async def _settled(jobs: Path) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while _count(jobs, "ended IS NULL"):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.05)


def _judge(found: Killed, jobs: Path, ids: list[str], effects: Counter[str]) -> None:
    states = {row[0]: row[1] for row in _rows(jobs, "SELECT id, state FROM jobs")}
    found.jobs = len(ids)
    found.finished = sum(states.get(each) == "finished" for each in ids)
    found.unfinished = found.jobs - found.finished
    text = "SELECT id, state, code, crashes, message FROM jobs WHERE state != 'finished'"
    amiss = [row[1:] for row in _rows(jobs, text) if row[0] in set(ids)]
    found.why = dict(Counter(" ".join(map(str, row)) for row in amiss))
    found.crashes = int(_rows(jobs, "SELECT sum(crashes) FROM jobs")[0][0])
    begun = Counter(
        row[0] for row in _rows(jobs, "SELECT job FROM events WHERE kind = 'RUN_STARTED'")
    )
    ended = Counter(
        row[0] for row in _rows(jobs, "SELECT job FROM events WHERE kind = 'RUN_FINISHED'")
    )
    found.misreported = sum(begun[each] != 1 or ended[each] != 1 for each in ids)
    found.effects, found.doubled = len(effects), sum(n > 1 for n in effects.values())
    found.unknown = len(
        _rows(
            jobs, "SELECT step FROM steps WHERE CAST(outcome AS TEXT) LIKE '%tool_outcome_unknown%'"
        )
    )


def _count(jobs: Path, where: str) -> int:
    rows = _rows(jobs, f"SELECT count(*) FROM jobs WHERE {where}")  # noqa: S608 - constants
    return int(rows[0][0]) if rows else 0


def _rows(jobs: Path, text: str) -> list[tuple[str, ...]]:
    file = jobs / "jobs.sqlite"
    if not file.exists():
        return []
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30.0)) as db:
            return db.execute(text).fetchall()
    except sqlite3.OperationalError:
        return []  # its tables are being made
