"""The cost of a decision (classifier, route, threshold) over 10,000 mixed prompts, and of a refit; memory."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from app.classify.classifier import Classifier
from app.classify.complexity import Complexity, GainFeatures, GainHead, fit_head
from app.domain.decisions import PromptView
from app.pipeline.router_refit import RouterRefit
from app.routing.learning import MAX_LABELS, Label
from app.routing.score import RoutePolicy, route
from app.routing.threshold import FastShareTracker
from bench.router.data import view
from bench.router.quality import Stream
from bench.router.report import Figure

DECISIONS = 10_000
_LABELS = 1_500
_REFITS, _TICK_S = 3, 0.001
_MAX_CHARS = 8_000  # about 2,000 tokens
_TOOLS = ("get_ticket", "get_user", "check_permissions")

_MEMORY = """
import numpy
from app.domain.decisions import PromptView
def rss():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
before = rss()
from app.classify.classifier import Classifier
classifier = Classifier()
for at in range(2000):
    classifier.classify(PromptView(text=f"What is the capital of country {at}? " * (1 + at % 40)))
print((rss() - before) / 1024)
"""


def decisions(mixed: Stream) -> list[Figure]:
    """Time of one decision on this machine, with a fitted head, wall and CPU; added memory."""
    order = np.random.default_rng(0).permutation(len(mixed))[:_LABELS]
    head = fit_head([mixed.points[at] for at in order], mixed.gain[order].tolist())
    decide = _decision(head)
    prompts = _prompts(mixed)
    for prompt in prompts[:500]:
        decide(prompt)
    wall, cpu = [], []
    for prompt in prompts:
        wall_from, cpu_from = time.perf_counter_ns(), time.thread_time_ns()
        decide(prompt)
        cpu.append((time.thread_time_ns() - cpu_from) / 1e6)
        wall.append((time.perf_counter_ns() - wall_from) / 1e6)
    memory = subprocess.run(
        [sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True, timeout=120
    )
    longest = max(len(one.text) for one in prompts)
    note = f"{DECISIONS} prompts up to {longest} characters; load {os.getloadavg()[0]:.1f}"
    return [
        Figure("decision p50, ms", float(np.quantile(wall, 0.5)), 0.2, "<=", note),
        Figure("decision p99, ms", float(np.quantile(wall, 0.99)), 1.0, "<="),
        Figure("decision p50, ms of CPU", float(np.quantile(cpu, 0.5))),
        Figure("decision p99, ms of CPU", float(np.quantile(cpu, 0.99))),
        Figure("added memory, MiB", float(memory.stdout), 64.0, "<="),
    ]


def refits(mixed: Stream) -> list[Figure]:
    """A refit as the gateway runs it (process start, fit, evaluation, answer), and the longest that
    an event loop waits beside it.
    """
    order = np.random.default_rng(0).permutation(len(mixed))
    figures: list[Figure] = []
    for count in (_LABELS, MAX_LABELS):
        picked = np.resize(order, count).tolist()
        labels = [Label(mixed.points[at], float(mixed.gain[at]), 0.05) for at in picked]
        runs = [asyncio.run(_refit_beside_a_loop(labels)) for _ in range(_REFITS)]
        wall, cpu, beside, alone = (float(np.median(part)) for part in zip(*runs, strict=True))
        note = f"median of {_REFITS}; load {os.getloadavg()[0]:.1f}"
        bar = 1.0 if count == _LABELS else None
        figures += [
            Figure(f"refit on {count} labels, s", wall, bar, "<=", note),
            Figure(f"refit on {count} labels, s of CPU", cpu, bar, "<="),
            Figure(f"longest wait of a loop beside it, {count} labels, ms", beside),
            Figure("longest wait of a loop without it, as long, ms", alone),
        ]
    return figures


async def _refit_beside_a_loop(
    labels: Sequence[Label[GainFeatures]],
) -> tuple[float, float, float, float]:
    """Seconds of wall time and of CPU, and the longest wait in ms beside the refit and without it."""
    waits: list[float] = []

    async def ticks(until: asyncio.Event) -> float:
        waits.clear()
        while not until.is_set():
            began = time.perf_counter()
            await asyncio.sleep(_TICK_S)
            waits.append(time.perf_counter() - began - _TICK_S)
        return 1e3 * max(waits)

    done = asyncio.Event()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        ticking = group.create_task(ticks(done))
        await asyncio.to_thread(RouterRefit().run, labels, None, 0)
        wall = time.perf_counter() - began
        done.set()
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    quiet = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        alone = group.create_task(ticks(quiet))
        await asyncio.sleep(wall)
        quiet.set()
    return wall, cpu, ticking.result(), alone.result()


def _decision(head: GainHead | None) -> Callable[[PromptView], None]:
    classifier = Classifier(Complexity(head=head))
    tracker, policy = FastShareTracker(), RoutePolicy()

    def decide(prompt: PromptView) -> None:
        judged = classifier.classify(prompt)
        decision = route(judged, prompt, policy, tracker.threshold("bench"))
        tracker.observe("bench", decision.score, decision.tier)

    return decide


def _prompts(mixed: Stream) -> list[PromptView]:
    """The stream's prompts, one in eight made long, one in eight offering tools."""
    rng = np.random.default_rng(2)
    out = []
    for at in rng.integers(0, len(mixed), DECISIONS).tolist():
        text = mixed.rows[at].prompt
        kind = rng.integers(0, 8)
        if kind == 0:
            text = (text + "\n") * (1 + int(rng.integers(0, _MAX_CHARS)) // (len(text) + 1))
        prompt = view(text[:_MAX_CHARS])
        if kind == 1:
            prompt = PromptView(text=prompt.text, total_chars=len(prompt.text), tool_names=_TOOLS)
        out.append(prompt)
    return out
