"""Run the fault laboratory: ``make chaos`` (about three minutes), or parts of it.

``--only NAME...``: these experiments. Or one of these instead: ``--soak N``: N short requests; ``--idle N``:
N idle streams; ``--loris N``: good clients' p99 among N slow heads; ``--kills N``: SIGKILL of N workers
under running jobs; ``--steps [POSTGRES_URL]``: SIGKILL at each step of a job. OUT=file gets the table as
JSON. Exit 1 when anything was wrong, lost, left over, or otherwise than promised.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.chaos import beside, clients, redis_life, stores, upstreams
from bench.chaos.asking import Tally
from bench.chaos.experiment import Experiment
from bench.chaos.idle import idle_streams
from bench.chaos.job_steps import Died, die_at_each_step
from bench.chaos.jobs import kill_under_jobs
from bench.chaos.lab import Lab, LeftOverError, laboratory
from bench.chaos.loris import loris
from bench.chaos.soak import soak

EXPERIMENTS = (
    *upstreams.EXPERIMENTS,
    *clients.EXPERIMENTS,
    *stores.EXPERIMENTS,
    *redis_life.EXPERIMENTS,
    *beside.EXPERIMENTS,
)
WITHIN_S = 90.0
MOST_GROWTH_KIB = 64 * 1024


@dataclass(slots=True)
class Row:
    """A line of the table."""

    name: str
    injects: str
    expects: str
    sent: int = 0
    right: int = 0
    errors: int = 0
    wrong: int = 0
    lost: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    descriptors: int = 0
    rss_kib: int = 0
    took_s: float = 0.0
    amiss: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether all was as promised."""
        return not (self.wrong or self.lost or self.amiss)


async def conduct(lab: Lab, experiment: Experiment) -> Row:
    """Run one, bring the lab back to calm, and compare it with what it was."""
    row = Row(experiment.name, experiment.injects, experiment.expects)
    tally = Tally()
    began_s = time.monotonic()
    descriptors, rss_kib = lab.own_descriptors(), lab.gateway.rss_kib()
    try:
        async with asyncio.timeout(WITHIN_S):
            await experiment.run(lab, tally)
    except (TimeoutError, OSError, LeftOverError, ExceptionGroup) as failure:
        tally.amiss.append(f"{type(failure).__name__}: {failure}")
    try:
        await lab.calm()
    except LeftOverError as failure:
        tally.amiss.append(str(failure))
    tally.amiss += await lab.left_over()
    row.descriptors = await lab.grown_descriptors(descriptors)
    row.rss_kib = lab.gateway.rss_kib() - rss_kib
    if row.descriptors > 1:
        tally.amiss.append(f"{row.descriptors} descriptors more than before")
    row.sent = len(tally.outcomes)
    row.right, row.errors = tally.count("right"), tally.count("error")
    row.wrong, row.lost = tally.count("wrong"), tally.count("lost")
    row.codes, row.amiss = dict(tally.codes()), tally.amiss
    row.took_s = round(time.monotonic() - began_s, 1)
    return row


def show(row: Row) -> None:
    """Print a line, and what was amiss below it."""
    print(
        f"{'ok ' if row.good else 'BAD'} {row.name:16} {row.injects:44} {row.sent:5} {row.right:5}"
        f" {row.errors:5} {row.wrong:5} {row.lost:5} {row.descriptors:+4} {row.rss_kib / 1024:+7.1f}"
        f" {row.took_s:5.1f}",
        flush=True,
    )
    if not row.good:
        print(f"    {row.amiss} {row.codes}", flush=True)


async def _experiments(chosen: list[Experiment]) -> dict[str, object]:
    print(
        f"    {'experiment':16} {'injected':44} {'sent':>5} {'right':>5} {'error':>5} {'wrong':>5}"
        f" {'lost':>5} {'fds':>4} {'MiB':>7} {'s':>5}"
    )
    rows = []
    async with laboratory() as lab:
        before_kib = lab.gateway.rss_kib()
        for experiment in chosen:
            row = await conduct(lab, experiment)
            rows.append(row)
            show(row)
        grown_kib = lab.gateway.rss_kib() - before_kib
    bad = [row.name for row in rows if not row.good]
    if grown_kib > MOST_GROWTH_KIB:
        bad.append("memory")
    print(
        f"{len(rows)} experiments, {sum(r.sent for r in rows):,} requests: "
        f"{sum(r.right for r in rows):,} right, {sum(r.errors for r in rows):,} clear errors, "
        f"{sum(r.wrong for r in rows)} wrong, {sum(r.lost for r in rows)} lost; "
        f"{sum(bool(r.amiss) for r in rows)} otherwise than promised; memory {grown_kib / 1024:+.1f} MiB"
    )
    lines = [{name: getattr(row, name) for name in Row.__dataclass_fields__} for row in rows]
    return {"experiments": lines, "grown_kib": grown_kib, "bad": bad}


async def _kills(count: int) -> dict[str, object]:
    killed = await kill_under_jobs(count, say=True)
    print(
        f"{killed.kills:,} workers killed under running jobs: {killed.jobs:,} jobs accepted,"
        f" {killed.finished:,} finished, {killed.unfinished} lost, {killed.misreported} misreported;"
        f" {killed.effects:,} side effects, {killed.doubled} doubled, {killed.unknown} of unknown outcome;"
        f" {killed.crashes:,} attempts broken off; {killed.took_s:.0f} s; {killed.why or 'none amiss'}"
    )
    return {**asdict(killed), "bad": [] if killed.good else ["kills"]}


async def _steps(postgres_url: str | None) -> dict[str, object]:
    print(f"    {'killed at':24} effects unknown models webhooks     s")
    found = await die_at_each_step(postgres_url=postgres_url, on_done=_show_step)
    bad = [each.point for each in found if each.amiss]
    print(f"{len(found)} points, {len(bad)} otherwise than promised")
    return {"steps": [asdict(each) for each in found], "bad": bad}


def _show_step(died: Died) -> None:
    print(
        f"{'BAD' if died.amiss else 'ok '} {died.point:24} {died.effects:7} {died.unknown:7}"
        f" {died.model_calls:6} {died.webhooks:8} {died.took_s:5.1f} {'; '.join(died.amiss)}",
        flush=True,
    )


def main() -> int:
    """Read the arguments, run, print, and write OUT."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[e.name for e in EXPERIMENTS])
    parser.add_argument("--soak", type=int, metavar="N", help="N short requests")
    parser.add_argument("--idle", type=int, metavar="N", help="N idle streams")
    parser.add_argument("--loris", type=int, metavar="N", help="N heads that never end")
    parser.add_argument("--kills", type=int, metavar="N", help="SIGKILL N workers under jobs")
    parser.add_argument("--steps", nargs="?", const="", metavar="URL", help="each step of a job")
    options = parser.parse_args()
    if options.soak:
        found = asyncio.run(soak(options.soak))
    elif options.loris:
        found = asyncio.run(loris(options.loris))
    elif options.idle:
        found = asyncio.run(idle_streams(options.idle))
    elif options.steps is not None:
        found = asyncio.run(_steps(options.steps or None))
    elif options.kills:
        found = asyncio.run(_kills(options.kills))
    else:
        chosen = [e for e in EXPERIMENTS if not options.only or e.name in options.only]
        found = asyncio.run(_experiments(chosen))
    if out := os.environ.get("OUT"):
        Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if found["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())
