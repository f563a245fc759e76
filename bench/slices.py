"""One slice: a second or two of one load on one target, and what it cost."""

from __future__ import annotations

import json
import resource
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.machine import busy_ns, cpu_ns
from bench.processes import Server
from bench.scenarios import NONCE, Scenario, request_body

NOISY_SHARE = 0.12
"""A slice counts as noisy when other processes used more than this share of one CPU."""

WARMUP_S = 0.2


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A distribution, in microseconds."""

    n: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Slice:
    """What one slice showed. Shares are of one CPU; None: there was nothing to measure."""

    target: str
    scenario: str
    round: int
    rps: float
    tokens_per_s: float
    ok: int
    errors: int
    unfinished: int
    trouble: str
    total_us: Quantiles | None
    ttft_us: Quantiles | None
    gap_us: Quantiles | None
    transit_us: Quantiles | None
    cpu_us_per_request: float | None
    cpu_us_per_token: float | None
    cpu_share: float
    others_share: float

    @property
    def quiet(self) -> bool:
        """Whether the machine was ours."""
        return self.others_share <= NOISY_SHARE


@dataclass(frozen=True, slots=True)
class Aim:
    """Where a slice is aimed: the server, and how this target is addressed."""

    name: str
    server: Server
    prefix: str
    headers: Mapping[str, str]
    model: str


@dataclass(frozen=True, slots=True)
class Rigging:
    """What every slice needs: the load generator, its CPU, the upstream's process, a folder."""

    loadgen: Path
    cpu: int
    upstream_pid: int
    folder: Path


def measure(rigging: Rigging, aim: Aim, scenario: Scenario, slice_s: float, number: int) -> Slice:
    """Run one slice. Raises RuntimeError when the load generator itself fails."""
    duration_s = max(slice_s, scenario.least_s)
    argv = _loadgen_argv(rigging, aim, scenario, duration_s)
    pids = aim.server.pids()
    begin_s, busy, server = time.monotonic(), busy_ns(), cpu_ns(pids)
    upstream, client, own = cpu_ns({rigging.upstream_pid}), _children_ns(), time.process_time_ns()
    limit_s = WARMUP_S + duration_s + scenario.drain_s + 20.0
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=limit_s)
    elapsed_s, server_ns = time.monotonic() - begin_s, cpu_ns(pids | aim.server.pids()) - server
    ours = cpu_ns({rigging.upstream_pid}) - upstream + _children_ns() - client
    ours += time.process_time_ns() - own + server_ns
    others_ns = max(0, busy_ns() - busy - ours)
    if done.returncode != 0:
        raise RuntimeError(f"loadgen failed on {aim.name}/{scenario.name}: {done.stderr.strip()}")
    figures = json.loads(done.stdout)
    return _slice(
        figures,
        where=(aim.name, scenario.name, number),
        server_ns=server_ns if aim.server.process else None,
        shares=(server_ns / 1e9 / elapsed_s, others_ns / 1e9 / elapsed_s),
    )


def _loadgen_argv(rigging: Rigging, aim: Aim, scenario: Scenario, duration_s: float) -> list[str]:
    body = rigging.folder / f"{aim.name}-{scenario.name}.json"
    content = request_body(scenario, aim.model)
    if NONCE.encode() not in content:
        raise ValueError(f"the request of {scenario.name} has no room for a nonce")
    body.write_bytes(content)
    headers = "\n".join(f"{name}: {value}" for name, value in aim.headers.items())
    options: dict[str, object] = {
        "--port": aim.server.port,
        "--path": aim.prefix + scenario.path,
        "--body": body,
        "--headers": headers,
        "--concurrency": scenario.concurrency,
        "--duration-s": duration_s,
        "--warmup-s": WARMUP_S,
        "--drain-s": scenario.drain_s,
        "--spread-s": scenario.spread_s,
        "--rate": scenario.rate,
        "--tokens": scenario.tokens,
        "--nonce": f"cycle={scenario.cycle}" if scenario.cycle else "unique",
    }
    if scenario.last_words:
        options["--last-words"] = scenario.last_words
    flat = [str(part) for pair in options.items() for part in pair]
    return ["taskset", "-c", str(rigging.cpu), str(rigging.loadgen), *flat]


def _slice(
    figures: Mapping[str, object],
    *,
    where: tuple[str, str, int],
    server_ns: int | None,
    shares: tuple[float, float],
) -> Slice:
    ok, tokens = _number(figures, "ok"), _number(figures, "tokens")
    return Slice(
        target=where[0],
        scenario=where[1],
        round=where[2],
        rps=_number(figures, "rps"),
        tokens_per_s=_number(figures, "tokens_per_s"),
        ok=int(ok),
        errors=int(_number(figures, "errors")),
        unfinished=int(_number(figures, "unfinished")),
        trouble=_trouble(figures),
        total_us=_quantiles(figures.get("total_us")),
        ttft_us=_quantiles(figures.get("ttft_us")),
        gap_us=_quantiles(figures.get("gap_us")),
        transit_us=_quantiles(figures.get("transit_us")),
        cpu_us_per_request=server_ns / 1e3 / ok if server_ns is not None and ok else None,
        cpu_us_per_token=server_ns / 1e3 / tokens if server_ns is not None and tokens else None,
        cpu_share=shares[0],
        others_share=shares[1],
    )


def _trouble(figures: Mapping[str, object]) -> str:
    """The kinds of errors with their counts, and how the first bad answer began."""
    kinds = figures.get("errors_by_kind")
    assert isinstance(kinds, dict)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    if not told:
        return ""
    status, example = figures.get("last_bad_status"), str(figures.get("example"))[:160]
    return f"{told} (last bad status {status}; first: {example!r})"


def _number(figures: Mapping[str, object], name: str) -> float:
    value = figures[name]
    assert isinstance(value, int | float)
    return float(value)


def _quantiles(value: object) -> Quantiles | None:
    if not isinstance(value, dict):
        return None
    fields = {name: float(value[name]) for name in ("mean", "p50", "p90", "p99", "max")}
    return Quantiles(n=int(value["n"]), **fields)


def _children_ns() -> int:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((usage.ru_utime + usage.ru_stime) * 1e9)
