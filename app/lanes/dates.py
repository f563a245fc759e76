"""Calendar questions that need no clock: differences, weekdays, leap years, Unix times.

Anything relative to "today" is declined: it needs the asker's clock and zone. "03/04/2024" is
declined too, as it is read differently in different places, and so are days before the Gregorian
calendar held in all of the English-speaking world: of those the history books tell another weekday.
"""

from __future__ import annotations

import datetime as dt

from app.lanes.rules import Case, Groups, Rule

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_REFORMED = dt.date(1752, 9, 14)
_MAX_DAYS = 1_000_000
_MAX_UNIX_S = 253_402_300_799  # the end of the year 9999
_MS_FROM = 100_000_000_000  # a larger Unix time is read as milliseconds (seconds pass this in 5138)

_MONTH = "|".join(f"{name[:3]}(?:{name[3:]})?" if name[3:] else name for name in _MONTHS)
_DATE = (
    rf"\d{{4}}-\d{{1,2}}-\d{{1,2}}|\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?(?:{_MONTH})\s+\d{{4}}"
    rf"|(?:{_MONTH})\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+\d{{4}}"
)


def parse_date(text: str) -> dt.date | None:
    """Read "2024-03-05", "5 March 2024", "5th of March 2024" or "March 5, 2024"; None when no
    date.
    """
    words = text.lower().replace(",", " ").replace(" of ", " ").split()
    try:
        if len(words) == 1:
            year, month, day = (int(part) for part in words[0].split("-"))
            return dt.date(year, month, day)
        day_word, month_word = (
            (words[0], words[1]) if words[0][0].isdigit() else (words[1], words[0])
        )
        month = next(at for at, name in enumerate(_MONTHS, 1) if name.startswith(month_word[:3]))
        return dt.date(int(words[2]), month, int(day_word.rstrip("stndrh")))
    except (ValueError, IndexError, StopIteration):
        return None


def _parse_written_date(text: str) -> dt.date | None:
    date = parse_date(text)
    return None if date is None or date < _REFORMED else date


def _weekday(groups: Groups) -> str | None:
    date = _parse_written_date(groups["date"])
    return None if date is None else f"{date:%Y-%m-%d} is a {date:%A}."


def _between(groups: Groups) -> str | None:
    first, second = _parse_written_date(groups["first"]), _parse_written_date(groups["second"])
    if first is None or second is None:
        return None
    days = abs((second - first).days)
    return f"{days} day{'' if days == 1 else 's'} from {first:%Y-%m-%d} to {second:%Y-%m-%d}."


def _shifted(groups: Groups) -> str | None:
    date = _parse_written_date(groups["date"])
    days = int(groups["count"]) * (7 if groups["unit"].lower().startswith("week") else 1)
    if date is None or days > _MAX_DAYS:
        return None
    later = groups["side"].lower() in {"after", "from"}
    try:
        result = date + dt.timedelta(days=days if later else -days)
    except OverflowError:
        return None
    return None if result < _REFORMED else f"{result:%Y-%m-%d} ({result:%A})"


def _leap(groups: Groups) -> str | None:
    year = int(groups["year"])
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    calendar = "" if year > _REFORMED.year else " in the Gregorian calendar"
    return f"{'Yes' if leap else 'No'}, {year} is {'' if leap else 'not '}a leap year{calendar}."


def _unix(groups: Groups) -> str | None:
    stamp = int(groups["stamp"])
    seconds = stamp / 1000 if stamp >= _MS_FROM else stamp
    if seconds > _MAX_UNIX_S:
        return None
    when = dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
    return f"{when.isoformat().replace('+00:00', 'Z')} (UTC)"


DATE_RULES = (
    Rule(
        "weekday",
        rf"(?:what|which)\s+(?:day(?:\s+of\s+the\s+week)?|weekday)\s+(?:is|was|will\s+be)(?:\s+it\s+on)?"
        rf"\s+(?P<date>{_DATE})\s*\??",
        _weekday,
        (
            Case("What day of the week was 2024-03-05?", "2024-03-05 is a Tuesday."),
            Case("what day was 30 February 2024?", None),
            Case("What day is today?", None),
        ),
    ),
    Rule(
        "days_between",
        rf"how\s+many\s+days\s+(?:are\s+)?(?:there\s+)?(?:between|from)\s+(?P<first>{_DATE})"
        rf"\s+(?:and|to|until)\s+(?P<second>{_DATE})\s*\??",
        _between,
        (
            Case(
                "How many days are there between 2024-01-05 and March 1, 2024?",
                "56 days from 2024-01-05 to 2024-03-01.",
            ),
            Case("How many days between now and 2024-01-05?", None),
        ),
    ),
    Rule(
        "date_shift",
        rf"(?:what\s+(?:date\s+)?(?:is|was)\s+)?(?P<count>\d{{1,6}})\s+(?P<unit>days?|weeks?)"
        rf"\s+(?P<side>after|before|from)\s+(?P<date>{_DATE})\s*\??",
        _shifted,
        (
            Case("What date is 30 days after 2024-01-31?", "2024-03-01 (Friday)"),
            Case("30 days from now", None),
        ),
    ),
    Rule(
        "leap_year",
        r"(?:is|was|will)\s+(?P<year>[1-9]\d{3})\s+(?:be\s+)?a\s+leap\s+year\s*\??",
        _leap,
        (
            Case("Is 1900 a leap year?", "No, 1900 is not a leap year."),
            Case("is 2024 a leap year", "Yes, 2024 is a leap year."),
        ),
    ),
    Rule(
        "unix_time",
        r"(?:convert\s+)?(?:the\s+)?(?:unix|epoch)\s+(?:time|timestamp)\s+(?P<stamp>\d{9,15})"
        r"(?:\s+(?:to|into|as|in)\s+(?:a\s+)?(?:date|utc|iso|human\s+readable(?:\s+date)?))?\s*\??",
        _unix,
        (Case("convert unix timestamp 1700000000 to date", "2023-11-14T22:13:20Z (UTC)"),),
    ),
)
"""Weekday, difference, shift, leap year, Unix time."""
