"""`python -m bench.cache`: the tables of the semantic cache, and a JSON file.

Environment: STREAMS=dir and PAIRS=dir of *.jsonl (the shared public data by default), OUT=file for
the JSON, SEEDS (5), LONGEST (questions of a stream used, 5000), BENCH_CACHE_DIR for vectors.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cache.data import SHARED, Stream, embedder, load_pairs, load_stream
from bench.cache.isolation import measure_isolation
from bench.cache.nearmiss import judge
from bench.cache.report import Report, print_report, summarise
from bench.cache.speed import measure_speed
from bench.cache.trials import Trial, run_trials

if TYPE_CHECKING:
    from collections.abc import Sequence

BOUNDS = (0.01, 0.02, 0.05)


def _files(variable: str, default: Path) -> list[Path]:
    folder = Path(os.environ.get(variable) or default)
    found = sorted(folder.glob("*.jsonl"))
    if not found:
        print(f"bench.cache: no *.jsonl in {folder} ({variable}=dir)", file=sys.stderr)
    return found


def _run(stream: Stream, other: Stream, seed: int, longest: int) -> list[Trial]:
    return list(run_trials(stream, other, seed, longest, BOUNDS))


def _trials(streams: Sequence[Stream], seeds: int, longest: int) -> list[Trial]:
    trials: list[Trial] = []
    with ProcessPoolExecutor(max_workers=max(1, (os.cpu_count() or 2))) as pool:
        jobs = [
            pool.submit(_run, stream, streams[(place + 1) % len(streams)], seed, longest)
            for seed in range(seeds)
            for place, stream in enumerate(streams)
        ]
        for done, job in enumerate(jobs, 1):
            made = job.result()
            trials.extend(made)
            shown = ", ".join(
                f"{t.policy} {t.bound:g}: {t.outcome.hits}/{t.outcome.wrong} wrong"
                for t in made
                if t.policy in {"ours", "calibrated cosine"} or t.policy.endswith("+0")
            )
            print(f"  {done} of {len(jobs)}: {made[0].stream} {shown}", file=sys.stderr, flush=True)
    return trials


def main() -> int:
    """Run everything, print, and write OUT."""
    # One thread a process: the runs fill the cores themselves, and BLAS threads only collide.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    encoder = embedder()
    streams = [load_stream(p, encoder) for p in _files("STREAMS", SHARED / "streams")]
    suites = [judge(p.stem, load_pairs(p, encoder)) for p in _files("PAIRS", SHARED / "pairs")]
    speed = measure_speed(streams[0], encoder) if streams else None
    seeds, longest = int(os.environ.get("SEEDS", "5")), int(os.environ.get("LONGEST", "5000"))
    report: Report = summarise(_trials(streams, seeds, longest), suites, speed, encoder.build_id)
    print_report(report)
    apart = measure_isolation()
    print(
        f"isolation: of {apart.pairs:,} pairs that differ in one field {apart.met_by_meaning} share a"
        f" partition, {apart.met_exactly} an exact key (wanted 0)"
    )
    out = os.environ.get("OUT")
    if out:
        Path(out).write_text(
            json.dumps({**report, "isolation": asdict(apart)}, indent=1) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
