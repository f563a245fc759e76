"""`make bench-router`: every figure of the classifier and the router, beside baselines and bars.

PAIRS names another file of {set, pair, domain, prompt, fast, powerful} lines, TOOLS another folder with
`evergreenqa/dev.csv` (or `test.csv`) and `metatool/Task1.json`; OUT a file for the figures as JSON.
The shipped tables were trained on the build half of the shared sets (by crc32 of the prompt), which
this run therefore leaves out. All seeds and hyperparameters are fixed and the same for all sets.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from app.classify.complexity import Complexity
from bench.router import control, quality, speed, text, tool_calls
from bench.router.data import SHARED, DataError, in_build_half, read_pairs
from bench.router.report import Report


def main() -> int:
    """Run everything; 0 when it ran, whatever the figures say, 2 when the data cannot be read."""
    pairs = Path(os.environ.get("PAIRS") or SHARED / "routing" / "pairs.jsonl")
    tools = Path(os.environ.get("TOOLS") or SHARED / "tools")
    out = Path(os.environ.get("OUT") or "var/bench/router.json")
    started = time.monotonic()
    report = Report()
    try:
        everything = read_pairs(pairs)
        used = _trained_on()
        rows = [row for row in everything if row.prompt not in used]
        text_figures = (
            text.cacheability(tools),
            text.tool_need(tools),
            tool_calls.tool_call_learning(tools),
        )
    except DataError as exc:
        print(f"bench-router: {exc}", file=sys.stderr)
        return 2
    print(f"{pairs}: {len(rows)} of {len(everything)} prompts, the others trained the topics")
    report.add("cacheability", text_figures[0])
    report.add("tool need", text_figures[1])
    report.add("tool need, learned", text_figures[2])
    complexity = Complexity()
    mixed, parts = quality.streams_of(rows, complexity)
    report.add("no labels", quality.without_labels(mixed, parts))
    by_pair = quality.by_pair(mixed)
    report.add(
        "learning curve",
        [
            *quality.learning_curve(mixed, {100: 0.60, 500: None, 1_500: 0.64}),
            *(
                figure
                for stream in by_pair
                for figure in quality.learning_curve(stream, {100: None, 1_500: None})
            ),
        ],
    )
    report.add("neural baseline", quality.neural_baseline(mixed))
    report.add(
        "calibration", [one for part in (mixed, *by_pair) for one in quality.calibration(part)]
    )
    report.add("online", [figure for one in (mixed, *by_pair) for figure in quality.online(one)])
    report.add("fast share", control.fast_share(mixed, parts))
    report.add("latency, simulated clock", control.latency(mixed))
    report.add("speed", speed.decisions(mixed))
    report.add("refit", speed.refits(mixed))
    print(f"\n{report.summary()}; {time.monotonic() - started:.0f} s")
    setting = {
        "pairs": str(pairs),
        "tools": str(tools),
        "prompts": len(rows),
        "load": os.getloadavg()[0],
    }
    report.write(out, {**setting, "seconds": round(time.monotonic() - started)})
    return 0


def _trained_on() -> frozenset[str]:
    """The prompts whose subjects the shipped topics were trained on."""
    path = SHARED / "routing" / "pairs.jsonl"
    if not path.exists():
        return frozenset()
    return frozenset(row.prompt for row in read_pairs(path) if in_build_half(row.prompt))


if __name__ == "__main__":
    raise SystemExit(main())
