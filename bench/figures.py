"""A table of figures, each perhaps with a bar that it is held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from bench import machine


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; ``limit`` None: no bar applies."""

    name: str
    value: float
    unit: str
    n: int
    sense: str = ""
    limit: float | None = None
    noisy: bool = False
    """Others used the machine while it was measured: not to be quoted."""

    @property
    def verdict(self) -> str:
        """Whether the bar is met."""
        if self.limit is None:
            return ""
        met = self.value <= self.limit if self.sense == "<=" else self.value >= self.limit
        return f"{self.sense} {self.limit:g}{self.unit}: {'PASS' if met else 'FAIL'}"


def table(figures: Sequence[Figure]) -> str:
    """Markdown, headed by machine and date."""
    lines = [
        f"{machine.cpu_name()}; {machine.system_name()}; {datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
        "",
        "| what | figure | n | bar |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {each.name} | {'~' if each.noisy else ''}{each.value:,.2f}{each.unit} | {each.n}"
        f" | {each.verdict} |"
        for each in figures
    ]
    return "\n".join(lines)
