"""`make bench-conditions`: what a gateway adds behind TLS, at a distance, and beside heavy work.

Each condition runs its targets at the same time and measures them by turns. A condition whose program is
missing is named, with the mend, and makes the exit status 1 under --strict.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from bench import machine
from bench.build import ToolMissingError, compile_instruments
from bench.conditions.hits import semantic_hits
from bench.conditions.misses import semantic_miss
from bench.conditions.over_tls import beside_nginx, cold_client
from bench.conditions.rig import MissingError
from bench.conditions.stage import Stage
from bench.conditions.stalls import stalls
from bench.figures import Figure, table
from bench.processes import NotReadyError, running, wait_for_line
from bench.slices import Rigging

CONDITIONS: dict[str, Callable[[Stage], list[Figure]]] = {
    "tls": beside_nginx,
    "cold": cold_client,
    "miss": semantic_miss,
    "hits": semantic_hits,
    "stalls": stalls,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON (OUT). 1: a bar failed under --strict; 2: cannot run."""
    parser = argparse.ArgumentParser(prog="python -m bench.conditions")
    parser.add_argument("--only", default="", help=f"comma-separated, of: {', '.join(CONDITIONS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slice-s", type=float, default=2.0)
    parser.add_argument("--colds", type=int, default=20, help="cold first requests each way")
    parser.add_argument("--strict", action="store_true", help="exit 1 unless every bar passes")
    given = parser.parse_args(argv)
    chosen = [name for name in given.only.split(",") if name] or list(CONDITIONS)
    for name in chosen:
        if name not in CONDITIONS:
            parser.error(f"no condition is named {name!r}; there are {', '.join(CONDITIONS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started ends with it
    try:
        instruments = compile_instruments()
    except ToolMissingError as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    figures: list[Figure] = []
    missed: dict[str, str] = {}
    server_cpu, load_cpu = machine.cpus()
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="slipstream-conditions-"))
        )
        log = folder / "upstream.log"
        upstream = stack.enter_context(running([str(instruments.upstream)], cpu=load_cpu, log=log))
        port = int(wait_for_line(upstream, log, "listening", 5.0))
        rigging = Rigging(instruments.loadgen, load_cpu, upstream.pid, folder)
        stage = Stage(rigging, port, server_cpu, given.rounds, given.slice_s, given.colds)
        for name in chosen:
            print(f"bench: {name}", file=sys.stderr, flush=True)
            try:
                figures += CONDITIONS[name](stage)
            except (MissingError, NotReadyError) as reason:
                missed[name] = str(reason)
    print(table(figures))
    for name, why in missed.items():
        print(f"- NOT MEASURED  {name}: {why}")
    if out := os.environ.get("OUT", ""):
        Path(out).write_text(json.dumps([asdict(each) for each in figures], indent=2) + "\n")
    failed = bool(missed) or any("FAIL" in each.verdict for each in figures)
    return 1 if given.strict and failed else 0


if __name__ == "__main__":
    sys.exit(main())
