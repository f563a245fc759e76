"""`make bench-start`: how long an import and a start take, and what a started gateway weighs.

Interleaved rounds, each in fresh processes: an import of FastAPI and uvicorn alone (the reference: what
any such program pays), of `app.main`, of everything that a server loads, and a start of the gateway with
the configuration of `make bench`, from the first instruction of the interpreter until `/readyz` says
ready, and until it also says that the encoder is loaded. Compiled modules are kept, as they are where a
program has been installed or started before: the first round makes them and does not count.

Wall times grow with whatever else the machine does; the CPU times beside them grow less, and say what
there is to wait for. A round in which others took over 12 % of a CPU is noisy: medians are over the quiet
ones, and carry a `~` where there was none.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench import machine
from bench.figures import Figure, table
from bench.processes import NotReadyError, free_port, running
from bench.targets.slipstream import CONFIG, ROOT

REFERENCE = "fastapi, uvicorn"
GATEWAY = "app.main, app.server, app.reloading, app.bootstrap, app.api.admin_routes, app.api.agent"
IMPORT_LIMIT_S, START_LIMIT_S = 0.5, 2.0
_NOISY_SHARE = 0.12
_UP_WITHIN_S = 60.0
_LOOK_S = 0.005
_ENCODER = b"app.stores.sidecar"


@dataclass(slots=True)
class Round:
    """One round's figures by name, and whether others used the machine meanwhile."""

    values: dict[str, float] = field(default_factory=dict)
    noisy: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON (OUT)."""
    parser = argparse.ArgumentParser(prog="python -m bench.start")
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args(argv).rounds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started ends with it
    with tempfile.TemporaryDirectory(prefix="slipstream-start-") as name:
        folder = Path(name)
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        env = {**kept, "PYTHONPYCACHEPREFIX": str(folder / "compiled"), "PYTHONPATH": str(ROOT)}
        _round(folder / "first", env)
        done = [_round(folder / str(number), env) for number in range(rounds)]
    figures = [_figure(name, unit, bar, done) for name, unit, bar in _LINES]
    print(table(figures))
    if out := os.environ.get("OUT", ""):
        Path(out).write_text(json.dumps([asdict(each) for each in figures], indent=2) + "\n")
    return 0


_LINES: tuple[tuple[str, str, float | None], ...] = (
    (f"import {REFERENCE}", " s", None),
    ("import app.main", " s", IMPORT_LIMIT_S),
    ("import of all that a server loads", " s", None),
    ("start to ready", " s", None),
    ("start to ready, embedding model loaded", " s", START_LIMIT_S),
    ("CPU of the gateway until then", " s", None),
    ("CPU of the vector process until then", " s", None),
    ("PSS of the gateway", " MiB", 64.0),
    ("PSS of the vector process", " MiB", None),
)


def _figure(name: str, unit: str, limit: float | None, rounds: Sequence[Round]) -> Figure:
    quiet = [each for each in rounds if not each.noisy]
    counted = [each.values[name] for each in quiet or rounds]
    sense = "" if limit is None else "<="
    return Figure(
        name, statistics.median(counted), unit, len(counted), sense, limit, noisy=not quiet
    )


def _round(folder: Path, env: Mapping[str, str]) -> Round:
    folder.mkdir()
    done = Round()
    began_s, busy, ours = time.monotonic(), machine.busy_ns(), _own_ns()
    nothing_s = _import_s("", env)
    done.values[f"import {REFERENCE}"] = _import_s(REFERENCE, env) - nothing_s
    done.values["import app.main"] = _import_s("app.main", env) - nothing_s
    done.values["import of all that a server loads"] = _import_s(GATEWAY, env) - nothing_s
    done.values |= _start(folder, env)
    took_s = time.monotonic() - began_s
    others = machine.busy_ns() - busy - (_own_ns() - ours)
    done.noisy = others > _NOISY_SHARE * took_s * 1e9
    return done


def _own_ns() -> int:
    """CPU time of this process and of those that it has waited for."""
    used = os.times()
    return int((used.user + used.system + used.children_user + used.children_system) * 1e9)


def _import_s(names: str, env: Mapping[str, str]) -> float:
    began_s = time.perf_counter()
    code = f"import {names}" if names else "pass"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(env), check=True)
    return time.perf_counter() - began_s


def _start(folder: Path, env: Mapping[str, str]) -> dict[str, float]:
    port = free_port()
    argv = [sys.executable, "-m", "app", "serve", "--config", str(CONFIG), "--port", str(port)]
    more = {
        **env,
        "UPSTREAM_OPENAI": "http://127.0.0.1:9/v1",  # nobody is asked anything
        "UPSTREAM_ANTHROPIC": "http://127.0.0.1:9",
        "SLIPSTREAM_DATA": str(folder),
        "SLIPSTREAM_SERVER__DRAIN_S": "0",
    }
    log = folder / "log"
    began_s = time.perf_counter()
    with running(argv, cpu=None, log=log, env=more) as process:
        ready_s = 0.0
        while (degraded := _degraded(port)) is None or "semantic_cache" in degraded:
            if degraded is not None and not ready_s:
                ready_s = time.perf_counter() - began_s
            if process.poll() is not None or time.perf_counter() - began_s > _UP_WITHIN_S:
                raise NotReadyError(f"the gateway did not become ready:\n{log.read_text()}")
            time.sleep(_LOOK_S)
        loaded_s = time.perf_counter() - began_s
        pids = machine.process_tree(process.pid)
        encoder = {pid for pid in pids if _ENCODER in Path(f"/proc/{pid}/cmdline").read_bytes()}
        gateway = pids - encoder
        return {
            "start to ready": ready_s or loaded_s,
            "start to ready, embedding model loaded": loaded_s,
            "CPU of the gateway until then": _cpu_s(gateway),
            "CPU of the vector process until then": _cpu_s(encoder),
            "PSS of the gateway": machine.pss_kib(gateway) / 1024,
            "PSS of the vector process": machine.pss_kib(encoder) / 1024,
        }


def _cpu_s(pids: set[int]) -> float:
    """CPU time of these processes, of threads that have ended (the one that loads) too; 10 ms steps."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _degraded(port: int) -> dict[str, object] | None:
    """What `/readyz` says is amiss; None before it says ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            said = json.load(answer)
    except (urllib.error.URLError, OSError):
        return None
    found: dict[str, object] = said["degraded"]
    return found


if __name__ == "__main__":
    sys.exit(main())
