"""`make bench`: what gateways add, measured side by side in one go.

All targets run at the same time, each idle but in its own slices, so that the slices of one round
lie seconds apart and see the same machine. A target that cannot run here is named with its reason;
it never silently drops out of the table.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import bars, machine, report
from bench.build import Instruments, ToolMissingError, compile_instruments
from bench.processes import (
    NotReadyError,
    Server,
    ask_json,
    free_port,
    running,
    wait_for_answer,
    wait_for_line,
)
from bench.scenarios import DEFAULT, NONCE, QUICK, SCENARIOS, Scenario, request_body
from bench.slices import Aim, Rigging, Slice, measure
from bench.summary import by_target, rotated
from bench.targets import TARGETS
from bench.targets.base import Launch, Rig, Target, UnavailableError

_WARM_S = 0.5

QUICK_TARGETS = ("direct", "nginx", "slipstream", "starlette_httpx")


@dataclass(frozen=True, slots=True)
class Running:
    """A target that answers."""

    target: Target
    launch: Launch
    server: Server


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    targets: tuple[str, ...]
    scenarios: tuple[str, ...]
    rounds: int
    slice_s: float
    install: bool
    strict: bool
    out: Path | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print the tables, write the JSON. 1: a bar failed under --strict; 2: cannot run."""
    options = _options(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        instruments = compile_instruments()
    except ToolMissingError as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slipstream-bench-")))
        run = _measure_all(options, instruments, folder, stack)
    verdicts = bars.judge(by_target(run.slices))
    print(report.markdown(run, verdicts))
    if options.out is not None:
        options.out.write_text(report.as_json(run, verdicts))
    failed = any(verdict.passed is not True for verdict in verdicts)
    return 1 if options.strict and failed else 0


def _options(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__.split("\n")[0])
    parser.add_argument("--targets", default="", help=f"comma-separated, of: {', '.join(TARGETS)}")
    parser.add_argument("--scenarios", default="", help=f"of: {', '.join(SCENARIOS)}")
    parser.add_argument("--rounds", type=int, default=0, help="default 3; quick: 2")
    parser.add_argument("--slice-s", type=float, default=0.0, help="default 1.2; quick: 0.5")
    parser.add_argument(
        "--quick", action="store_true", help="few targets, short slices, 30 seconds"
    )
    parser.add_argument("--no-install", action="store_true", help="never fetch a package")
    parser.add_argument("--strict", action="store_true", help="exit 1 unless every bar passes")
    given = parser.parse_args(argv)
    quick: bool = given.quick
    targets = _chosen(parser, "target", given.targets, TARGETS) or (
        QUICK_TARGETS if quick else tuple(TARGETS)
    )
    if "direct" not in targets:
        targets = ("direct", *targets)
    out = os.environ.get("OUT", "")
    return Options(
        targets=targets,
        scenarios=_chosen(parser, "scenario", given.scenarios, SCENARIOS)
        or (QUICK if quick else DEFAULT),
        rounds=given.rounds or (2 if quick else 3),
        slice_s=given.slice_s or (0.5 if quick else 1.2),
        install=not given.no_install,
        strict=given.strict,
        out=Path(out) if out else None,
    )


def _chosen(
    parser: argparse.ArgumentParser,
    kind: str,
    text: str,
    known: dict[str, Target] | dict[str, Scenario],
) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in known:
            parser.error(f"no {kind} is named {name!r}; there are {', '.join(known)}")
    return names


def _measure_all(
    options: Options, instruments: Instruments, folder: Path, stack: ExitStack
) -> report.Run:
    server_cpu, load_cpu = machine.cpus()
    upstream_log = folder / "upstream.log"
    upstream = stack.enter_context(
        running([str(instruments.upstream)], cpu=load_cpu, log=upstream_log)
    )
    upstream_port = int(wait_for_line(upstream, upstream_log, "listening", 5.0))
    started: dict[str, Running] = {}
    unavailable: dict[str, str] = {}
    for name in options.targets:
        _say(f"starting {name}")
        rig = Rig(upstream_port, free_port(), folder / name, options.install)
        rig.folder.mkdir()
        try:
            started[name] = _start(TARGETS[name], rig, server_cpu, stack)
        except (UnavailableError, NotReadyError) as reason:
            unavailable[name] = str(reason).splitlines()[0]
            _say(f"  not measured: {reason}")
    rigging = Rigging(instruments.loadgen, load_cpu, upstream.pid, folder)
    for one in started.values():
        _warm(one, rigging)
    slices = _rounds(options, started, rigging)
    return report.Run(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=_commit(),
        command=f"python -m bench.run {shlex.join(sys.argv[1:])}".strip(),
        cpu=machine.cpu_name(),
        system=machine.system_name(),
        rounds=options.rounds,
        slice_s=options.slice_s,
        versions={name: one.launch.version for name, one in started.items()},
        pss_mib={
            name: machine.pss_kib(one.server.pids()) / 1024
            for name, one in started.items()
            if one.server.process
        },
        unavailable=unavailable,
        slices=slices,
        upstream_stats=ask_json(upstream_port, "/stats"),
    )


def _start(target: Target, rig: Rig, cpu: int, stack: ExitStack) -> Running:
    """Start one target and wait until it answers like a model. Raises UnavailableError or NotReadyError."""
    launch = target.launch(rig)
    log = rig.folder / "server.log"
    if not launch.argv:
        assert launch.port is not None
        server = Server(None, launch.port, log)
    else:
        process = stack.enter_context(running(launch.argv, cpu=cpu, log=log, env=launch.env))
        port = launch.port
        if port is None:
            port = int(wait_for_line(process, log, "listening", launch.ready_s))
        server = Server(process, port, log)
    probe = SCENARIOS["json_c1"]
    body = request_body(probe, launch.model(probe.model)).replace(NONCE.encode(), b"0" * len(NONCE))
    wait_for_answer(server, launch.prefix + probe.path, body, launch.headers, launch.ready_s)
    return Running(target, launch, server)


def _warm(one: Running, rigging: Rigging) -> None:
    """Load a target a little, unmeasured: compilers, pools and lazy imports get done with it."""
    for name in ("json_c50", "stream_c1"):
        measure(rigging, _aim(one, SCENARIOS[name]), SCENARIOS[name], _WARM_S, 0)


def _rounds(options: Options, started: dict[str, Running], rigging: Rigging) -> list[Slice]:
    slices: list[Slice] = []
    for number in range(options.rounds):
        for place, name in enumerate(options.scenarios):
            scenario = SCENARIOS[name]
            takers = [one for one in started if scenario.takes(one)]
            for target in rotated(takers, number + place):
                aim = _aim(started[target], scenario)
                slices.append(measure(rigging, aim, scenario, options.slice_s, number))
                _say(_progress(slices[-1], options.rounds))
    return slices


def _aim(one: Running, scenario: Scenario) -> Aim:
    return Aim(
        name=one.target.name,
        server=one.server,
        prefix=one.launch.prefix,
        headers=one.launch.headers,
        model=one.launch.model(scenario.model),
    )


def _progress(one: Slice, rounds: int) -> str:
    total = f"{one.total_us.p50:,.0f} us p50" if one.total_us else "no answer"
    first = f", first token {one.ttft_us.p50:,.0f} us" if one.ttft_us else ""
    errors = f", {one.errors} ERRORS: {one.trouble}" if one.errors else ""
    noise = "" if one.quiet else f", noisy ({one.others_share:.0%})"
    return (
        f"round {one.round + 1}/{rounds} {one.scenario:18} {one.target:16}"
        f" {one.rps:9,.0f}/s {total}{first}{noise}{errors}"
    )


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
