"""The promises that a run is held against, each a ratio within a round.

`limit` is what must hold; `goal` is where the gateway is headed. A bar whose reference was not
measured is not judged, and says so: it never passes by silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from bench import summary
from bench.slices import Slice
from bench.summary import Estimate, Rounds

Measured = Mapping[tuple[str, str], Rounds]
Sense = Literal["<=", ">="]
OURS = "slipstream"


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise: `compute` over these series must be at most (or at least) `limit`."""

    name: str
    sense: Sense
    limit: float
    goal: float
    unit: str
    series: tuple[tuple[str, str], ...]
    compute: Callable[..., float | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar and what the run says of it. `passed` None: not measured."""

    bar: Bar
    estimate: Estimate | None
    passed: bool | None
    goal_met: bool | None

    @property
    def line(self) -> str:
        """PASS, FAIL or NOT MEASURED, and the figure, on one line."""
        bar = self.bar
        wanted = f"{bar.sense} {bar.limit:g}{bar.unit}, goal {bar.goal:g}{bar.unit}"
        if self.estimate is None:
            needs = ", ".join(sorted({f"{target}/{scenario}" for target, scenario in bar.series}))
            return f"NOT MEASURED  {bar.name} ({wanted}; needs {needs})"
        word = "PASS" if self.passed else "FAIL"
        goal = "goal met" if self.goal_met else "goal not met"
        noisy = "" if self.estimate.quiet else ", noisy machine"
        span = f"{self.estimate.low:.2f}-{self.estimate.high:.2f} in {self.estimate.rounds} rounds"
        figure = f"{self.estimate.value:.2f}{bar.unit}"
        return f"{word}  {bar.name}: {figure} ({wanted}: {goal}; {span}{noisy})"


def judge(measured: Measured) -> list[Verdict]:
    """Every bar's verdict."""
    return [_judge(bar, measured) for bar in bars()]


def bars() -> list[Bar]:
    """All promises."""
    return [*_throughput(), *_latency(), *_streams(), *_hits()]


def _judge(bar: Bar, measured: Measured) -> Verdict:
    if any(key not in measured for key in bar.series):
        return Verdict(bar, None, None, None)
    estimate = summary.over_rounds(bar.compute, *(measured[key] for key in bar.series))
    if estimate is None:
        return Verdict(bar, None, None, None)

    def holds(limit: float) -> bool:
        return estimate.value <= limit if bar.sense == "<=" else estimate.value >= limit

    return Verdict(bar, estimate, holds(bar.limit), holds(bar.goal))


def _throughput() -> list[Bar]:
    aims = (("go_proxy", 1.5, 1.5), ("litellm", 200, 300), ("starlette_httpx", 20, 25))
    return [
        Bar(
            name=f"requests/s at {concurrency} over {other}'s",
            sense=">=",
            limit=limit,
            goal=goal,
            unit="x",
            series=((OURS, f"json_c{concurrency}"), (other, f"json_c{concurrency}")),
            compute=summary.ratio(summary.rps),
        )
        for concurrency in (50, 200)
        for other, limit, goal in aims
    ]


def _latency() -> list[Bar]:
    return [
        Bar(
            name="added p50 of a JSON call of 200 KB in 100 messages",
            sense="<=",
            limit=1.5,
            goal=1.5,
            unit=" ms",
            series=((OURS, "json_200k"), ("direct", "json_200k")),
            compute=_in_ms(summary.added(summary.total_p50)),
        ),
        Bar(
            name="CPU a JSON call, everything on, over our own bare pass-through",
            sense="<=",
            limit=1.3,
            goal=1.3,
            unit="x",
            series=((OURS, "json_c50"), ("bare_wire", "json_c50")),
            compute=summary.ratio(summary.cpu_per_request),
        ),
        Bar(
            name="added p50 of a JSON call, 1 at a time, over nginx's",
            sense="<=",
            limit=1.5,
            goal=1.3,
            unit="x",
            series=((OURS, "json_c1"), ("nginx", "json_c1"), ("direct", "json_c1")),
            compute=summary.added_ratio(summary.total_p50),
        ),
    ]


def _streams() -> list[Bar]:
    here = "stream_c50"
    first = Bar(
        name="added p50 to the first token, 50 streams, over nginx's",
        sense="<=",
        limit=2.0,
        goal=1.5,
        unit="x",
        series=((OURS, here), ("nginx", here), ("direct", here)),
        compute=summary.added_ratio(summary.ttft_p50),
    )
    below = [
        Bar(
            name=f"added p50 to the first token, 50 streams, over {gateway}'s",
            sense="<=",
            limit=1.0,
            goal=1.0,
            unit="x",
            series=((OURS, here), (gateway, here), ("direct", here)),
            compute=summary.added_ratio(summary.ttft_p50),
        )
        for gateway in ("litellm", "portkey", "tensorzero")
    ]
    per_token = [
        Bar(
            name=f"CPU per streamed token, {title}, over nginx's",
            sense="<=",
            limit=limit,
            goal=goal,
            unit="x",
            series=((OURS, scenario), ("nginx", here)),
            compute=summary.ratio(summary.cpu_per_token),
        )
        for title, scenario, limit, goal in (
            ("same dialect", here, 3.0, 2.5),
            ("Anthropic client on OpenAI", "messages_on_openai", 8.0, 8.0),
            ("OpenAI client on Anthropic", "chat_on_anthropic", 8.0, 8.0),
        )
    ]
    steady = Bar(
        name="added p99 of the gap between tokens, 200 streams",
        sense="<=",
        limit=5.0,
        goal=5.0,
        unit=" ms",
        series=((OURS, "stream_c200"), ("direct", "stream_c200")),
        compute=_in_ms(summary.added(summary.gap_p99)),
    )
    return [first, *below, *per_token, steady]


def _hits() -> list[Bar]:
    return [
        Bar(
            name="exact hit at the client, p50 over the bare upstream",
            sense="<=",
            limit=0.25,
            goal=0.25,
            unit=" ms",
            series=((OURS, "hit_c1"), ("direct", "hit_c1")),
            compute=_in_ms(summary.added(summary.total_p50)),
        ),
        Bar(
            name="exact hits a second, 50 at a time",
            sense=">=",
            limit=15_000,
            goal=15_000,
            unit="/s",
            series=((OURS, "hit_c50"),),
            compute=summary.rps,
        ),
    ]


def _in_ms(compute: Callable[[Slice, Slice], float | None]) -> Callable[..., float | None]:
    def in_ms(ours: Slice, base: Slice) -> float | None:
        value_us = compute(ours, base)
        return None if value_us is None else value_us / 1e3

    return in_ms
