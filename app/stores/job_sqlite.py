"""Jobs of one host: an SQLite file that all its workers share.

Each worker locks a file of its own while it lives. The kernel releases the lock when the worker dies in
any way, so the jobs of a dead worker are found at once and those of a slow one are never taken from it:
there is no lease that could expire. A statement returns only once it is on disk (``synchronous=FULL``): a
step that was marked as begun stays so.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from app.errors import StoreError

_BUSY_S = 30.0


class SqliteJobDatabase:
    """A ``JobDatabase`` in a file. One thread owns it. Raises ``StoreError`` where the disk is full,
    read-only or damaged.
    """

    blob_type = "BLOB"

    def __init__(self, folder: Path) -> None:
        """Open or create the file, readable by this user alone."""
        self.owner = uuid.uuid4().hex
        self._folder = folder
        with ExitStack() as opened, _disk(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = opened.enter_context(closing(self._connected()))
            self._lock = os.open(self._lock_path(self.owner), os.O_CREAT | os.O_RDWR, 0o600)
            opened.callback(self._unlock)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            os.write(self._lock, str(os.getpid()).encode())  # fails on a full disk, as steps would
            self._opened = opened.pop_all()

    def _connected(self) -> sqlite3.Connection:
        file = self._folder / "jobs.sqlite"
        db = sqlite3.connect(file, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            file.chmod(0o600)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
        except BaseException:
            db.close()  # it is part of a reference cycle: its files would stay open until the next collection
            raise
        return db

    def _lock_path(self, owner: str) -> Path:
        return self._folder / f"{owner}.worker"

    def _unlock(self) -> None:
        self._lock_path(self.owner).unlink(missing_ok=True)
        os.close(self._lock)

    def close(self) -> None:
        """Close the file and release this worker's lock."""
        with _disk(self._folder):
            self._opened.close()

    def query(self, text: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one statement and return its rows."""
        with _disk(self._folder):
            return self._db.execute(text, values).fetchall()

    def execute(self, text: str, values: Sequence[object] = ()) -> int:
        """Run one statement and return how many rows it changed."""
        with _disk(self._folder):
            return self._db.execute(text, values).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction; one worker at a time has one."""
        with _disk(self._folder):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite ends it itself on some failures
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def if_dead(self, owner: str) -> Iterator[bool]:
        """Whether worker ``owner`` is dead; until the context ends nobody else requeues its jobs."""
        path = self._lock_path(owner)
        try:
            with _disk(self._folder):
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
            with _disk(self._folder):
                path.unlink(missing_ok=True)
        finally:
            os.close(lock)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Translate errors of the disk and of SQLite to ``StoreError``."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise StoreError(f"the jobs' folder {folder}: {exc.strerror}", code="store_away") from exc
    except sqlite3.Error as exc:
        raise StoreError(f"the jobs' file in {folder}: {exc}", code="store_away") from exc
