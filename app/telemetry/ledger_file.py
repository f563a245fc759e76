"""The ledger's SQLite file: latency, cost and savings of each turn, written by a thread.

Theory of operation. The event loop queues finished turns in batches (two appends each); a thread writes them
once a second in one transaction. Above ``MAX_ROWS_PER_S`` the turns of a batch, which differ only in their
figures, become one row with their sums and their number, so every total stays exact. The queue is bounded; a
full or slow disk loses rows, which are counted, and never delays a turn. Several workers write to one file;
the one that gets the lock at start restores the last day for ``GET /v1/savings``.
"""

from __future__ import annotations

import csv
import fcntl
import io
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic, time
from typing import IO, NamedTuple, cast

from app.domain.turn_record import TurnRecord
from app.telemetry.turn_batch import batch_of

MAX_ROWS_PER_S = 500
_QUEUE_BATCHES = 4_096
_INTERVAL_S = 1.0
_BUSY_TIMEOUT_S = 5.0
_PAGE_ROWS = 1_000
_DAY_S = 86_400
SCHEMA_VERSION = 1

_COLUMNS = (
    "started_unix_s", "request_id", "turns", "tenant", "dialect", "status", "code", "requested_model",
    "model", "provider", "tier", "cache", "cache_reason", "attempts", "input_tokens", "cached_tokens",
    "cache_write_tokens", "output_tokens", "total_s", "upstream_s", "cost_usd",
)  # fmt: skip
_TURNS = _COLUMNS.index("turns")
_Row = tuple[object, ...]
_SCHEMA = """
CREATE TABLE IF NOT EXISTS turns (
  started_unix_s REAL NOT NULL, request_id TEXT, turns INTEGER NOT NULL,
  tenant TEXT NOT NULL, dialect TEXT NOT NULL, status INTEGER NOT NULL, code TEXT NOT NULL,
  requested_model TEXT NOT NULL, model TEXT NOT NULL, provider TEXT NOT NULL, tier TEXT NOT NULL,
  cache TEXT NOT NULL, cache_reason TEXT NOT NULL, attempts INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL, total_s REAL NOT NULL, upstream_s REAL NOT NULL, cost_usd REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS turns_by_time ON turns (started_unix_s);
"""
_SAVED = ("saved_turns_{}", "saved_s_{}", "saved_usd_{}")
"""The three columns of a technique; a file that is older than the technique gets them added."""


class Saving(NamedTuple):
    """What one technique saved on turns of a batch, against the counterfactual of docs/metrics.md."""

    technique: str
    places: Sequence[int]
    """Which turns of the batch."""
    seconds: Sequence[float]
    usd: Sequence[float]


class MinuteSums(NamedTuple):
    """The totals of one minute."""

    minute: int
    turns: int
    seconds: float
    usd: float
    saved: dict[str, tuple[int, float, float]]
    """By technique: turns, seconds, USD."""


class LedgerFile:
    """The ledger file of one data folder; ``add`` never waits and never raises."""

    def __init__(
        self,
        path: Path,
        techniques: Sequence[str],
        *,
        keep_days: int,
        on_lost: Callable[[int], None],
        on_fault: Callable[[str | None], None],
        clock: Callable[[], float] = time,
    ) -> None:
        """``techniques`` are the names of the techniques, each an identifier. ``on_lost`` is called with the
        number of turns that got no row, ``on_fault`` with the reason, and with None once rows can be written
        again; both in the writer's thread.
        """
        self._path, self._keep_days, self._clock = path, keep_days, clock
        self._on_lost, self._on_fault = on_lost, on_fault
        self._failed = False
        self._techniques = tuple(techniques)
        saved = [column.format(name) for name in techniques for column in _SAVED]
        self._columns = (*_COLUMNS, *saved)
        self._insert, self._insert_plain = _insert(self._columns), _insert(_COLUMNS)
        self._queue: deque[tuple[Sequence[TurnRecord], list[Saving]]] = deque()
        self._stopping = threading.Event()
        self._lock: IO[str] | None = None
        self._thread = threading.Thread(target=self._run, name="slipstream-ledger", daemon=True)
        self._allowance, self._allowed_at_s = float(MAX_ROWS_PER_S), monotonic()

    def start(self) -> list[MinuteSums]:
        """Open the file, start writing, and return the last day's minutes if this is the file's first writer.

        A file of another version or format is moved aside, and that is reported; a folder that is not
        writable loses rows and does not keep the gateway from starting.
        """
        minutes: list[MinuteSums] = []
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._set_aside_invalid_file()
            with closing(self._connect()) as connection:
                self._make(connection)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                if self._is_first():
                    self._forget_old(connection)
                    minutes = self._last_day(connection)
        except (sqlite3.Error, OSError) as exc:
            self._on_fault(f"the ledger {self._path.name} cannot be used: {exc}")
        self._thread.start()
        return minutes

    def add(self, turns: Sequence[TurnRecord], savings: list[Saving]) -> None:
        """Queue finished turns of one kind with their savings."""
        if len(self._queue) >= _QUEUE_BATCHES:
            self._on_lost(len(turns))
            return
        self._queue.append((turns, savings))

    def close(self) -> None:
        """Write what is left and end the thread; idempotent."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * _BUSY_TIMEOUT_S)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def as_csv(self, since_unix_s: float, until_unix_s: float, tenant: str | None) -> Iterator[str]:
        """The rows of a time as CSV, header first, in pieces; reads the file, so not in the event loop.

        A row without a request id stands for as many turns as its column ``turns`` says.
        """
        query = (
            f"SELECT {', '.join(self._columns)} FROM turns "  # noqa: S608 - our own names
            "WHERE started_unix_s >= ? AND started_unix_s < ? AND (? IS NULL OR tenant = ?) "
            "ORDER BY started_unix_s"
        )
        with closing(self._connect()) as connection:
            cursor = connection.execute(query, (since_unix_s, until_unix_s, tenant, tenant))
            yield _csv([self._columns])
            while rows := cursor.fetchmany(_PAGE_ROWS):
                yield _csv(rows)

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL_S):
            self._write()
        self._write()

    def _write(self) -> None:
        rows: list[_Row] = []
        plain: list[_Row] = []
        count = 0
        while self._queue:
            turns, savings = self._queue.popleft()
            count += len(turns)
            if not self._may_write(len(turns)):
                rows.append(self._sum(turns, savings))
            elif savings:
                rows += self._rows(turns, savings)
            else:  # the other columns are 0 by themselves
                plain += map(_plain, turns)
        if not count:
            return
        try:
            with closing(self._connect()) as connection:
                try:
                    with connection:
                        connection.executemany(self._insert_plain, plain)
                        connection.executemany(self._insert, rows)
                except (OverflowError, UnicodeError):
                    with connection:
                        self._write_each(connection, plain, rows)
            if self._failed:
                self._failed = False
                self._on_fault(None)
        except (sqlite3.Error, OSError) as exc:
            self._failed = True
            self._on_lost(count)
            self._on_fault(f"{count} turns could not be written to {self._path.name}: {exc}")

    def _write_each(
        self, connection: sqlite3.Connection, plain: list[_Row], rows: list[_Row]
    ) -> None:
        """One row by one: those with a number or a text that SQLite cannot hold are lost, and no other."""
        for insert, row in (
            *((self._insert_plain, row) for row in plain),
            *((self._insert, row) for row in rows),
        ):
            try:
                connection.execute(insert, row)
            except (OverflowError, UnicodeError):
                self._on_lost(cast("int", row[_TURNS]))

    def _rows(self, turns: Sequence[TurnRecord], savings: Sequence[Saving]) -> list[_Row]:
        """A row for each turn."""
        nothing = [0.0] * (len(_SAVED) * len(self._techniques))
        saved = [nothing] * len(turns)
        for saving in savings:
            at = len(_SAVED) * self._techniques.index(saving.technique)
            for place, seconds, usd in zip(saving.places, saving.seconds, saving.usd, strict=True):
                mine = saved[place] = [*saved[place]]
                mine[at] += 1
                mine[at + 1] += seconds
                mine[at + 2] += usd
        return [(*_plain(turn), *mine) for turn, mine in zip(turns, saved, strict=True)]

    def _sum(self, turns: Sequence[TurnRecord], savings: Sequence[Saving]) -> _Row:
        """One row for turns of one kind: their sums, no request's id."""
        saved = [0.0] * (len(_SAVED) * len(self._techniques))
        for saving in savings:
            at = len(_SAVED) * self._techniques.index(saving.technique)
            saved[at] += len(saving.places)
            saved[at + 1] += sum(saving.seconds)
            saved[at + 2] += sum(saving.usd)
        first, of = turns[0], batch_of(turns).columns
        return (
            *_plain(first)[:1], None, len(turns), *_plain(first)[3 : _COLUMNS.index("attempts")],
            first.attempts * len(turns),
            *map(sum, of.tokens),
            sum(of.total_s), sum(of.upstream_s), sum(of.cost_usd), *saved,
        )  # fmt: skip

    def _make(self, connection: sqlite3.Connection) -> None:
        """The tables; columns of techniques that the file does not know yet are added."""
        connection.executescript(_SCHEMA)
        known = {row[1] for row in connection.execute("PRAGMA table_info(turns)")}
        for column in self._columns:
            if column not in known:
                connection.execute(f"ALTER TABLE turns ADD COLUMN {column} REAL NOT NULL DEFAULT 0")

    def _may_write(self, rows: int) -> bool:
        """Whether each of ``rows`` turns may have a row of its own: a token bucket of one second."""
        now_s = monotonic()
        grown = self._allowance + (now_s - self._allowed_at_s) * MAX_ROWS_PER_S
        self._allowance, self._allowed_at_s = min(float(MAX_ROWS_PER_S), grown), now_s
        if self._allowance < rows:
            return False
        self._allowance -= rows
        return True

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error:
            # A connection is part of a cycle: left alone it holds three files until the collector comes.
            connection.close()
            raise
        return connection

    def _set_aside_invalid_file(self) -> None:
        if not self._path.exists():
            return
        try:
            with closing(sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S)) as connection:
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.DatabaseError:
            version = -1
        if version in {0, SCHEMA_VERSION}:
            return
        aside = self._path.with_suffix(f".aside-{int(self._clock())}")
        self._path.rename(aside)
        self._on_fault(
            f"{self._path.name} is no ledger of this version; it was put aside as {aside.name}"
        )

    def _is_first(self) -> bool:
        """Whether no other process holds the lock: the workers of a server must not all bring it back."""
        lock = self._path.with_suffix(".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        self._lock = lock
        return True

    def _forget_old(self, connection: sqlite3.Connection) -> None:
        before = self._clock() - self._keep_days * _DAY_S
        with connection:
            connection.execute("DELETE FROM turns WHERE started_unix_s < ?", (before,))

    def _last_day(self, connection: sqlite3.Connection) -> list[MinuteSums]:
        since = self._clock() - _DAY_S
        sums = ", ".join(f"sum({column})" for column in self._columns[len(_COLUMNS) :])
        query = (
            "SELECT CAST(started_unix_s / 60 AS INTEGER), sum(turns), sum(total_s), sum(cost_usd), "  # noqa: S608
            f"{sums} FROM turns WHERE started_unix_s >= ? GROUP BY 1 ORDER BY 1"
        )
        width = len(_SAVED)
        return [
            MinuteSums(
                row[0],
                row[1],
                row[2],
                row[3],
                {
                    name: (int(row[4 + width * at]), row[5 + width * at], row[6 + width * at])
                    for at, name in enumerate(self._techniques)
                    if row[4 + width * at]
                },
            )
            for row in connection.execute(query, (since,))
        ]


def _insert(columns: Sequence[str]) -> str:
    return f"INSERT INTO turns ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608


def _plain(turn: TurnRecord) -> _Row:
    usage = turn.usage
    tokens = (0, 0, 0, 0)
    if usage is not None:
        tokens = (
            usage.input_tokens, usage.cached_tokens, usage.cache_write_tokens, usage.output_tokens,
        )  # fmt: skip
    return (
        turn.started_unix_s, turn.request_id, 1, turn.tenant, turn.dialect, turn.status, turn.code,
        turn.requested_model, turn.model, turn.provider, turn.tier, turn.cache, turn.cache_reason,
        turn.attempts, *tokens, turn.total_s, turn.upstream_s, turn.cost_usd,
    )  # fmt: skip


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()
