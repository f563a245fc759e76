"""Where jobs are kept for many hosts: a Postgres.

A worker's life is its session: it holds an advisory lock of its own name there, and Postgres lets go of
it when the session ends, however that came about. What a worker writes of its jobs it writes in that
same session. So whoever gets the lock knows that nothing can be written in the dead one's name any more:
a step that it had not marked as begun it has not begun, and one that it had is not begun again. A worker
that loses its session has lost its jobs and opens another session under another name.

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


class JobPostgres:
    """A session; see ``app.stores.job_store.Keeper``. One thread owns it. Raises ``StoreError``."""

    blob = "BYTEA"

    def __init__(self, url: str) -> None:
        """Connect, and be known as alive from now on."""
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
            raise _lost(exc) from exc
        self._run("SELECT pg_advisory_lock(?)", (_name(self.owner),))

    def close(self) -> None:
        """End the session, and the lock with it."""
        self._db.close()

    def rows(self, text: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one statement and give its rows."""
        return self._run(text, values).fetchall()

    def count(self, text: str, values: Sequence[object] = ()) -> int:
        """Run one statement and say how many rows it changed."""
        return self._run(text, values).rowcount

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All statements within it take effect, or none; one worker at a time."""
        try:
            with self._db.transaction():
                self._run("SELECT pg_advisory_xact_lock(?)", (_name("slipstream jobs"),))
                yield
        except psycopg.Error as exc:
            raise _lost(exc) from exc

    @contextmanager
    def dead(self, owner: str) -> Iterator[bool]:
        """Whether that worker is dead; while the context lasts nobody else takes its jobs."""
        name = _name(owner)
        if self.rows("SELECT pg_try_advisory_lock(?)", (name,)) != [(True,)]:
            yield False
            return
        try:
            yield True
        finally:
            self._run("SELECT pg_advisory_unlock(?)", (name,))

    def _run(self, text: str, values: Sequence[object]) -> psycopg.Cursor[tuple[object, ...]]:
        try:
            return self._db.execute(text.replace("?", "%s"), values)
        except psycopg.Error as exc:
            raise _lost(exc) from exc


def _name(words: str) -> int:
    return int.from_bytes(sha256(words.encode()).digest()[:8], "big", signed=True)


def _lost(exc: psycopg.Error) -> StoreError:
    """Never with the address, which holds a password."""
    said = "" if exc.sqlstate is None else f" {exc.sqlstate}"
    return StoreError(f"the jobs' Postgres: {type(exc).__name__}{said}", code="store_away")
