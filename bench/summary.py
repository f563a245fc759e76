"""From slices to figures: medians over quiet rounds, differences and ratios within a round.

The machine is shared, and its speed drifts by tens of per cent between minutes. So nothing is
compared across rounds: a difference or a ratio is taken between slices of one round, which lie
seconds apart, and the median of those is the figure. Rounds in which somebody else used the
machine are left out as long as one quiet round is left; if none is, all count, and the figure says
so.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.slices import Slice

Rounds = Mapping[int, Slice]
"""The slices of one target under one scenario, by round."""

Reading = Callable[[Slice], float | None]
"""One figure of a slice; None: the slice did not measure it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median over rounds, the least and the greatest of them, and whether they were quiet."""

    value: float
    low: float
    high: float
    rounds: int
    quiet: bool


def by_target(slices: Iterable[Slice]) -> dict[tuple[str, str], dict[int, Slice]]:
    """Slices sorted into (target, scenario) and round."""
    sorted_slices: dict[tuple[str, str], dict[int, Slice]] = {}
    for one in slices:
        sorted_slices.setdefault((one.target, one.scenario), {})[one.round] = one
    return sorted_slices


def over_rounds(compute: Callable[..., float | None], *series: Rounds) -> Estimate | None:
    """The median of `compute(slice, slice, ...)` over the rounds that every series has.

    None when no round yields a figure. A round is quiet when all its slices are; noisy rounds count
    only when there is no quiet one.
    """
    quiet: list[float] = []
    noisy: list[float] = []
    shared = set(series[0]).intersection(*series[1:]) if series else set()
    for number in sorted(shared):
        slices = [one[number] for one in series]
        value = compute(*slices)
        if value is not None:
            (quiet if all(one.quiet for one in slices) else noisy).append(value)
    values = quiet or noisy
    if not values:
        return None
    return Estimate(
        value=statistics.median(values),
        low=min(values),
        high=max(values),
        rounds=len(values),
        quiet=bool(quiet),
    )


def added(reading: Reading) -> Callable[[Slice, Slice], float | None]:
    """What a target adds to the direct way: compute(target, direct)."""

    def compute(target: Slice, direct: Slice) -> float | None:
        ours, base = reading(target), reading(direct)
        return None if ours is None or base is None else ours - base

    return compute


def added_ratio(reading: Reading) -> Callable[[Slice, Slice, Slice], float | None]:
    """What a target adds over what another adds: compute(target, other, direct).

    None when the other adds nothing that can be measured: a ratio to that would be noise.
    """
    difference = added(reading)

    def compute(target: Slice, other: Slice, direct: Slice) -> float | None:
        ours, theirs = difference(target, direct), difference(other, direct)
        return None if ours is None or theirs is None or theirs <= 0 else ours / theirs

    return compute


def ratio(reading: Reading) -> Callable[[Slice, Slice], float | None]:
    """compute(target, other): how many times the other's figure the target's is."""

    def compute(target: Slice, other: Slice) -> float | None:
        ours, theirs = reading(target), reading(other)
        return None if ours is None or theirs is None or theirs <= 0 else ours / theirs

    return compute


def rotated(names: Sequence[str], turns: int) -> list[str]:
    """The names, started elsewhere: so that no target is always measured after the same one."""
    if not names:
        return []
    start = turns % len(names)
    return [*names[start:], *names[:start]]


def rps(one: Slice) -> float | None:
    """Whole, right answers a second; None where there was none."""
    return one.rps if one.ok else None


def tokens_per_s(one: Slice) -> float | None:
    """Streamed tokens a second."""
    return one.tokens_per_s if one.ok else None


def total_p50(one: Slice) -> float | None:
    """Median time to a whole answer, in microseconds."""
    return one.total_us.p50 if one.total_us else None


def total_p99(one: Slice) -> float | None:
    """99th percentile of the time to a whole answer, in microseconds."""
    return one.total_us.p99 if one.total_us else None


def ttft_p50(one: Slice) -> float | None:
    """Median time to the first token, in microseconds."""
    return one.ttft_us.p50 if one.ttft_us else None


def ttft_p99(one: Slice) -> float | None:
    """99th percentile of the time to the first token, in microseconds."""
    return one.ttft_us.p99 if one.ttft_us else None


def gap_p99(one: Slice) -> float | None:
    """99th percentile of the gap between two tokens, in microseconds."""
    return one.gap_us.p99 if one.gap_us else None


def transit_p99(one: Slice) -> float | None:
    """99th percentile of a token's way from the upstream to the client, in microseconds."""
    return one.transit_us.p99 if one.transit_us else None


def cpu_per_request(one: Slice) -> float | None:
    """CPU of the target per right answer, in microseconds."""
    return one.cpu_us_per_request


def cpu_per_token(one: Slice) -> float | None:
    """CPU of the target per streamed token, in microseconds."""
    return one.cpu_us_per_token
