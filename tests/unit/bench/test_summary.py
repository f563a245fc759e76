"""What the benchmark's figures promise, whatever the slices hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import summary
from bench.slices import NOISY_SHARE, Quantiles, Slice


def quantiles(p50: float) -> Quantiles:
    return Quantiles(n=10, mean=p50, p50=p50, p90=p50, p99=p50 * 2, max=p50 * 3)


def one_slice(target: str, number: int = 0, *, p50: float = 100.0, others: float = 0.0) -> Slice:
    return Slice(
        target=target,
        scenario="json_c1",
        round=number,
        rps=1e6 / p50,
        tokens_per_s=0.0,
        ok=10,
        errors=0,
        unfinished=0,
        trouble="",
        total_us=quantiles(p50),
        ttft_us=None,
        gap_us=None,
        transit_us=None,
        cpu_us_per_request=p50 / 2,
        cpu_us_per_token=None,
        cpu_share=0.5,
        others_share=others,
    )


def rounds(target: str, *p50s: float, others: tuple[float, ...] = ()) -> dict[int, Slice]:
    noise = others or (0.0,) * len(p50s)
    return {
        number: one_slice(target, number, p50=p50, others=share)
        for number, (p50, share) in enumerate(zip(p50s, noise, strict=True))
    }


def test_the_figure_is_the_median_over_the_rounds():
    estimate = summary.over_rounds(summary.total_p50, rounds("a", 10, 30, 20))
    assert estimate is not None
    assert (estimate.value, estimate.low, estimate.high, estimate.rounds) == (20, 10, 30, 3)
    assert estimate.quiet


def test_noisy_rounds_do_not_count_while_one_quiet_round_is_left():
    noisy = NOISY_SHARE * 2
    estimate = summary.over_rounds(
        summary.total_p50, rounds("a", 10, 500, 600, others=(0.0, noisy, noisy))
    )
    assert estimate is not None
    assert (estimate.value, estimate.rounds, estimate.quiet) == (10, 1, True)


def test_without_a_quiet_round_all_count_and_the_figure_says_so():
    estimate = summary.over_rounds(summary.total_p50, rounds("a", 10, 30, others=(0.5, 0.5)))
    assert estimate is not None
    assert (estimate.value, estimate.quiet) == (20, False)


def test_a_round_is_noisy_when_any_of_its_slices_is():
    ours, base = rounds("a", 30, 50), rounds("direct", 10, 10, others=(0.0, 0.9))
    estimate = summary.over_rounds(summary.added(summary.total_p50), ours, base)
    assert estimate is not None
    assert (estimate.value, estimate.rounds) == (20, 1)


def test_differences_and_ratios_are_taken_within_a_round_never_across():
    # The machine is twice as slow in the second round: a ratio must not notice.
    ours, other, base = rounds("a", 30, 60), rounds("b", 20, 40), rounds("direct", 10, 20)
    ratio = summary.over_rounds(summary.ratio(summary.total_p50), ours, other)
    added = summary.over_rounds(summary.added_ratio(summary.total_p50), ours, other, base)
    assert ratio is not None
    assert added is not None
    assert (ratio.low, ratio.high) == (1.5, 1.5)
    assert (added.low, added.high) == (2.0, 2.0)


def test_only_rounds_that_every_series_has_count():
    ours, base = rounds("a", 30, 60), rounds("direct", 10)
    estimate = summary.over_rounds(summary.added(summary.total_p50), ours, base)
    assert estimate is not None
    assert (estimate.value, estimate.rounds) == (20, 1)


def test_nothing_measured_gives_no_figure():
    assert summary.over_rounds(summary.total_p50, {}) is None
    assert summary.over_rounds(summary.ttft_p50, rounds("a", 10)) is None
    assert summary.over_rounds(summary.total_p50) is None


def test_a_ratio_to_nothing_is_no_figure():
    ours, base = rounds("a", 30), rounds("direct", 10)
    assert summary.over_rounds(summary.added_ratio(summary.total_p50), ours, base, base) is None


def test_a_slice_without_a_right_answer_has_no_rate():
    assert summary.rps(replace(one_slice("a"), ok=0, rps=0.0)) is None


def test_slices_are_found_by_target_scenario_and_round():
    found = summary.by_target([one_slice("a", 0), one_slice("a", 1), one_slice("b", 0)])
    assert set(found) == {("a", "json_c1"), ("b", "json_c1")}
    assert sorted(found["a", "json_c1"]) == [0, 1]


@given(st.lists(st.text(), unique=True), st.integers(min_value=0, max_value=1000))
def test_every_name_stays_in_a_rotation_and_each_comes_first_in_turn(names: list[str], turns: int):
    order = summary.rotated(names, turns)
    assert sorted(order) == sorted(names)
    if names:
        assert order[0] == names[turns % len(names)]


@given(
    st.lists(
        st.tuples(st.floats(1, 1e6), st.floats(0, 1)),
        min_size=1,
        max_size=9,
    )
)
def test_the_median_lies_between_the_least_and_the_greatest(pairs: list[tuple[float, float]]):
    series = rounds("a", *(p50 for p50, _ in pairs), others=tuple(share for _, share in pairs))
    estimate = summary.over_rounds(summary.total_p50, series)
    assert estimate is not None
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.rounds <= len(pairs)
    assert estimate.quiet == any(one.quiet for one in series.values())


@pytest.mark.parametrize(("share", "quiet"), [(0.0, True), (NOISY_SHARE, True), (0.13, False)])
def test_a_slice_is_quiet_while_others_used_little(share: float, quiet: bool):
    assert one_slice("a", others=share).quiet is quiet
