"""When a cron expression is due.

Five fields as in crontab(5): minute, hour, day of the month, month, day of the week (0 and 7 are
Sunday), each ``*``, numbers, ranges, steps (``*/5``, ``8-18/2``), lists, and English names of months
and days. Where both kinds of days are restricted, either is enough. ``@hourly``, ``@daily``,
``@weekly`` and ``@monthly`` stand for what they say.

Times are those of one zone's clock. What the clock skips in spring is left out; of an hour that it
repeats in autumn an expression that names the hour takes the first, any other takes both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_MINUTE_S = 60
_LONGEST_S = 8 * 366 * 86_400
"""Two leap days are eight years apart where a century lies between."""
_SUNDAY = 7
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_MONTHS = {
    name: number + 1
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
    )
}
_DAYS = {name: n for n, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
_SHORT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}
_PART = re.compile(r"(\*|[0-9a-z]+(?:-[0-9a-z]+)?)(?:/([0-9]{1,4}))?")


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression; see ``parse``."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    either_day: bool
    """A day of the month or of the week is enough."""
    names_hours: bool
    zone: ZoneInfo

    def next(self, after_unix_s: float) -> float:
        """The first moment after ``after_unix_s``; ``inf`` where there is none in eight years."""
        at_s = (int(after_unix_s) // _MINUTE_S + 1) * _MINUTE_S
        until_s = at_s + _LONGEST_S
        while at_s < until_s:
            local = datetime.fromtimestamp(at_s, self.zone)
            if not self._on(local):
                at_s += self._to_next_hour(local)
            elif local.hour not in self.hours:
                at_s += (60 - local.minute) * _MINUTE_S
            elif local.minute in self.minutes and not (self.names_hours and local.fold):
                return float(at_s)
            else:
                at_s += _MINUTE_S
        return float("inf")

    def latest(self, from_unix_s: float, now_unix_s: float) -> float | None:
        """The last moment after ``from_unix_s`` that is not after ``now_unix_s``; None: there is none."""
        found, at_s = None, self.next(from_unix_s)
        while at_s <= now_unix_s:
            found, at_s = at_s, self.next(at_s)
        return found

    def _to_next_hour(self, local: datetime) -> int:
        """Seconds to the next hour, or most of the way to the next month where this one is out."""
        if local.month not in self.months:
            ahead = (local.replace(day=1) + timedelta(days=32)).replace(day=1)
            days = (ahead.date() - local.date()).days - 1  # a day short: the clock may change
            if days > 0:
                return days * 86_400
        return (60 - local.minute) * _MINUTE_S

    def _on(self, local: datetime) -> bool:
        if local.month not in self.months:
            return False
        day = local.day in self.days
        weekday = local.isoweekday() % _SUNDAY in self.weekdays
        return day or weekday if self.either_day else day and weekday


def parse(expression: str, zone: str = "UTC") -> Cron:
    """Read an expression; raises ``ValueError`` that says what is wrong with it."""
    words = _SHORT.get(expression.strip().lower(), expression).lower().split()
    if len(words) != len(_FIELDS):
        message = f"has {len(words)} fields: minute hour day month weekday are five"
        raise ValueError(message)
    try:
        where = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError(f"there is no time zone {zone!r}") from exc
    minutes, hours, days, months, weekdays = map(_field, words, _FIELDS)
    cron = Cron(
        minutes=minutes,
        hours=hours,
        days=days,
        months=months,
        weekdays=frozenset(day % _SUNDAY for day in weekdays),
        either_day=not words[2].startswith("*") and not words[4].startswith("*"),
        names_hours=not words[1].startswith("*"),
        zone=where,
    )
    if cron.next(0) == float("inf"):
        raise ValueError("names a day that no month has")
    return cron


def _field(word: str, field: tuple[str, int, int]) -> frozenset[int]:
    name, low, high = field
    found: set[int] = set()
    for part in word.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is no {name}")
        span, step = match[1], int(match[2] or 1)
        if span == "*":
            first, last = low, high if name != "weekday" else _SUNDAY - 1
        else:
            begin, _, end = span.partition("-")
            first = _number(begin, name)
            last = _number(end, name) if end else (high if match[2] else first)
        if not low <= first <= last <= high or not step:
            raise ValueError(f"{part!r} is no {name} between {low} and {high}")
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _number(word: str, name: str) -> int:
    if word.isdecimal():
        return int(word)
    names = {"month": _MONTHS, "weekday": _DAYS}.get(name, {})
    if word[:3] not in names or len(word) > len("september"):
        raise ValueError(f"{word!r} is no {name}")
    return names[word[:3]]
