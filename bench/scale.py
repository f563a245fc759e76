"""`make bench-scale`: what more workers, more connections and restarts cost one host.

Throughput of 1, 2 and 4 workers, all running at the same time and loaded in turn, so that the ratio is of
one machine at one time. The load generator and the upstream use the same CPUs as the workers: on a machine of
two, what they take is missing to the workers. Times to start include the interpreter.
Beside the ratio stands what the CPUs would allow: with W and L the CPU time of a request in the gateway and
in load generator and upstream, one worker does 1/W a second, and all workers together at most CPUs/(W + L).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from bench import machine, rolling
from bench.build import ToolMissingError, compile_instruments
from bench.figures import Figure, table
from bench.processes import NotReadyError, Server, ask_json, free_port, running, wait_for_line
from bench.scenarios import SCENARIOS
from bench.slices import Aim, Rigging, measure
from bench.targets.slipstream import CONFIG, ROOT

WORKERS = (1, 2, 4)
_IDLE = "bench-idle"
_READY_S = 60.0
_SPARE_FILES = 200
_IMPORTS = 5
_OK = 200


@dataclass(frozen=True, slots=True)
class Started:
    """A gateway that is ready, and what that took."""

    server: Server
    ready_s: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON (OUT). 2: cannot run."""
    options = _options(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started ends with it
    try:
        instruments = compile_instruments()
    except ToolMissingError as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    _say("import of app.main")
    figures = [_import_time()]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slipstream-scale-")))
        load_cpu = machine.cpus()[1]
        log = folder / "upstream.log"
        upstream = stack.enter_context(running([str(instruments.upstream)], cpu=load_cpu, log=log))
        port = int(wait_for_line(upstream, log, "listening", 5.0))
        config = _configuration(folder)
        started = {count: _start(count, config, port, folder, stack) for count in WORKERS}
        rigging = Rigging(instruments.loadgen, load_cpu, upstream.pid, folder)
        figures += _start_times(started)
        _say("throughput")
        figures += _throughput(started, rigging, options.rounds, options.slice_s)
        _say("memory")
        figures += _memory(started)
        figures.append(asyncio.run(_idle_streams(started[1].server, port, options.streams)))
    if options.restarts:
        _say("rolling restarts")
        figures += _restarts(options.restarts)
    print(table(figures))
    if out := os.environ.get("OUT", ""):
        Path(out).write_text(json.dumps([asdict(each) for each in figures], indent=2) + "\n")
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scale")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slice-s", type=float, default=1.5)
    parser.add_argument("--streams", type=int, default=1000, help="idle streams on one worker")
    parser.add_argument("--restarts", type=int, default=20, help="rolling restarts; 0: none")
    return parser.parse_args(argv)


def _import_time() -> Figure:
    took: list[float] = []
    for _ in range(_IMPORTS):
        began_s = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import app.main"], cwd=ROOT, check=True)
        took.append(time.perf_counter() - began_s)
        began_s = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], cwd=ROOT, check=True)
        took[-1] -= time.perf_counter() - began_s
    return Figure("import of app.main", statistics.median(took), " s", _IMPORTS, "<=", 0.5)


def _configuration(folder: Path) -> Path:
    """The configuration of `make bench`, and a model that thinks for ten minutes."""
    values = yaml.safe_load(CONFIG.read_text())
    first = values["models"][0]
    values["models"].append({**first, "name": _IDLE, "model": "mock-t600000-n1"})
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def _start(workers: int, config: Path, upstream: int, folder: Path, stack: ExitStack) -> Started:
    port = free_port()
    cpus = ",".join(str(each) for each in sorted(os.sched_getaffinity(0)))
    argv = ["taskset", "-c", cpus, sys.executable, "-m", "app", "serve", "--config", str(config)]
    argv += ["--port", str(port), "--workers", str(workers)]
    _say(f"starting {workers} workers")
    env = {
        "UPSTREAM_OPENAI": f"http://127.0.0.1:{upstream}/v1",
        "UPSTREAM_ANTHROPIC": f"http://127.0.0.1:{upstream}",
        "SLIPSTREAM_DATA": str(folder / f"data-{workers}"),
        "SLIPSTREAM_SERVER__DRAIN_S": "0",
    }
    log = folder / f"server-{workers}.log"
    began_s = time.monotonic()
    process = stack.enter_context(running(argv, cpu=machine.cpus()[0], log=log, env=env))
    server = Server(process, port, log)
    while not _is_ready(port):
        if process.poll() is not None or time.monotonic() - began_s > _READY_S:
            raise NotReadyError(f"{workers} workers did not become ready:\n{log.read_text()}")
        time.sleep(0.01)
    return Started(server, time.monotonic() - began_s)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == _OK)
    except (urllib.error.URLError, OSError):
        return False


def _start_times(started: dict[int, Started]) -> list[Figure]:
    one = Figure("start to ready, 1 worker", started[1].ready_s, " s", 1, "<=", 2.0)
    more = [
        Figure(f"start to ready, {n} workers", started[n].ready_s, " s", 1) for n in WORKERS[1:]
    ]
    return [one, *more]


def _throughput(
    started: dict[int, Started], rigging: Rigging, rounds: int, slice_s: float
) -> list[Figure]:
    scenario = SCENARIOS["json_c50"]
    seen: dict[int, list[float]] = {count: [] for count in WORKERS}
    costs: dict[int, list[_Cost]] = {count: [] for count in WORKERS}
    for number in range(-1, rounds):  # the first warms
        for count in WORKERS:
            aim = Aim(f"w{count}", started[count].server, "", {}, scenario.model)
            before = _Spent.now(rigging, started[count].server)
            slice_ = measure(rigging, aim, scenario, slice_s, number)
            if slice_.errors:
                raise RuntimeError(f"{count} workers: {slice_.trouble}")
            if number >= 0:
                seen[count].append(slice_.rps)
                after = _Spent.now(rigging, started[count].server)
                costs[count].append(before.until(after, slice_.ok, count))
    figures = [
        Figure(f"requests/s, {count} workers", statistics.median(each), "/s", rounds)
        for count, each in seen.items()
    ]
    for count in WORKERS[1:]:
        ratios = [more / one for more, one in zip(seen[count], seen[1], strict=True)]
        bar = {"sense": ">=", "limit": 1.8} if count == WORKERS[-1] else {}
        name = f"requests/s, {count} workers over 1"
        figures.append(Figure(name, statistics.median(ratios), "x", rounds, **bar))  # type: ignore[arg-type]
        figures.append(_allowed(costs, count, rounds))
    return figures + _costs(costs, rounds)


def _allowed(costs: dict[int, list[_Cost]], count: int, rounds: int) -> Figure:
    """What the ratio could be at most on these CPUs, by what a request was seen to cost one worker."""
    cpus = len(os.sched_getaffinity(0))
    most = [min(count, cpus * one.gateway_us / (one.gateway_us + one.load_us)) for one in costs[1]]
    name = f"the most that {cpus} CPUs allow {count} workers over 1, the load being on them too"
    return Figure(name, statistics.median(most), "x", rounds)


def _costs(costs: dict[int, list[_Cost]], rounds: int) -> list[Figure]:
    found = []
    for count, each in costs.items():
        gateway = statistics.median(cost.gateway_us for cost in each)
        found.append(Figure(f"gateway CPU a request, {count} workers", gateway, " us", rounds))
        if count > 1:
            uneven = statistics.median(cost.busiest for cost in each)
            name = f"busiest of {count} workers over their mean"
            found.append(Figure(name, uneven, "x", rounds))
    load = statistics.median(cost.load_us for cost in costs[1])
    return [*found, Figure("load generator and upstream CPU a request", load, " us", rounds)]


@dataclass(frozen=True, slots=True)
class _Cost:
    """CPU time of a request, and how evenly the workers shared them."""

    gateway_us: float
    load_us: float
    busiest: float
    """The busiest worker's CPU time over the mean of all."""


@dataclass(frozen=True, slots=True)
class _Spent:
    """CPU time so far, ns."""

    load: int
    workers: dict[int, int]

    @classmethod
    def now(cls, rigging: Rigging, server: Server) -> _Spent:
        """Read it."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        load = int((used.ru_utime + used.ru_stime) * 1e9) + machine.cpu_ns({rigging.upstream_pid})
        return cls(load, {pid: machine.cpu_ns({pid}) for pid in server.pids()})

    def until(self, later: _Spent, requests: int, count: int) -> _Cost:
        """What ``requests`` cost between the two."""
        spent = [ns - self.workers.get(pid, 0) for pid, ns in later.workers.items()]
        mean = sum(spent) / count
        return _Cost(
            sum(spent) / 1e3 / requests,
            (later.load - self.load) / 1e3 / requests,
            max(spent) / mean,
        )


def _memory(started: dict[int, Started]) -> list[Figure]:
    return [
        Figure(
            f"PSS of the whole server per worker, {count} workers",
            machine.pss_kib(one.server.pids()) / 1024 / count,
            " MiB",
            1,
        )
        for count, one in started.items()
    ]


async def _idle_streams(server: Server, upstream: int, wanted: int) -> Figure:
    """Memory per stream whose upstream is silent, with its connections on both sides."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(wanted, (hard if hard > 0 else soft) - _SPARE_FILES)
    before_kib = machine.pss_kib(server.pids())
    writers: list[asyncio.StreamWriter] = []
    began = _asked(upstream)
    try:
        for number in range(count):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writers.append(writer)
            text = f"Idle question {number}?"
            body: dict[str, object] = {"model": _IDLE, "stream": True}
            body["messages"] = [{"role": "user", "content": text}]
            data = json.dumps(body).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
            writer.write(head.encode() + data)
            await writer.drain()
        async with asyncio.timeout(_READY_S):
            while await asyncio.to_thread(_asked, upstream) - began < count:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
        used_kib = machine.pss_kib(server.pids()) - before_kib
    finally:
        for writer in writers:
            writer.transport.abort()
    return Figure("memory per idle SSE stream", used_kib / count, " KiB", count, "<=", 25)


def _asked(upstream: int) -> int:
    return int(str(ask_json(upstream, "/stats")["requests"]))


def _restarts(count: int) -> list[Figure]:
    from app.providers.simulator import SimulatorSettings, running_simulator

    async def run(folder: Path) -> rolling.Rolled:
        async with running_simulator(SimulatorSettings(time_scale=0.05)) as upstream:
            values = yaml.safe_load(CONFIG.read_text())
            values["providers"]["local"]["base_url"] = f"{upstream}/v1"
            values["providers"]["claude"]["base_url"] = upstream
            values["models"] = [{**values["models"][0], "name": "small", "model": "sim-fast"}]
            values["state"]["data_dir"] = str(folder)
            file = folder / "gateway.yaml"
            file.write_text(yaml.safe_dump(values))
            return await rolling.roll(file, folder, restarts=count, clients=6)

    with tempfile.TemporaryDirectory(prefix="slipstream-roll-") as folder:
        try:
            rolled = asyncio.run(run(Path(folder)))
        except rolling.NoProxyError as missing:
            print(f"bench: rolling restarts not measured: {missing}", file=sys.stderr)
            return []
    asked, lost = rolled.answered + rolled.lost.total(), rolled.lost.total()
    if lost:
        print(f"bench: lost: {dict(rolled.lost)}", file=sys.stderr)
    name = f"requests lost over {rolled.restarts} rolling restarts of 2 gateways"
    return [Figure(name, lost, "", asked, "<=", 0)]


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
