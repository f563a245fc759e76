"""The shapes of real tool use: how many calls each task makes, from public sets or the committed
sample of them.

None of the sets has timings, so latencies are drawn from seeds: they are the same in every run and
for every rival.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

SAMPLE = Path(__file__).parents[1] / "data" / "agent_shapes.json"
_FILES = ("parallel", "parallel_multiple", "live_parallel", "live_parallel_multiple")


@dataclass(frozen=True, slots=True)
class Task:
    """One task: the tools it calls, and how long each takes."""

    number: int
    tools: tuple[str, ...]

    def latencies_s(self, median_s: float, sigma: float = 0.6) -> tuple[float, ...]:
        """A seeded lognormal draw for each call."""
        draw = random.Random(f"{self.number}/{median_s}")
        return tuple(draw.lognormvariate(math.log(median_s), sigma) for _ in self.tools)


def load(folder: str) -> tuple[list[Task], str]:
    """The tasks of the BFCL files in ``folder``, or of the committed sample; and what they are."""
    if not folder:
        sample = json.loads(SAMPLE.read_text(encoding="utf-8"))
        tasks = [Task(number, tuple(tools)) for number, tools in enumerate(sample["tasks"])]
        return tasks, f"committed sample, {len(tasks)} tasks"
    found: list[Task] = []
    for name in _FILES:
        path = Path(folder) / f"bfcl_possible_answer_BFCL_v4_{name}.json"
        for line in path.read_text(encoding="utf-8").splitlines():
            calls = json.loads(line)["ground_truth"]
            found.append(Task(len(found), tuple(next(iter(call)) for call in calls)))
    return found, f"{folder}, {len(found)} tasks"
