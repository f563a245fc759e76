"""The figures of a run beside their bars, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure; `bar` None means that it is printed for comparison only."""

    name: str
    value: float
    bar: float | None = None
    sense: Literal[">=", "<="] = ">="
    note: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether it holds its bar; None without one."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.sense == ">=" else self.value <= self.bar


@dataclass(slots=True)
class Report:
    """Sections of figures in the order in which they were measured."""

    sections: dict[str, list[Figure]] = field(default_factory=dict)

    def add(self, section: str, figures: list[Figure]) -> None:
        """Add a section and print it at once, so that a long run shows its progress."""
        self.sections[section] = figures
        print(f"\n== {section}")
        for figure in figures:
            bar = "" if figure.bar is None else f"{figure.sense} {figure.bar:g}"
            verdict = {None: "", True: "PASS", False: "FAIL"}[figure.passed]
            print(f"  {figure.name:<58}{figure.value:>9.4f}  {bar:<9}{verdict:<5}{figure.note}")

    def write(self, path: Path, setting: dict[str, object]) -> None:
        """Write everything as JSON."""
        rows = {
            name: [{**asdict(one), "passed": one.passed} for one in figures]
            for name, figures in self.sections.items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"setting": setting, "sections": rows}, indent=1) + "\n")

    def summary(self) -> str:
        """The number of bars held, and the names of those missed."""
        judged = [one for part in self.sections.values() for one in part if one.bar is not None]
        failed = [one.name for one in judged if not one.passed]
        text = f"{len(judged) - len(failed)} of {len(judged)} bars held"
        return text + (f"; not held: {', '.join(failed)}" if failed else "")
