"""Eager and parallel against the three other ways to run the same calls, task by task, on real
sockets.

The rivals' times are what their order of work costs with the same latencies and nothing else: no
sockets, no overhead. So the comparison is against ideal rivals, and a ratio above 1 is our own
cost.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from dataclasses import dataclass

from bench.agent.gateway import ask
from bench.agent.shapes import Task

FIRST_S = 0.15
ANSWER_S = 0.3


@dataclass(frozen=True, slots=True)
class Cell:
    """One latency setting."""

    decode_s: float
    tool_s: float


CELLS = (Cell(0.3, 0.2), Cell(0.3, 1.0), Cell(0.1, 0.5), Cell(0.5, 0.5))


def rivals(task: Task, cell: Cell) -> dict[str, float]:
    """Seconds of the ideal rivals: one call at a time, all at the end, started early but one at a time."""
    decode_s, times = cell.decode_s, task.latencies_s(cell.tool_s)
    count = len(times)
    free_s = 0.0
    for index, took_s in enumerate(times):
        free_s = max(free_s, (index + 1) * decode_s) + took_s
    return {
        "sequential": count * decode_s + sum(times),
        "parallel at end": count * decode_s + max(times),
        "eager": free_s,
    }


async def run_cell(url: str, tasks: list[Task], cell: Cell, at_once: int = 12) -> dict[str, float]:
    """Mean seconds of each way, and how ours compares to the best of the others, task by task."""
    room = asyncio.Semaphore(at_once)

    async def one(task: Task) -> float:
        calls = [
            ("work", {"id": f"{task.number}-{index}", "ms": round(took_s * 1000)})
            for index, took_s in enumerate(task.latencies_s(cell.tool_s))
        ]
        script = {"first_s": FIRST_S, "call_s": cell.decode_s, "calls": calls}
        answer = {"answer_s": ANSWER_S, "fast_answer_s": ANSWER_S}
        async with room:
            return (await ask(url, "shapes", json.dumps(script | answer)))[1]

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one(task)) for task in tasks]
    ours = [task.result() for task in running]
    constant_s = FIRST_S + ANSWER_S
    others = [rivals(task, cell) for task in tasks]
    means = {
        name: constant_s + statistics.fmean(each[name] for each in others) for name in others[0]
    }
    best = [constant_s + min(each.values()) for each in others]
    return {
        "decode_ms": cell.decode_s * 1000,
        "tool_ms": cell.tool_s * 1000,
        **means,
        "eager + parallel (ours)": statistics.fmean(ours),
        "ours / best of the others": statistics.fmean(ours) / statistics.fmean(best),
        "worst task": max(a / b for a, b in zip(ours, best, strict=True)),
    }
