"""A timeline tells where the time of one turn went, also of one that failed in the middle."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.turn_record import STAGES
from app.telemetry.timeline import DETAIL_CHARS, MAX_SPANS, Timeline


class Clock:
    """Nanoseconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now

    def pass_ms(self, ms: float) -> None:
        self.now += round(ms * 1e6)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_spans_tell_start_and_duration_relative_to_the_arrival(clock: Clock) -> None:
    timeline = Timeline(clock)
    clock.pass_ms(1)
    with timeline.stage("cache", "exact"):
        clock.pass_ms(2)
    (span,) = timeline.spans()
    assert span == ("cache", 1_000_000, 2_000_000, "exact", -1)
    assert timeline.elapsed_s() == pytest.approx(0.003)


def test_a_span_ends_when_an_exception_leaves_it(clock: Clock) -> None:
    timeline = Timeline(clock)

    def fail() -> None:
        with timeline.stage("upstream"):
            clock.pass_ms(5)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.pass_ms(5)
    assert timeline.spans()[0].duration_ns == 5_000_000


def test_a_span_left_open_counts_until_the_turn_settles(clock: Clock) -> None:
    timeline = Timeline(clock)
    timeline.stage("upstream")
    clock.pass_ms(3)
    assert timeline.spans()[0].duration_ns == 3_000_000
    timeline.settle()
    clock.pass_ms(100)
    assert timeline.spans()[0].duration_ns == 3_000_000


def test_a_detail_may_be_told_late_and_is_cut(clock: Clock) -> None:
    timeline = Timeline(clock)
    with timeline.stage("cache") as span:
        span.detail = "x" * 1000
    assert timeline.spans()[0].detail == "x" * DETAIL_CHARS


def test_a_nested_span_names_its_parent_by_position(clock: Clock) -> None:
    timeline = Timeline(clock)
    with timeline.stage("tools") as outer:
        clock.pass_ms(1)
        with timeline.stage("upstream", parent=outer):
            clock.pass_ms(1)
    assert [span.parent for span in timeline.spans()] == [-1, 0]


def test_marks_made_by_others_stand_in_order_of_their_start(clock: Clock) -> None:
    timeline = Timeline(clock)
    with timeline.stage("stream"):
        clock.pass_ms(9)
    timeline.mark("upstream", 0, 500, "connect")
    assert [span.stage for span in timeline.spans()] == ["upstream", "stream"]


def test_parallel_spans_of_a_stage_count_once(clock: Clock) -> None:
    timeline = Timeline(clock)
    zero = timeline.started_ns
    for start_ms, end_ms in ((0, 10), (2, 8), (5, 15), (20, 25)):
        timeline.mark("tools", zero + start_ms * 1_000_000, zero + end_ms * 1_000_000)
    assert timeline.stage_times_ns() == {"tools": 20_000_000}


def test_server_timing_is_the_standard_header_of_what_ran_so_far(clock: Clock) -> None:
    timeline = Timeline(clock)
    with timeline.stage("lanes"):
        clock.pass_ms(0.02)
    with timeline.stage("cache"):
        clock.pass_ms(0.31)
    timeline.stage("upstream")
    clock.pass_ms(480)
    assert timeline.server_timing() == (
        b"lanes;dur=0.02, cache;dur=0.31, upstream;dur=480.00, total;dur=480.33"
    )


def test_spans_beyond_the_limit_are_dropped_and_counted(clock: Clock) -> None:
    timeline = Timeline(clock)
    for _ in range(MAX_SPANS + 3):
        with timeline.stage("tools"):
            clock.pass_ms(1)
    assert len(timeline.spans()) == MAX_SPANS
    assert timeline.dropped == 3


intervals = st.lists(
    st.tuples(st.sampled_from(STAGES), st.integers(0, 10**9), st.integers(0, 10**9)), max_size=30
)


@given(intervals)
def test_no_stage_takes_longer_than_the_sum_of_its_spans(
    found: list[tuple[str, int, int]],
) -> None:
    timeline = Timeline(Clock())
    for stage, start, duration in sorted(found, key=lambda span: span[1]):
        timeline.mark(stage, start, start + duration)  # type: ignore[arg-type]
    times = timeline.stage_times_ns()
    for stage in {stage for stage, _, _ in found}:
        durations = [duration for name, _, duration in found if name == stage]
        assert max(durations) <= times[stage] <= sum(durations)  # type: ignore[index]
    entry = r"[a-z]+;dur=\d+\.\d\d"
    assert re.fullmatch(rf"{entry}(, {entry})*".encode(), timeline.server_timing())
