"""Cron expressions are due when crontab(5) says so."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from app.domain.cron import parse


def unix(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("expression", "after", "due"),
    [
        ("*/15 * * * *", "2026-01-01T00:00:00", "2026-01-01T00:15:00"),
        ("0 9 * * mon-fri", "2026-11-20T09:00:00", "2026-11-23T09:00:00"),
        ("30 4 1,15 * 5", "2026-11-02T00:00:00", "2026-11-06T04:30:00"),
        ("0 0 29 feb *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
        ("@weekly", "2026-11-20T09:00:00", "2026-11-22T00:00:00"),
        ("0 0 * * 7", "2026-11-20T09:00:00", "2026-11-22T00:00:00"),
    ],
)
def test_the_next_moment(expression: str, after: str, due: str) -> None:
    assert parse(expression).next(unix(after)) == unix(due)


@pytest.mark.parametrize(
    "expression",
    ["", "* * * *", "60 * * * *", "* * 0 * *", "0 0 30 2 *", "a * * * *", "*/0 * * * *"],
)
def test_what_is_none_is_refused_in_words(expression: str) -> None:
    with pytest.raises(ValueError, match=r"fields|is no|no month"):
        parse(expression)


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        parse("* * * * *", "Atlantis/Capital")


def test_a_named_hour_that_the_clock_repeats_is_due_once_and_a_skipped_one_not_at_all() -> None:
    daily = parse("30 2 * * *", "Europe/Berlin")
    first = daily.next(unix("2026-10-25T00:00:00", "Europe/Berlin"))
    assert daily.next(first) == unix("2026-10-26T02:30:00", "Europe/Berlin")
    assert daily.next(unix("2026-03-28T12:00:00", "Europe/Berlin")) == unix(
        "2026-03-30T02:30:00", "Europe/Berlin"
    )


def test_every_minute_goes_on_through_an_hour_that_is_repeated() -> None:
    each = parse("*/30 * * * *", "Europe/Berlin")
    at = unix("2026-10-25T01:59:00", "Europe/Berlin")
    found = []
    for _ in range(5):
        at = each.next(at)
        found.append(at)
    assert [b - a for a, b in pairwise(found)] == [1800.0] * 4


numbers = st.one_of(st.just("*"), st.integers(1, 12).map(str), st.just("*/5"), st.just("2-11/3"))


@given(
    st.tuples(numbers, numbers, numbers, numbers, st.sampled_from(["*", "1", "1-5", "0,6"])),
    st.integers(1_700_000_000, 1_900_000_000),
)
def test_it_agrees_with_croniter(words: tuple[str, ...], after: int) -> None:
    expression = " ".join(words)
    start = datetime.fromtimestamp(after, UTC)
    starred_step = "*/5" in (words[2], words[4])
    if starred_step and words[2] != "*" and words[4] != "*":
        return  # croniter takes `*/5` for a restriction of the day; crontab(5) does not
    assert parse(expression).next(after) == croniter(expression, start).get_next(float)


def test_the_latest_of_several_that_were_missed() -> None:
    hourly = parse("0 * * * *")
    start = unix("2026-11-20T09:30:00")
    assert hourly.latest(start, start + 4 * 3600) == unix("2026-11-20T13:00:00")
    assert hourly.latest(start, start + 60) is None
