"""Read a trace: the ledger's file or CSV, the JSON of ``GET /v1/traces``, or lines of arrivals and prompts.

The whole file is judged before anything is computed; what is wrong is said as ``file:line: what``.
A ledger is opened for reading only, so that a running gateway's own can be given.
"""

from __future__ import annotations

import csv
import json
import math
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from app.domain.chat import ChatRequest, Dialect
from app.domain.decisions import Tier
from app.domain.models import AUTO
from app.domain.usage import Usage
from app.whatif.traffic import Arrival, Recorded, TraceError, Traffic
from app.wire.codecs import CODECS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

MOST_REQUESTS = 1_000_000
_MOST_PROBLEMS = 20
_OK = 200
_COLUMNS = (
    "started_unix_s", "turns", "tenant", "status", "code", "requested_model", "model", "tier", "cache",
    "attempts", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "total_s",
    "cost_usd",
)  # fmt: skip
_LINE_FIELDS = frozenset(
    {
        "at_s", "prompt", "messages", "model", "user", "tenant", "max_tokens", "answered_by", "tier",
        "cache", "total_s", "input_tokens", "output_tokens", "cost_usd",
    }
)  # fmt: skip
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


class _WrongError(Exception):
    """What is wrong with one row."""


def read_trace(path: Path) -> Traffic:
    """The trace in ``path``. Raises ``TraceError`` with all that is wrong, and ``OSError``."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"SQLite format 3\0"):
        return _rows(path, "ledger", _from_sqlite(path))
    if head.startswith(b"started_unix_s,"):
        return _rows(path, "ledger", _from_csv(path))
    traces = _traces(path, head)
    if traces is not None:
        return _gathered(path, "traces", ((place, 1, row) for place, row in traces), _of_trace)
    return _gathered(path, "prompts", _from_lines(path), _of_line)


def _rows(path: Path, kind: str, rows: Iterator[tuple[str, int, object]]) -> Traffic:
    return _gathered(path, kind, rows, _of_row)


def _gathered(
    path: Path, kind: str, rows: Iterable[tuple[str, int, object]], reader: _Reader
) -> Traffic:
    """All rows as arrivals, oldest first; raises with what is wrong in them."""
    arrivals: list[Arrival] = []
    problems: list[str] = []
    failed = summed = 0
    for place, _, row in rows:
        try:
            fields = _object(row)
            turns = max(1, int(_number(fields, "turns", 1.0)))
            arrival = reader(place, fields)
        except _WrongError as exc:
            problems.append(f"{place}: {exc}")
            if len(problems) >= _MOST_PROBLEMS:
                break
            continue
        if arrival is None:
            failed += turns
            continue
        arrivals += [arrival] * turns
        summed += turns if turns > 1 else 0
        if len(arrivals) > MOST_REQUESTS:
            raise TraceError([f"{place}: more than {MOST_REQUESTS:,} requests; give a part of it"])
    if problems:
        raise TraceError(problems)
    if not arrivals:
        raise TraceError([f"{path}:1: holds no answered request"])
    arrivals.sort(key=lambda arrival: arrival.at_s)
    return Traffic(str(path), kind, tuple(arrivals), failed, summed)


def _from_sqlite(path: Path) -> Iterator[tuple[str, int, object]]:
    query = f"SELECT rowid, {', '.join(_COLUMNS)} FROM turns ORDER BY started_unix_s"  # noqa: S608
    try:
        address = path.resolve().as_uri() + "?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=5.0)) as book:
            for number, *values in book.execute(query):
                yield f"{path}:{number}", number, dict(zip(_COLUMNS, values, strict=True))
    except sqlite3.Error as exc:
        raise TraceError([f"{path}:1: is no ledger of this gateway: {exc}"]) from exc


def _from_csv(path: Path) -> Iterator[tuple[str, int, object]]:
    with path.open(encoding="utf-8", newline="") as text:
        rows = csv.DictReader(text)
        lacking = sorted(set(_COLUMNS) - set(rows.fieldnames or ()))
        if lacking:
            raise TraceError([f"{path}:1: lacks the columns {', '.join(lacking)}"])
        try:
            for row in rows:
                yield f"{path}:{rows.line_num}", rows.line_num, row
        except (csv.Error, UnicodeDecodeError) as exc:
            raise TraceError([f"{path}:{rows.line_num}: is no CSV: {exc}"]) from exc


def _traces(path: Path, head: bytes) -> list[tuple[str, object]] | None:
    """The traces of a JSON file, each with its place; None where the file is not one JSON of traces."""
    start = head.lstrip()[:1]
    if start == b"{" and b'"traces"' not in head.split(b":", 1)[0]:
        return None
    if start not in (b"{", b"["):
        return None
    try:
        told = json.loads(path.read_bytes())
    except ValueError as exc:
        line = exc.lineno if isinstance(exc, json.JSONDecodeError) else 1
        raise TraceError([f"{path}:{line}: no JSON: {exc}"]) from exc
    rows = told.get("traces") if isinstance(told, dict) else told
    if not isinstance(rows, list):
        raise TraceError([f"{path}:1: traces is not a list"])
    return [(f"{path}:1: traces[{at}]", row) for at, row in enumerate(rows)]


def _from_lines(path: Path) -> Iterator[tuple[str, int, object]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield f"{path}:{number}", number, json.loads(line)
            except (ValueError, RecursionError) as exc:
                raise TraceError([f"{path}:{number}: no JSON: {exc}"]) from exc


def _of_row(place: str, row: Mapping[str, object]) -> Arrival | None:
    """A row of the ledger; a summed one gives the mean of its turns. None: it was not answered."""
    turns = max(1, int(_number(row, "turns")))
    if _number(row, "status") != _OK or _text(row, "code"):
        return None
    requested = _text(row, "requested_model")
    recorded = Recorded(
        model=_text(row, "model"),
        tier=_text(row, "tier"),
        cache=_text(row, "cache"),
        total_s=_number(row, "total_s") / turns,
        usage=_usage(row, turns),
        cost_usd=_number(row, "cost_usd") / turns,
        may_move=requested == AUTO,
    )
    at_s = _number(row, "started_unix_s")
    return Arrival(at_s, place, requested, _text(row, "tenant") or "default", recorded=recorded)


def _of_trace(place: str, row: Mapping[str, object]) -> Arrival | None:
    if _number(row, "status") != _OK or _text(row, "code"):
        return None
    cache, usage = row.get("cache"), row.get("usage")
    requested = _text(row, "requested_model")
    recorded = Recorded(
        model=_text(row, "model"),
        tier=_text(row, "tier"),
        cache=_text(cache, "outcome") if isinstance(cache, dict) else "",
        total_s=_number(row, "total_ms") / 1e3,
        usage=_usage(usage if isinstance(usage, dict) else {}, 1),
        cost_usd=_number(row, "cost_usd", 0.0),
        score=None if row.get("complexity") is None else _number(row, "complexity"),
        may_move=requested == AUTO and row.get("routed") is not False,
    )
    at_s = _number(row, "started_unix_s")
    return Arrival(at_s, place, requested, _text(row, "tenant") or "default", recorded=recorded)


def _of_line(place: str, row: Mapping[str, object]) -> Arrival | None:
    """An arrival with its prompt, and with what became of it where that is told."""
    if unknown := sorted(set(row) - _LINE_FIELDS):
        raise _WrongError(
            f"unknown field {unknown[0][:40]!r}: known are {', '.join(sorted(_LINE_FIELDS))}"
        )
    requested = _text(row, "model") or AUTO
    if requested.startswith("agent/"):
        raise _WrongError("agents' runs cannot be replayed: their model calls can")
    body: dict[str, object] = {"model": requested, "messages": _messages(row)}
    if "max_tokens" in row:
        body["max_tokens"] = int(_number(row, "max_tokens"))
    return Arrival(
        at_s=_number(row, "at_s"),
        place=place,
        requested=requested,
        tenant=_text(row, "tenant") or "default",
        user=_text(row, "user"),
        request=ChatRequest(Dialect.CHAT, requested, stream=False, body=body, raw=b""),
        view=CODECS[Dialect.CHAT].view(body),
        recorded=_told(row),
    )


def _told(row: Mapping[str, object]) -> Recorded | None:
    if "total_s" not in row:
        return None
    tier = _text(row, "tier")
    if tier and tier not in set(Tier):
        raise _WrongError(f"tier {tier[:20]!r} is neither fast nor powerful")
    return Recorded(
        model=_text(row, "answered_by"),
        tier=tier,
        cache=_text(row, "cache"),
        total_s=_number(row, "total_s"),
        usage=_usage(row, 1),
        cost_usd=_number(row, "cost_usd", 0.0),
    )


def _messages(row: Mapping[str, object]) -> list[object]:
    prompt, messages = row.get("prompt"), row.get("messages")
    if (prompt is None) == (messages is None):
        raise _WrongError("give prompt or messages, one of them")
    if prompt is not None:
        if not isinstance(prompt, str) or not prompt.strip():
            raise _WrongError("prompt is not a text, or is empty")
        return [{"role": "user", "content": prompt}]
    if not isinstance(messages, list) or not messages:
        raise _WrongError("messages is not a list, or is empty")
    for at, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise _WrongError(f"messages[{at}] is no message with a role")
    return messages


def _usage(row: Mapping[str, object], turns: int) -> Usage:
    names = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens")
    return Usage(*(int(_number(row, name, 0.0) / turns) for name in names))


def _number(row: Mapping[str, object], name: str, default: float | None = None) -> float:
    value = row.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise _WrongError(f"{name} {str(value)[:20]!r} is no number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _WrongError(f"{name} is missing" if value is None else f"{name} is no number")
    if not math.isfinite(value) or value < 0:
        raise _WrongError(f"{name} {value} is not 0 or more")
    return float(value)


def _object(row: object) -> Mapping[str, object]:
    if not isinstance(row, dict):
        raise _WrongError("not an object")
    return row


def _text(row: Mapping[str, object], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _WrongError(f"{name} is not a text")
    return value


if TYPE_CHECKING:
    from collections.abc import Callable

    _Reader = Callable[[str, Mapping[str, object]], Arrival | None]
