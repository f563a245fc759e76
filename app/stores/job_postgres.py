"""Jobs of many hosts, in Postgres.

A worker is alive while its session is: it holds an advisory lock of its own name, which Postgres releases
when the session ends for any reason. A worker writes what concerns its jobs in that same session. So
whoever gets the lock knows that nothing more can be written in the dead worker's name: a step that it had
not marked as begun was not begun, and one that it had marked is not begun again. A worker that loses its
session has lost its jobs, and opens another session under another name.

Sessions must reach Postgres itself, or a pooler that keeps a session whole (not by transaction).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256

import psycopg

from app.errors import StoreError

_CONNECT_WITHIN_S = 5
_LOST_AFTER_S = 11
"""A host that vanished is noticed, by either side, within 5 s of silence and three probes, 2 s apart."""
_KEEP_ALIVE = "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3"


class PostgresJobDatabase:
    """A ``JobDatabase`` that is a session of Postgres. One thread owns it. Raises ``StoreError``."""

    blob_type = "BYTEA"

    def __init__(self, url: str) -> None:
        """Connect, and take this worker's lock."""
        self.owner = uuid.uuid4().hex
        try:
            self._db = psycopg.connect(
                url,
                autocommit=True,
                connect_timeout=_CONNECT_WITHIN_S,
                options=_KEEP_ALIVE,
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=_LOST_AFTER_S * 1000,
                application_name="slipstream jobs",
            )
        except psycopg.Error as exc:
            raise _store_error(exc) from exc
        self._run("SELECT pg_advisory_lock(?)", (_lock_id(self.owner),))

    def close(self) -> None:
        """End the session, and with it the lock."""
        self._db.close()

    def query(self, text: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one statement and return its rows."""
        return self._run(text, values).fetchall()

    def execute(self, text: str, values: Sequence[object] = ()) -> int:
        """Run one statement and return how many rows it changed."""
        return self._run(text, values).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction; one worker at a time has one."""
        try:
            with self._db.transaction():
                self._run("SELECT pg_advisory_xact_lock(?)", (_lock_id("slipstream jobs"),))
                yield
        except psycopg.Error as exc:
            raise _store_error(exc) from exc

    @contextmanager
    def if_dead(self, owner: str) -> Iterator[bool]:
        """Whether worker ``owner`` is dead; until the context ends nobody else requeues its jobs."""
        lock_id = _lock_id(owner)
        if self.query("SELECT pg_try_advisory_lock(?)", (lock_id,)) != [(True,)]:
            yield False
            return
        try:
            yield True
        finally:
            self._run("SELECT pg_advisory_unlock(?)", (lock_id,))

    def _run(self, text: str, values: Sequence[object]) -> psycopg.Cursor[tuple[object, ...]]:
        try:
            return self._db.execute(text.replace("?", "%s"), values)
        except psycopg.Error as exc:
            raise _store_error(exc) from exc


def _lock_id(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big", signed=True)


def _store_error(exc: psycopg.Error) -> StoreError:
    """Without the address, which holds a password."""
    sqlstate = "" if exc.sqlstate is None else f" {exc.sqlstate}"
    return StoreError(f"the jobs' Postgres: {type(exc).__name__}{sqlstate}", code="store_away")
