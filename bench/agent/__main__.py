"""``make bench-agent``: every claim about agents, measured, with the rivals beside it.

``SHAPES`` is a folder with the public sets (absent: the committed sample), ``OUT`` a file for the
figures as JSON. LangGraph and LlamaIndex are installed into the benchmark's own cache, pinned, unless
``RIVALS_PYTHON`` names an interpreter that has them. ``--quick`` runs a fraction of everything.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import uvloop

from app.bootstrap import open_gateway
from app.settings import load
from bench.agent import eager, foresight, headline, lag, promptness, rivals, scheduler, shapes
from bench.agent.environment import RIVALS, UnavailableError, python_with
from bench.agent.gateway import configuration, gateway
from bench.agent.servers import model, tools
from bench.agent.verdicts import verdicts
from bench.loopback import served

Figures = dict[str, object]


async def run(*, quick: bool) -> Figures:
    """Measure everything, and print each part as it is there."""
    folder = os.environ.get("SHAPES", "")
    tasks, about = shapes.load(folder)
    if quick:
        tasks = tasks[:24]
    found: Figures = {"shapes": about, "tasks": len(tasks)}
    found["overhead"] = _show_overhead(await scheduler.overhead())
    found["rivals"] = await asyncio.to_thread(_rivals, quick=quick)
    found["critical_path"] = _show(
        "Wall / critical path", await scheduler.critical_path(tasks, 20 if quick else 120)
    )
    async with open_gateway(load(None, {})) as context:
        lags = await lag.sealed_to_started(context.edge.gateway)
    found["sealed_to_started"] = _show("Sealed call -> tool started (us)", lags)
    first = await promptness.first_status(60 if quick else 300)
    found["first_status"] = first
    _show("First status frame, from the request's first byte", {"all": first})
    found["three_tools"] = _show(
        "Run of 3 tools beyond its critical path", await promptness.three_tools(20 if quick else 60)
    )
    found["cancellation"] = _show(
        "Until the last open exchange is hung up", await promptness.cancellation(5 if quick else 20)
    )
    found["eager"] = await _eager(tasks, quick=quick)
    found["headline"] = await _headline(quick=quick)
    found |= _foresight(folder, quick=quick)
    print("\nThe promises", *verdicts(found), sep="\n")
    return found


def _foresight(folder: str, *, quick: bool) -> Figures:
    title = "Speculation on multi-turn traces (medians over orders of the stream)"
    if not foresight.there(folder):
        print(f"\n{title}: not run (SHAPES names no folder with the multi-turn traces)")
        return {}
    try:
        dialogues, every = foresight.dialogues(folder), foresight.dialogues()
    except UnavailableError as why:
        print(f"\n{title}: not run (the tools that made the traces: {why})")
        return {}
    tools = foresight.documented(folder)
    told = foresight.foresight(dialogues, tools, 1 if quick else foresight.SEEDS)
    found: Figures = {"foresight": _show(f"{title}, {len(dialogues)} dialogues", told)}
    whole = foresight.foresight(every, tools, 1 if quick else foresight.SEEDS)
    found["foresight_whole_set"] = _show(f"The same, {len(every)} dialogues", whole)
    return found


def _show_overhead(found: dict[str, dict[str, float]]) -> Figures:
    return _show("Scheduler, us a node (deadlines, cancellation, one event a node)", found)


def _rivals(*, quick: bool) -> Figures:
    """Ours and the others, by turns: what the machine does meanwhile it does to all of them."""
    title = f"Scheduler and rivals, us a node: {rivals.WIDTH} parallel no-op nodes and a join"
    print(f"\n{title}")
    try:
        python = os.environ.get("RIVALS_PYTHON") or python_with("agents", RIVALS)
    except UnavailableError as why:
        print(f"  LangGraph, LlamaIndex workflows: NOT MEASURED ({why})")
        return {}
    script = str(Path(rivals.__file__))
    rows: dict[str, list[float]] = {}
    for _ in range(2 if quick else 5):
        rows.setdefault("Slipstream", []).append(scheduler.joined())
        done = subprocess.run([str(python), script], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"  the others: NOT MEASURED ({done.stderr.strip()[-300:]})")
            return {}
        for name, us in json.loads(done.stdout).items():
            rows.setdefault(name, []).append(us)
    ours = rows["Slipstream"]
    for name, each in rows.items():
        times = statistics.median(a / b for a, b in zip(each, ours, strict=True))
        print(f"  {name:28} {statistics.median(each):10.1f}   {times:6.1f} x ours (n={len(each)})")
    return {name: statistics.median(each) for name, each in rows.items()}


async def _eager(tasks: list[shapes.Task], *, quick: bool) -> list[dict[str, float]]:
    found = []
    print(
        "\nEager and parallel, seconds a task on real sockets; the others are ideal (no overhead)"
    )
    async with served(model) as upstream, served(tools({})) as tool_url:
        values = configuration(upstream, tool_url, tool_cache_s=0)
        async with gateway(values) as url:
            for cell in eager.CELLS[:1] if quick else eager.CELLS:
                figures = await eager.run_cell(url, tasks, cell)
                found.append(figures)
                print("  " + "  ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    return found


async def _headline(*, quick: bool) -> Figures:
    scale = 0.5 if quick else 1.0  # what the machine adds weighs least on the true clock
    before_s = await headline.before(scale)
    figures = await headline.after(scale, 80 if quick else 600)
    kinds = figures["kinds"]
    assert isinstance(kinds, dict)
    print(f"\nBefore, one thing after another: {before_s:.2f} s")
    print(f"{'':14}{'share':>7}{'claimed s':>11}{'ours s':>9}{'n':>6}")
    claimed_s = 0.0
    for name, share, seconds in headline.CLAIMED:
        claimed_s += share * seconds
        ours = kinds[name]["mean_s"]
        shown = "-" if ours is None else f"{ours:.3f}"
        print(f"{name:14}{share:>7.0%}{seconds:>11.2f}{shown:>9}{kinds[name]['n']:>6}")
    print(f"{'mean':14}{'':7}{claimed_s:>11.2f}{figures['mean_s']:>9.3f}{figures['n']:>6}")
    print(
        f"under 3 s: {figures['under_3_s']:.1%}   under 5 s: {figures['under_5_s']:.1%}   "
        f"speed-up of the mean: {before_s / float(str(figures['mean_s'])):.1f}x"
    )
    return {"before_s": before_s, "claimed_mean_s": claimed_s, **figures}


def _show(title: str, found: dict[str, dict[str, float]]) -> Figures:
    print(f"\n{title}")
    for name, figures in found.items():
        told = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
        print(f"  {name:28} {told}")
    return dict(found)


def main() -> None:
    """Run, print, and write the figures."""
    figures = uvloop.run(run(quick="--quick" in sys.argv))
    out = os.environ.get("OUT", "")
    if out:
        Path(out).write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
