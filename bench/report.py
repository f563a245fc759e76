"""A run as tables that people read (Markdown) and as figures that programs read (JSON)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from bench import summary
from bench.bars import Measured, Verdict
from bench.scenarios import SCENARIOS, Scenario
from bench.slices import Slice
from bench.summary import Estimate, Reading
from bench.targets import TARGETS

Cell = Callable[[str, str, Measured], str]
"""(target, scenario, measured) -> the text of one cell."""


@dataclass(frozen=True, slots=True)
class Run:
    """Everything about one run that a reader needs to judge it."""

    date: str
    commit: str
    command: str
    cpu: str
    system: str
    rounds: int
    slice_s: float
    versions: dict[str, str]
    pss_mib: dict[str, float]
    unavailable: dict[str, str]
    slices: list[Slice]
    upstream_stats: dict[str, object]


def markdown(run: Run, verdicts: Sequence[Verdict]) -> str:
    """The whole report."""
    measured = summary.by_target(run.slices)
    names = [name for name in TARGETS if any(name == target for target, _ in measured)]
    parts = [_head(run)]
    scenarios = [SCENARIOS[name] for name in SCENARIOS if any(name == s for _, s in measured)]
    for scenario in scenarios:
        columns = _STREAM if scenario.streams else _JSON
        parts.append(_table(scenario, columns, names, measured))
    parts += [_notes(run, names), _bars(verdicts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_json(run: Run, verdicts: Sequence[Verdict]) -> str:
    """The same, with every slice."""
    judged = [
        {
            "name": verdict.bar.name,
            "sense": verdict.bar.sense,
            "limit": verdict.bar.limit,
            "goal": verdict.bar.goal,
            "unit": verdict.bar.unit.strip(),
            "estimate": asdict(verdict.estimate) if verdict.estimate else None,
            "passed": verdict.passed,
            "goal_met": verdict.goal_met,
        }
        for verdict in verdicts
    ]
    document = asdict(run)
    for one, fields in zip(run.slices, document["slices"], strict=True):
        fields["quiet"] = one.quiet
    return json.dumps({**document, "bars": judged}, indent=1) + "\n"


def _head(run: Run) -> str:
    quiet = sum(one.quiet for one in run.slices)
    return "\n".join(
        (
            f"# Overhead, {run.date}, commit {run.commit or 'unknown'}",
            "",
            (
                f"`{run.command}` on {run.cpu}; {run.system}. {run.rounds} interleaved rounds of"
                f" {run.slice_s:g} s slices, one worker a target on one CPU, client and upstream on the"
                f" other. Medians over quiet rounds; {quiet} of {len(run.slices)} slices were quiet."
                " Added = minus direct in the same round. `~` marks figures of a noisy machine."
            ),
        )
    )


def _table(
    scenario: Scenario,
    columns: Sequence[tuple[str, Cell]],
    names: Sequence[str],
    measured: Measured,
) -> str:
    rows = [
        [TARGETS[name].title, *(cell(name, scenario.name, measured) for _, cell in columns)]
        for name in names
        if (name, scenario.name) in measured
    ]
    titles = ["", *(title for title, _ in columns)]
    lines = [
        f"## {scenario.title} (`{scenario.name}`)",
        "",
        "| " + " | ".join(titles) + " |",
        "| --- |" + " ---: |" * (len(titles) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines)


def _notes(run: Run, names: Sequence[str]) -> str:
    lines = ["## Who was measured", "", "| | version | memory (PSS) MiB |", "| --- | --- | ---: |"]
    for name in names:
        memory = f"{run.pss_mib[name]:.0f}" if name in run.pss_mib else "-"
        lines.append(f"| {TARGETS[name].title} | {run.versions.get(name) or '-'} | {memory} |")
    lines += [
        f"| {TARGETS[n].title} | not measured: {why} | - |" for n, why in run.unavailable.items()
    ]
    troubles = [
        f"- {TARGETS[one.target].title}, `{one.scenario}`, round {one.round + 1}:"
        f" {one.errors} errors of {one.ok + one.errors + one.unfinished}: {one.trouble}"
        for one in run.slices
        if one.errors
    ]
    if troubles:
        lines += [
            "",
            "Errors (an answer counts only if it is whole and the right one):",
            "",
            *troubles,
        ]
    return "\n".join(lines)


def _bars(verdicts: Sequence[Verdict]) -> str:
    return "\n".join(("## Bars", "", *(f"- {verdict.line}" for verdict in verdicts)))


def _figure(estimate: Estimate | None, scale: float, digits: int) -> str:
    if estimate is None:
        return "-"
    noisy = "" if estimate.quiet else "~"
    return f"{noisy}{estimate.value / scale:,.{digits}f}"


def _own(reading: Reading, scale: float = 1.0, digits: int = 0) -> Cell:
    def cell(target: str, scenario: str, measured: Measured) -> str:
        return _figure(summary.over_rounds(reading, measured[target, scenario]), scale, digits)

    return cell


def _added(reading: Reading, scale: float = 1.0, digits: int = 0) -> Cell:
    def cell(target: str, scenario: str, measured: Measured) -> str:
        base = measured.get(("direct", scenario))
        if base is None or target == "direct":
            return "-"
        compute = summary.added(reading)
        series = (measured[target, scenario], base)
        return _figure(summary.over_rounds(compute, *series), scale, digits)

    return cell


def _added_over(other: str, reading: Reading) -> Cell:
    def cell(target: str, scenario: str, measured: Measured) -> str:
        keys = ((other, scenario), ("direct", scenario))
        if target == "direct" or any(key not in measured for key in keys):
            return "-"
        series = (measured[target, scenario], *(measured[key] for key in keys))
        return _figure(summary.over_rounds(summary.added_ratio(reading), *series), 1.0, 2)

    return cell


def _over(other: str, reading: Reading, digits: int = 2) -> Cell:
    def cell(target: str, scenario: str, measured: Measured) -> str:
        base = measured.get((other, scenario))
        if base is None:
            return "-"
        compute = summary.ratio(reading)
        return _figure(summary.over_rounds(compute, measured[target, scenario], base), 1.0, digits)

    return cell


_JSON: tuple[tuple[str, Cell], ...] = (
    ("added p50 us", _added(summary.total_p50)),
    ("added p99 us", _added(summary.total_p99)),
    ("added p50 / nginx", _added_over("nginx", summary.total_p50)),
    ("requests/s", _own(summary.rps)),
    ("/ nginx", _over("nginx", summary.rps)),
    ("/ Starlette", _over("starlette_httpx", summary.rps, 1)),
    ("/ LiteLLM", _over("litellm", summary.rps, 1)),
    ("p50 ms", _own(summary.total_p50, 1e3, 2)),
    ("p99 ms", _own(summary.total_p99, 1e3, 2)),
    ("CPU us/request", _own(summary.cpu_per_request)),
    ("CPU / nginx", _over("nginx", summary.cpu_per_request)),
)
_STREAM: tuple[tuple[str, Cell], ...] = (
    ("added TTFT p50 us", _added(summary.ttft_p50)),
    ("added TTFT p99 us", _added(summary.ttft_p99)),
    ("added p50 / nginx", _added_over("nginx", summary.ttft_p50)),
    ("TTFT p50 ms", _own(summary.ttft_p50, 1e3, 2)),
    ("gap p99 ms", _own(summary.gap_p99, 1e3, 2)),
    ("transit p99 ms", _own(summary.transit_p99, 1e3, 2)),
    ("tokens/s", _own(summary.tokens_per_s)),
    ("CPU us/token", _own(summary.cpu_per_token, digits=1)),
    ("CPU / nginx", _over("nginx", summary.cpu_per_token)),
    ("CPU / LiteLLM", _over("litellm", summary.cpu_per_token, 3)),
)
