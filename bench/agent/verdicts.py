"""The promises about agents, each held against what was measured: PASS, FAIL, or not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

Figures = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Claim:
    """A figure that must not be above its bar (or, with ``at_least``, not below it)."""

    name: str
    unit: str
    bar: float
    figures: Callable[[Figures], Iterable[float]]
    """The figures that are held against the bar; the worst of them counts."""
    at_least: bool = False

    def told(self, found: Figures) -> str:
        """One line: the verdict, the claim, the figure, the bar."""
        try:
            values = list(self.figures(found))
        except KeyError:
            values = []
        if not values:
            return f"  ----  {self.name}: not measured"
        worst = min(values) if self.at_least else max(values)
        good = worst >= self.bar if self.at_least else worst <= self.bar
        sign = ">=" if self.at_least else "<="
        verdict = "PASS" if good else "FAIL"
        return f"  {verdict}  {self.name}: {worst:.4g} {self.unit} (bar {sign} {self.bar:g})"


def _each(part: str, key: str) -> Callable[[Figures], list[float]]:
    """``key`` of every row of ``part``."""

    def figures(found: Figures) -> list[float]:
        rows = found[part]
        assert isinstance(rows, Mapping | list)
        every = rows.values() if isinstance(rows, Mapping) else rows
        return [float(row[key]) for row in every]

    return figures


def _one(part: str, *keys: str) -> Callable[[Figures], list[float]]:
    """The figure at ``part`` and then ``keys``."""

    def figures(found: Figures) -> list[float]:
        value: object = found[part]
        for key in keys:
            assert isinstance(value, Mapping)
            value = value[key]
        return [float(str(value))]

    return figures


CLAIMS = (
    Claim("day: mean", "s", 1.2, _one("headline", "mean_s")),
    Claim("day: share under 3 s", "", 0.98, _one("headline", "under_3_s"), at_least=True),
    Claim("day: share under 5 s", "", 0.995, _one("headline", "under_5_s"), at_least=True),
    Claim("scheduler a node, median, worst shape", "us", 15, _each("overhead", "wall_us")),
    Claim("wall / critical path, median", "", 1.01, _each("critical_path", "p50")),
    Claim("wall / critical path, p99", "", 1.03, _each("critical_path", "p99")),
    Claim(
        "sealed call -> started, p99, worst dialect",
        "us",
        1000,
        _each("sealed_to_started", "p99_us"),
    ),
    Claim(
        "eager + parallel / best of the others, worst setting",
        "",
        1.02,
        _each("eager", "ours / best of the others"),
    ),
    Claim("first status frame, p50", "ms", 5, _one("first_status", "p50_ms")),
    Claim("first status frame, p99", "ms", 5, _one("first_status", "p99_ms")),
    Claim(
        "cancelled everywhere, worst of all windows", "ms", 50, _each("cancellation", "worst_ms")
    ),
    Claim(
        "run of 3 tools beyond its critical path, p50",
        "ms",
        3,
        _one("three_tools", "the gateway", "p50_ms"),
    ),
    Claim(
        "speculation: share of all tool time hidden",
        "",
        0.4,
        _each("foresight", "hidden_share"),
        at_least=True,
    ),
    Claim("speculation: extra calls", "", 0.1, _each("foresight", "wasted_share")),
)


def verdicts(found: Figures) -> list[str]:
    """A line for each claim."""
    return [claim.told(found) for claim in CLAIMS]
