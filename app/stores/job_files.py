"""Where jobs are kept on one host: an SQLite file that all its workers share.

A worker holds a lock on a file of its own for as long as it lives; the kernel lets go of it when the
worker dies in any way, so the jobs of a dead worker are known at once and those of a slow one are
never taken from it: there is no lease that could run out. Written through to the disk before a
statement returns (``synchronous=FULL``), for a step that counts as begun must stay begun.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_BUSY_S = 30.0


class JobFiles:
    """The file and the locks; see ``app.stores.job_store.Keeper``. One thread owns it."""

    blob = "BLOB"

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
        self.owner = uuid.uuid4().hex
        self._lock = os.open(self._lock_path(self.owner), os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.write(self._lock, str(os.getpid()).encode())  # for whoever looks at the folder

    def _lock_path(self, owner: str) -> Path:
        return self._folder / f"{owner}.worker"

    def close(self) -> None:
        """Close it and let go of the lock."""
        self._db.close()
        self._lock_path(self.owner).unlink(missing_ok=True)
        os.close(self._lock)

    def rows(self, text: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one statement and give its rows."""
        return self._db.execute(text, values).fetchall()

    def count(self, text: str, values: Sequence[object] = ()) -> int:
        """Run one statement and say how many rows it changed."""
        return self._db.execute(text, values).rowcount

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All statements within it take effect, or none; one worker at a time."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def dead(self, owner: str) -> Iterator[bool]:
        """Whether that worker is dead; while the context lasts nobody else takes its jobs."""
        path = self._lock_path(owner)
        try:
            lock = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            yield True
            return
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
            path.unlink(missing_ok=True)
        finally:
            os.close(lock)
