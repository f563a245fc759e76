"""``make soak``: a million short requests against one worker, and whether anything grows.

The load comes from ``bench/loadgen.c``, which checks of every answer that it is the answer to its own
question (a nonce goes up and comes back), that it is whole and how it ends. The kinds take turns in slices:
JSON calls and streams in the client's own dialect and across dialects, repeated questions (exact hits), and
clients that leave in the middle of a stream. After each slice of every kind memory, descriptors, tasks and
turns in flight are read. Flat means: over the second half of the run none of them has a slope that matters.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from bench import machine
from bench.build import compile_instruments
from bench.chaos.lab import Gateway, gateway_of
from bench.processes import running, wait_for_line
from bench.scenarios import Scenario, request_body
from bench.targets.slipstream import CONFIG

_SAMPLES = 20
_MOST_GROWTH_KIB = 8 * 1024
"""Over the second half of the run; the exact cache (64 MiB) is full before."""
_MOST_MORE = 8
"""Descriptors or tasks at the end beyond those at the half."""
_SHORT = "small"
_LONG = "soak-long"
_MODELS = {_SHORT: "mock-t0-n8-g0-s200", _LONG: "mock-t0-n60-g20", "soak-claude": "mock-t0-n8-g0"}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request, its share of the run, and whether its clients leave before the end."""

    scenario: Scenario
    share: float
    leaves: bool = False


def _kind(name: str, share: float, model: str, *, leaves: bool = False, **more: object) -> Kind:
    return Kind(Scenario(name, name, model, 16, **more), share, leaves)  # type: ignore[arg-type]


KINDS = (
    _kind("json", 0.4, _SHORT),
    _kind("stream", 0.2, _SHORT, tokens=8),
    _kind("hit", 0.2, _SHORT, cycle=64),
    _kind("messages-on-openai", 0.1, _SHORT, tokens=8, dialect="anthropic"),
    _kind("chat-on-anthropic", 0.0999, "soak-claude", tokens=8),
    _kind("left", 0.0001, _LONG, tokens=60, leaves=True),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the gateway held after so many requests."""

    requests: int
    rss_kib: int
    descriptors: int
    tasks: int
    in_flight: int
    rps: float


@dataclass(slots=True)
class Sums:
    """Of the whole run."""

    asked: int = 0
    right: int = 0
    left: int = 0
    bad: int = 0
    example: str = ""


def configuration(upstream: int) -> dict[str, object]:
    """That of ``make bench``, with the soak's models: nothing is switched off."""
    values: dict[str, object] = yaml.safe_load(CONFIG.read_text())
    providers, models = values["providers"], values["models"]
    assert isinstance(providers, dict)
    assert isinstance(models, list)
    providers["local"].update(base_url=f"http://127.0.0.1:{upstream}/v1", api_key="none")
    providers["claude"].update(base_url=f"http://127.0.0.1:{upstream}", api_key="none")
    first = models[0]
    values["models"] = [
        {
            **first,
            "name": name,
            "model": model,
            "provider": "claude" if name == "soak-claude" else "local",
        }
        for name, model in _MODELS.items()
    ]
    values["state"] = {}
    return values


async def soak(count: int) -> dict[str, object]:
    """Ask ``count`` questions; what became of them and of the gateway."""
    instruments, sums, samples = compile_instruments(), Sums(), []
    with tempfile.TemporaryDirectory(prefix="slipstream-soak-") as made:
        folder = Path(made)
        log = folder / "upstream.log"
        cpu = machine.cpus()[1]
        with running([str(instruments.upstream)], cpu=cpu, log=log) as process:
            port = int(wait_for_line(process, log, "listening", 5.0))
            async with gateway_of(configuration(port)) as gateway:
                for number in range(_SAMPLES):
                    began_s, before = time.monotonic(), sums.asked
                    for kind in KINDS:
                        wanted = max(1, round(count / _SAMPLES * kind.share))
                        await _ask(instruments.loadgen, gateway, kind, wanted, sums)
                    rate = (sums.asked - before) / (time.monotonic() - began_s)
                    samples.append(await _sample(gateway, sums.asked, rate))
                    print(f"{number + 1:2}/{_SAMPLES} {samples[-1]}", flush=True)
    return _judged(sums, samples)


async def _ask(loadgen: Path, gateway: Gateway, kind: Kind, count: int, sums: Sums) -> None:
    scenario = kind.scenario
    body = gateway.folder / f"{scenario.name}.json"
    body.write_bytes(request_body(scenario, scenario.model))
    options: dict[str, object] = {
        "--port": gateway.port,
        "--path": scenario.path,
        "--body": body,
        "--concurrency": scenario.concurrency,
        "--count": count,
        "--duration-s": 3600,
        "--drain-s": 30,
        "--tokens": scenario.tokens,
        "--nonce": f"cycle={scenario.cycle}" if scenario.cycle else "unique",
    }
    if scenario.last_words:
        options["--last-words"] = scenario.last_words
    if kind.leaves:
        options["--timeout-s"] = 0.4
    flat = [str(part) for pair in options.items() for part in pair]
    done = await asyncio.to_thread(
        subprocess.run, [str(loadgen), *flat], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    sums.asked += found["started"]
    sums.right += found["ok"]
    bad = found["errors"] + found["unfinished"]
    if kind.leaves:
        sums.left += found["errors_by_kind"]["timeout"]
        bad -= found["errors_by_kind"]["timeout"]
    sums.bad += bad
    if bad:
        sums.example = f"{scenario.name}: {found['errors_by_kind']} {found['example'][:200]}"


async def _sample(gateway: Gateway, asked: int, rate: float) -> Sample:
    await asyncio.sleep(1.5)  # what is written behind answers; the clients' ends
    return Sample(
        asked,
        gateway.rss_kib(),
        gateway.descriptors(),
        round(await gateway.metric("slipstream_event_loop_tasks")),
        round(await gateway.metric("slipstream_in_flight")),
        round(rate),
    )


def _judged(sums: Sums, samples: list[Sample]) -> dict[str, object]:
    half, last = samples[len(samples) // 2 - 1], samples[-1]
    grown_kib = last.rss_kib - half.rss_kib
    bad = [
        said
        for holds, said in (
            (sums.bad == 0, f"{sums.bad} answers wrong, lost or failed ({sums.example})"),
            (grown_kib <= _MOST_GROWTH_KIB, f"{grown_kib} KiB more in the second half"),
            (last.descriptors - half.descriptors <= _MOST_MORE, "descriptors grow"),
            (last.tasks - half.tasks <= _MOST_MORE, "tasks grow"),
            (all(each.in_flight == 0 for each in samples), "turns were left in flight"),
        )
        if not holds
    ]
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}, {machine.cpu_name()}: {sums.asked:,} requests,"
        f" {sums.right:,} right, {sums.left:,} left by their clients, {sums.bad} wrong, lost or failed;"
        f" second half: {grown_kib:+,} KiB, {last.descriptors - half.descriptors:+} descriptors,"
        f" {last.tasks - half.tasks:+} tasks; {bad or 'flat'}"
    )
    lines = [{name: getattr(s, name) for name in Sample.__slots__} for s in samples]
    return {"asked": sums.asked, "right": sums.right, "samples": lines, "bad": bad}


def main() -> int:
    """Read the arguments, run, write OUT."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="requests")
    found = asyncio.run(soak(parser.parse_args().count))
    if out := os.environ.get("OUT"):
        Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if found["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())
