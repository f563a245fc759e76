"""The store of jobs: requests, states, finished steps, events, webhooks, and when each schedule last ran.

The SQL is the same for both databases (``JobDatabase``): a file of one host (``app.stores.job_sqlite``)
or a Postgres of many (``app.stores.job_postgres``). A worker is known by a lock that ends with it. Every
method blocks: call it from a thread of its own. What a method wrote is on disk when it returns.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, cast

from app.stores.job_records import AttemptEnd, Delivery, Job, QueueDepth

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
  id TEXT PRIMARY KEY, tenant TEXT NOT NULL, idempotency TEXT, body {blob} NOT NULL,
  agent TEXT NOT NULL, tools TEXT, priority INTEGER NOT NULL, state TEXT NOT NULL,
  due DOUBLE PRECISION NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
  crashes INTEGER NOT NULL DEFAULT 0, owner TEXT, cancel INTEGER NOT NULL DEFAULT 0,
  code TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '',
  created DOUBLE PRECISION NOT NULL, ended DOUBLE PRECISION, UNIQUE (tenant, idempotency));
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (state, priority DESC, due);
CREATE INDEX IF NOT EXISTS jobs_ended ON jobs (ended);
CREATE TABLE IF NOT EXISTS steps (
  job TEXT NOT NULL, step TEXT NOT NULL, outcome {blob}, PRIMARY KEY (job, step));
CREATE TABLE IF NOT EXISTS events (
  job TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL,
  PRIMARY KEY (job, seq));
CREATE TABLE IF NOT EXISTS hooks (
  job TEXT PRIMARY KEY, hook TEXT NOT NULL, state TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
  due DOUBLE PRECISION NOT NULL DEFAULT 0, code TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS hooks_due ON hooks (state, due);
CREATE TABLE IF NOT EXISTS fruitless (
  job TEXT PRIMARY KEY, steps INTEGER NOT NULL, deaths INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS schedules (name TEXT PRIMARY KEY, last DOUBLE PRECISION NOT NULL)
"""
_COLUMNS = (
    "id, tenant, body, agent, tools, priority, state, due, attempts, crashes, cancel, code,"
    " message, created, ended"
)
_REQUEUE = (
    "owner = NULL, attempts = attempts - 1, ended = CASE cancel WHEN 1 THEN ? END,"
    " state = CASE cancel WHEN 1 THEN 'cancelled' ELSE 'queued' END"
)
"""Puts a running job back into the queue, or ends it where it was cancelled."""
_WORKER_LOST = (
    '{"type":"RUN_ERROR","message":"its worker died each time it ran","code":"worker_lost"}'
)
_CANCELLED = '{"type":"RUN_ERROR","message":"cancelled while no worker ran it","code":"cancelled"}'
_FREE_CRASHES, _FIRST_DELAY_S, _MAX_DELAY_S = 3, 0.1, 30.0
_MAX_LISTED = 200
_SWEEP_BATCH = 500


class JobDatabase(Protocol):
    """The database that holds the jobs, and the locks of living workers."""

    blob_type: str
    """The SQL type of a column of bytes."""
    owner: str
    """This worker's name; it counts as alive until it closes the database or dies."""

    def close(self) -> None:
        """Close it and release this worker's lock."""
        ...

    def query(self, text: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one statement, ``?`` for each value, and return its rows."""
        ...

    def execute(self, text: str, values: Sequence[object] = ()) -> int:
        """Run one statement and return how many rows it changed."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """A transaction; one worker at a time has one."""
        ...

    def if_dead(self, owner: str) -> AbstractContextManager[bool]:
        """Whether worker ``owner`` is dead; until the context ends nobody else requeues its jobs."""
        ...


class JobStore:
    """The jobs in a ``JobDatabase``. Use and close it in one thread."""

    def __init__(self, keeper: JobDatabase) -> None:
        """Create missing tables."""
        self._db = keeper
        try:
            with keeper.transaction():
                for each in _TABLES.format(blob=keeper.blob_type).split(";"):
                    keeper.execute(each)
        except BaseException:
            keeper.close()
            raise

    @property
    def owner(self) -> str:
        """This worker's name."""
        return self._db.owner

    def close(self) -> None:
        """Close the database and release the lock."""
        self._db.close()

    def add(self, job: Job, idempotency: str | None, webhook: str = "") -> tuple[Job, bool]:
        """Insert a new job, or return the one with the same idempotency key; True: it is new.

        ``webhook`` names the receiver that is told of its end.
        """
        with self._db.transaction():
            added = self._db.execute(
                "INSERT INTO jobs (id, tenant, idempotency, body, agent, tools, priority,"
                " state, due, created) VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?)"
                " ON CONFLICT DO NOTHING",
                (
                    *(job.id, job.tenant, idempotency, job.body, job.agent, job.tools),
                    *(job.priority, job.due, job.created),
                ),
            )
            if added:
                if webhook:
                    text = "INSERT INTO hooks (job, hook, state) VALUES (?, ?, 'waiting')"
                    self._db.execute(text, (job.id, webhook))
                return job, True
            return self._jobs("tenant = ? AND idempotency = ?", (job.tenant, idempotency))[0], False

    def find(self, tenant: str, job_id: str) -> Job | None:
        """A tenant's job."""
        found = self._jobs("id = ? AND tenant = ?", (job_id, tenant))
        return found[0] if found else None

    def list_jobs(self, tenant: str, state: str | None, before: float, most: int) -> list[Job]:
        """A tenant's jobs that were created before ``before``, newest first, at most 200."""
        where = "tenant = ? AND created < ?"
        values: list[object] = [tenant, before]
        if state is not None:
            where, values = f"{where} AND state = ?", [*values, state]
        values.append(min(most, _MAX_LISTED))
        return self._jobs(f"{where} ORDER BY created DESC LIMIT ?", values)

    def _jobs(self, where: str, values: Sequence[object]) -> list[Job]:
        rows = self._db.query(f"SELECT {_COLUMNS} FROM jobs WHERE {where}", values)  # noqa: S608 - constant
        return [_job(row) for row in rows]

    def claim(self, now: float, per_tenant: int) -> Job | None:
        """Take the most urgent job that is due and whose tenant has fewer than ``per_tenant`` running."""
        with self._db.transaction():
            rows = self._db.query(
                "UPDATE jobs SET state = 'running', owner = ?, attempts = attempts + 1 WHERE id ="  # noqa: S608 - constant
                " (SELECT id FROM jobs AS each WHERE state = 'queued' AND due <= ? AND"
                " (SELECT count(*) FROM jobs WHERE state = 'running' AND tenant = each.tenant) < ?"
                " ORDER BY priority DESC, due LIMIT 1) AND state = 'queued'"
                f" RETURNING {_COLUMNS}",
                (self.owner, now, per_tenant),
            )
        return _job(rows[0]) if rows else None

    def has_due(self, now: float) -> bool:
        """Whether a job is due; cheaper than ``claim``."""
        text = "SELECT 1 FROM jobs WHERE state = 'queued' AND due <= ? LIMIT 1"
        return bool(self._db.query(text, (now,)))

    def requeue_orphans(self, max_crashes: int) -> int:
        """Queue the jobs of dead workers again; returns how many. A job under which ``max_crashes`` workers
        died in a row, without finishing a step in between, is dead too: it may be what kills them.
        """
        owners = self._db.query(
            "SELECT DISTINCT owner FROM jobs WHERE state = 'running' AND owner != ?", (self.owner,)
        )
        return sum(self._requeue_from(str(owner), max_crashes) for (owner,) in owners)

    def _requeue_from(self, owner: str, max_crashes: int) -> int:
        with self._db.if_dead(owner) as dead:
            if not dead:
                return 0
            with self._db.transaction():
                self._db.execute(
                    "INSERT INTO fruitless SELECT id, (SELECT count(*) FROM steps WHERE job = id"
                    " AND outcome IS NOT NULL), 1 FROM jobs WHERE state = 'running' AND owner = ?"
                    " ON CONFLICT (job) DO UPDATE SET steps = excluded.steps, deaths = CASE"
                    " WHEN excluded.steps > fruitless.steps THEN 1 ELSE fruitless.deaths + 1 END",
                    (owner,),
                )
                lost = self._db.query(
                    "UPDATE jobs SET state = 'dead', code = 'worker_lost', ended = ?, owner = NULL,"
                    " message = 'its worker died each time it ran', crashes = crashes + 1"
                    " WHERE state = 'running' AND owner = ? AND"
                    " (SELECT deaths FROM fruitless WHERE job = id) >= ? RETURNING id",
                    (time.time(), owner, max_crashes),
                )
                for (job_id,) in lost:
                    self._append_error(str(job_id), _WORKER_LOST)
                again = self._db.query(
                    f"UPDATE jobs SET {_REQUEUE}, crashes = crashes + 1"  # noqa: S608 - constant
                    " WHERE state = 'running' AND owner = ? RETURNING id, state",
                    (time.time(), owner),
                )
                for job_id, state in again:
                    if state == "cancelled":
                        self._append_error(str(job_id), _CANCELLED)
                    else:
                        self._delay(str(job_id))
                return len(lost) + len(again)

    def _append_error(self, job_id: str, error: str) -> None:
        """Append the final error event in place of the worker."""
        self._db.execute(
            "INSERT INTO events VALUES (?, (SELECT COALESCE(max(seq), 0) + 1 FROM events"
            " WHERE job = ?), 'RUN_ERROR', ?)",
            (job_id, job_id, error),
        )

    def _delay(self, job_id: str) -> None:
        """Delay a job that keeps losing its worker without finishing a step."""
        rows = self._db.query("SELECT deaths FROM fruitless WHERE job = ?", (job_id,))
        deaths = cast("int", rows[0][0])
        if deaths > _FREE_CRASHES:
            wait_s = min(_MAX_DELAY_S, _FIRST_DELAY_S * 2 ** (deaths - _FREE_CRASHES))
            text = "UPDATE jobs SET due = ? WHERE id = ? AND state = 'queued'"
            self._db.execute(text, (time.time() + wait_s, job_id))

    def settle(
        self, job_id: str, end: AttemptEnd, events: Iterable[tuple[int, str, str]] = ()
    ) -> None:
        """The attempt is over. Its last ``events`` are kept in the same step, so that no other attempt can
        end otherwise than was told. Does nothing where the job is no longer this worker's.
        """
        ended = None if end.state == "queued" else time.time()
        with self._db.transaction():
            settled = self._db.execute(
                "UPDATE jobs SET state = ?, code = ?, message = ?, due = ?, owner = NULL, ended = ?"
                " WHERE id = ? AND owner = ?",
                (end.state, end.code, end.message, end.due, ended, job_id, self.owner),
            )
            if settled:
                self._insert(job_id, events)

    def requeue(self, job_id: str) -> None:
        """Queue a job again whose worker stops; the attempt is not counted."""
        with self._db.transaction():
            rows = self._db.query(
                f"UPDATE jobs SET {_REQUEUE} WHERE id = ? AND owner = ? RETURNING state",  # noqa: S608 - constant
                (time.time(), job_id, self.owner),
            )
            if rows == [("cancelled",)]:
                self._append_error(job_id, _CANCELLED)

    def cancel(self, tenant: str, job_id: str) -> None:
        """End a queued job; mark a running one for its worker to end."""
        with self._db.transaction():
            rows = self._db.query(
                "UPDATE jobs SET cancel = 1, ended = CASE state WHEN 'queued' THEN ? END, state ="
                " CASE state WHEN 'queued' THEN 'cancelled' ELSE state END"
                " WHERE id = ? AND tenant = ? AND state IN ('queued', 'running') RETURNING state",
                (time.time(), job_id, tenant),
            )
            if rows == [("cancelled",)] and self.last_event_number(
                job_id
            ):  # an attempt had begun it
                self._append_error(job_id, _CANCELLED)

    def revive(self, tenant: str, job_id: str) -> bool:
        """Queue a dead job again, keeping its finished steps; True: it was dead."""
        with self._db.transaction():
            revived = self._db.execute(
                "UPDATE jobs SET state = 'queued', attempts = 0, crashes = 0, code = '',"
                " message = '', ended = NULL, due = ? WHERE id = ? AND tenant = ? AND state = 'dead'",
                (time.time(), job_id, tenant),
            )
            if revived:
                self._db.execute(  # its number stays taken: readers continue behind it
                    "UPDATE events SET kind = '', data = '' WHERE job = ? AND kind = 'RUN_ERROR'",
                    (job_id,),
                )
                self._db.execute("DELETE FROM fruitless WHERE job = ?", (job_id,))
                text = "UPDATE hooks SET state = 'waiting', tries = 0, due = 0 WHERE job = ?"
                self._db.execute(text, (job_id,))
        return bool(revived)

    def cancel_requested(self) -> list[str]:
        """The running jobs of this worker whose cancellation was requested."""
        rows = self._db.query(
            "SELECT id FROM jobs WHERE state = 'running' AND cancel = 1 AND owner = ?",
            (self.owner,),
        )
        return [str(row[0]) for row in rows]

    def steps(self, job_id: str) -> dict[str, bytes | None]:
        """Each step that was begun: its outcome, or None where it is not finished."""
        rows = self._db.query("SELECT step, outcome FROM steps WHERE job = ?", (job_id,))
        return {
            str(step): None if outcome is None else bytes(cast("bytes", outcome))
            for step, outcome in rows
        }

    def begin_step(self, job_id: str, step: str) -> None:
        """Mark a step as begun, before it runs."""
        text = "INSERT INTO steps VALUES (?, ?, NULL) ON CONFLICT DO NOTHING"
        self._db.execute(text, (job_id, step))

    def finish_step(self, job_id: str, step: str, outcome: bytes) -> None:
        """Save the outcome of a step: it never runs again."""
        self._db.execute(
            "INSERT INTO steps VALUES (?, ?, ?) ON CONFLICT (job, step)"
            " DO UPDATE SET outcome = excluded.outcome",
            (job_id, step, outcome),
        )

    def append_events(self, job_id: str, events: Iterable[tuple[int, str, str]]) -> None:
        """Append events: number, kind and JSON text."""
        with self._db.transaction():
            self._insert(job_id, events)

    def _insert(self, job_id: str, events: Iterable[tuple[int, str, str]]) -> None:
        for event in events:
            self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?)", (job_id, *event))

    def events_after(self, job_id: str, after: int = 0) -> list[tuple[int, str, str]]:
        """The events after number ``after``: number, kind, JSON text."""
        rows = self._db.query(
            "SELECT seq, kind, data FROM events WHERE job = ? AND seq > ? AND kind != ''"
            " ORDER BY seq",
            (job_id, after),
        )
        return cast("list[tuple[int, str, str]]", rows)

    def last_event_number(self, job_id: str) -> int:
        """The number of the last event, withdrawn ones included."""
        text = "SELECT COALESCE(max(seq), 0) FROM events WHERE job = ?"
        return cast("int", self._db.query(text, (job_id,))[0][0])

    def delivery(self, job_id: str) -> Delivery | None:
        """The state of a job's webhook; None: it has none."""
        text = "SELECT job, hook, state, tries, due, code FROM hooks WHERE job = ?"
        rows = self._db.query(text, (job_id,))
        return Delivery(*rows[0]) if rows else None  # type: ignore[arg-type]

    def claim_delivery(self, now: float, claim_ttl_s: float) -> tuple[Delivery, Job] | None:
        """Claim a due webhook and count the try. If this worker dies, it is due again in ``claim_ttl_s``."""
        with self._db.transaction():
            rows = self._db.query(
                "UPDATE hooks SET tries = tries + 1, due = ? WHERE job = (SELECT hooks.job FROM hooks"
                " JOIN jobs ON jobs.id = hooks.job WHERE hooks.state = 'waiting' AND hooks.due <= ?"
                " AND jobs.ended IS NOT NULL ORDER BY hooks.due LIMIT 1)"
                " RETURNING job, hook, state, tries, due, code",
                (now + claim_ttl_s, now),
            )
            if not rows:
                return None
            delivery = Delivery(*rows[0])  # type: ignore[arg-type]
            return delivery, self._jobs("id = ?", (delivery.job,))[0]

    def record_delivery(self, job_id: str, state: str, due: float, code: str) -> None:
        """Record how a try ended; where ``state`` is ``waiting``, the next one is due at ``due``."""
        text = "UPDATE hooks SET state = ?, due = ?, code = ? WHERE job = ?"
        self._db.execute(text, (state, due, code, job_id))

    def last_served(self, schedule: str, now: float) -> float:
        """When a schedule was last served; ``now`` where it is new."""
        text = "INSERT INTO schedules VALUES (?, ?) ON CONFLICT DO NOTHING"
        self._db.execute(text, (schedule, now))
        rows = self._db.query("SELECT last FROM schedules WHERE name = ?", (schedule,))
        return cast("float", rows[0][0])

    def mark_served(self, schedule: str, due: float) -> bool:
        """Mark a schedule's moment as served; False: another worker has done so."""
        text = "UPDATE schedules SET last = ? WHERE name = ? AND last < ?"
        return bool(self._db.execute(text, (due, schedule, due)))

    def depth(self, now: float) -> QueueDepth:
        """The depth of the queue."""
        by = self._db.query(
            "SELECT state, count(*) FROM jobs WHERE state IN ('queued', 'running', 'dead')"
            " GROUP BY state"
        )
        first, queued = self._db.query(
            "SELECT min(due), count(*) FROM jobs WHERE state = 'queued' AND due <= ?", (now,)
        )[0]
        undelivered = self._db.query(
            "SELECT count(*) FROM hooks JOIN jobs ON jobs.id = hooks.job"
            " WHERE hooks.state = 'waiting' AND jobs.ended IS NOT NULL"
        )[0][0]
        counts = {str(state): cast("int", number) for state, number in by}
        return QueueDepth(
            queued=cast("int", queued),
            delayed=counts.get("queued", 0) - cast("int", queued),
            running=counts.get("running", 0),
            dead=counts.get("dead", 0),
            lag_s=0.0 if first is None else now - cast("float", first),
            undelivered=cast("int", undelivered),
        )

    def sweep(self, before: float) -> int:
        """Delete a batch of jobs that ended before ``before``, their webhooks settled; returns how many."""
        with self._db.transaction():
            rows = self._db.query(
                "SELECT id FROM jobs WHERE ended < ? AND NOT EXISTS (SELECT 1 FROM hooks"
                " WHERE hooks.job = jobs.id AND hooks.state = 'waiting') LIMIT ?",
                (before, _SWEEP_BATCH),
            )
            for row in rows:
                for each in ("steps", "events", "hooks", "fruitless"):
                    self._db.execute(f"DELETE FROM {each} WHERE job = ?", row)  # noqa: S608 - constant
                self._db.execute("DELETE FROM jobs WHERE id = ?", row)
        return len(rows)


def _job(row: tuple[object, ...]) -> Job:
    values = list(row)
    values[2] = bytes(cast("bytes", values[2]))
    return Job(*values)  # type: ignore[arg-type]
