"""Jobs on disk: what was asked, how it stands, which steps are finished, what was told.

One SQLite file that all workers of a host share. A worker holds a lock on a file of its own for as
long as it lives; the kernel lets go of it when the worker dies in any way, so the jobs of a dead
worker are known at once and those of a slow one are never taken from it: there is no lease that
could run out. Every method blocks: call them from a thread of their own. Written through to the
disk before they return (``synchronous=FULL``), for a step that counts as begun must stay begun.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_BUSY_S = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  id TEXT PRIMARY KEY, tenant TEXT NOT NULL, idempotency TEXT, body BLOB NOT NULL,
  agent TEXT NOT NULL, tools TEXT, priority INTEGER NOT NULL, state TEXT NOT NULL,
  due REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0,
  owner TEXT, cancel INTEGER NOT NULL DEFAULT 0, code TEXT NOT NULL DEFAULT '',
  message TEXT NOT NULL DEFAULT '', created REAL NOT NULL, ended REAL,
  UNIQUE (tenant, idempotency));
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (state, priority DESC, due);
CREATE TABLE IF NOT EXISTS steps (
  job TEXT NOT NULL, step TEXT NOT NULL, outcome BLOB, PRIMARY KEY (job, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
  job TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL,
  PRIMARY KEY (job, seq)) WITHOUT ROWID;
"""
_COLUMNS = (
    "id, tenant, body, agent, tools, priority, state, due, attempts, crashes, cancel, code,"
    " message, created, ended"
)

_WAITING = (
    "owner = NULL, attempts = attempts - 1, ended = CASE cancel WHEN 1 THEN ? END,"
    " state = CASE cancel WHEN 1 THEN 'cancelled' ELSE 'queued' END"
)
"""A running job waits again, or is over where it was cancelled."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands. Times are Unix seconds."""

    id: str
    tenant: str
    body: bytes
    agent: str
    tools: str | None
    """Names of the tools that its caller may use, by line; None: all."""
    priority: int
    state: str
    """``queued``, ``running``, ``finished``, ``cancelled`` or ``dead``."""
    due: float
    attempts: int
    crashes: int
    cancel: int
    code: str
    message: str
    created: float
    ended: float | None


class JobStore:
    """The file; see the module. Close it where it was opened."""

    def __init__(self, folder: Path) -> None:
        """Open or make it, readable by this user alone."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._db = sqlite3.connect(
            folder / "jobs.sqlite", timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        (folder / "jobs.sqlite").chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        self.owner = uuid.uuid4().hex
        self._lock = os.open(self._lock_path(self.owner), os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _lock_path(self, owner: str) -> Path:
        return self._folder / f"{owner}.worker"

    def close(self) -> None:
        """Close it and let go of the lock."""
        self._db.close()
        self._lock_path(self.owner).unlink(missing_ok=True)
        os.close(self._lock)

    def add(self, job: Job, idempotency: str | None) -> tuple[Job, bool]:
        """Keep a new job, or give the one that came with the same key; True: it is new."""
        added = self._db.execute(
            "INSERT OR IGNORE INTO jobs (id, tenant, idempotency, body, agent, tools, priority,"
            " state, due, created) VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?)",
            (
                *(job.id, job.tenant, idempotency, job.body, job.agent, job.tools, job.priority),
                *(job.due, job.created),
            ),
        )
        if added.rowcount:
            return job, True
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM jobs WHERE tenant = ? AND idempotency = ?",  # noqa: S608 - constant
            (job.tenant, idempotency),
        ).fetchone()
        return Job(*row), False

    def find(self, tenant: str, job_id: str) -> Job | None:
        """A tenant's job."""
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM jobs WHERE id = ? AND tenant = ?",  # noqa: S608 - constant
            (job_id, tenant),
        ).fetchone()
        return None if row is None else Job(*row)

    def claim(self, now: float, per_tenant: int) -> Job | None:
        """Take the most urgent job that is due and whose tenant has fewer than ``per_tenant`` running."""
        row = self._db.execute(
            "UPDATE jobs SET state = 'running', owner = ?, attempts = attempts + 1 WHERE id ="  # noqa: S608 - constant
            " (SELECT id FROM jobs AS each WHERE state = 'queued' AND due <= ? AND"
            " (SELECT count(*) FROM jobs WHERE state = 'running' AND tenant = each.tenant) < ?"
            f" ORDER BY priority DESC, due LIMIT 1) RETURNING {_COLUMNS}",
            (self.owner, now, per_tenant),
        ).fetchall()
        return Job(*row[0]) if row else None

    def next_due(self) -> float | None:
        """When the next waiting job is due."""
        found: float | None = self._db.execute(
            "SELECT min(due) FROM jobs WHERE state = 'queued'"
        ).fetchone()[0]
        return found

    def adopt(self, most_crashes: int) -> int:
        """Queue the jobs of workers that are dead; those that killed too many of them are dead too."""
        owners = self._db.execute(
            "SELECT DISTINCT owner FROM jobs WHERE state = 'running' AND owner != ?", (self.owner,)
        ).fetchall()
        return sum(self._adopt_from(owner, most_crashes) for (owner,) in owners)

    def _adopt_from(self, owner: str, most_crashes: int) -> int:
        path = self._lock_path(owner)
        try:
            lock = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            lock = None
        try:
            if lock is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._db.execute(
                "UPDATE jobs SET state = 'dead', code = 'worker_lost', ended = ?, owner = NULL,"
                " message = 'its worker died each time it ran'"
                " WHERE state = 'running' AND owner = ? AND crashes >= ?",
                (time.time(), owner, most_crashes),
            )
            found = self._db.execute(
                f"UPDATE jobs SET {_WAITING}, crashes = crashes + 1"  # noqa: S608 - constant
                " WHERE state = 'running' AND owner = ?",
                (time.time(), owner),
            ).rowcount
            path.unlink(missing_ok=True)
        except BlockingIOError:  # it lives
            return 0
        finally:
            if lock is not None:
                os.close(lock)
        return found

    def settle(self, job_id: str, state: str, code: str, message: str, due: float) -> None:
        """The attempt is over: the job is, or it is due again at ``due``."""
        self._db.execute(
            "UPDATE jobs SET state = ?, code = ?, message = ?, due = ?, owner = NULL, ended = ?"
            " WHERE id = ?",
            (state, code, message, due, None if state == "queued" else time.time(), job_id),
        )

    def give_back(self, job_id: str) -> None:
        """Queue a job whose attempt was stopped with its worker: that was no attempt."""
        self._db.execute(
            f"UPDATE jobs SET {_WAITING} WHERE id = ?",  # noqa: S608 - constant
            (time.time(), job_id),
        )

    def cancel(self, tenant: str, job_id: str) -> None:
        """End a waiting job; mark a running one for its worker to end."""
        self._db.execute(
            "UPDATE jobs SET cancel = 1, ended = CASE state WHEN 'queued' THEN ? END, state ="
            " CASE state WHEN 'queued' THEN 'cancelled' ELSE state END"
            " WHERE id = ? AND tenant = ? AND state IN ('queued', 'running')",
            (time.time(), job_id, tenant),
        )

    def cancelled(self) -> list[str]:
        """Own running jobs that somebody has cancelled."""
        rows = self._db.execute(
            "SELECT id FROM jobs WHERE state = 'running' AND cancel = 1 AND owner = ?",
            (self.owner,),
        )
        return [row[0] for row in rows]

    def steps(self, job_id: str) -> dict[str, bytes | None]:
        """Each step that was begun, with its outcome where it was finished."""
        rows = self._db.execute("SELECT step, outcome FROM steps WHERE job = ?", (job_id,))
        return dict(rows.fetchall())

    def begin(self, job_id: str, step: str) -> None:
        """A step is about to be run."""
        self._db.execute("INSERT OR IGNORE INTO steps VALUES (?, ?, NULL)", (job_id, step))

    def finish(self, job_id: str, step: str, outcome: bytes) -> None:
        """A step has been run: never again."""
        self._db.execute("INSERT OR REPLACE INTO steps VALUES (?, ?, ?)", (job_id, step, outcome))

    def tell(self, job_id: str, events: Iterable[tuple[int, str, str]]) -> None:
        """Keep events: number, kind and JSON text."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?)", [(job_id, *event) for event in events]
        )
        self._db.execute("COMMIT")

    def told(self, job_id: str, after: int = 0) -> list[tuple[int, str, str]]:
        """The events behind number ``after``."""
        return self._db.execute(
            "SELECT seq, kind, data FROM events WHERE job = ? AND seq > ? ORDER BY seq",
            (job_id, after),
        ).fetchall()
