"""Jobs as they are kept: what was asked, how it stands, which steps are finished, what was told, who
is to hear of its end, and when each schedule was last due.

The statements are the same wherever they are kept (``Keeper``): in a file of one host
(``app.stores.job_files``) or in a Postgres of many (``app.stores.job_postgres``). A worker is known
by a lock that ends with it. Every method blocks: call them from a thread of their own. What a method
has written is on disk when it returns.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, cast

from app.stores.job_records import AttemptEnd, Delivery, Depth, Job

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
_WAITING = (
    "owner = NULL, attempts = attempts - 1, ended = CASE cancel WHEN 1 THEN ? END,"
    " state = CASE cancel WHEN 1 THEN 'cancelled' ELSE 'queued' END"
)
"""A running job waits again, or is over where it was cancelled."""
_LOST = '{"type":"RUN_ERROR","message":"its worker died each time it ran","code":"worker_lost"}'
_CANCELLED = '{"type":"RUN_ERROR","message":"cancelled while no worker ran it","code":"cancelled"}'
_DEATHS_AT_ONCE, _FIRST_WAIT_S, _LONGEST_WAIT_S = 3, 0.1, 30.0
_MOST_LISTED = 200
_SWEPT_AT_ONCE = 500


class Keeper(Protocol):
    """A database that jobs are kept in, and the locks of the workers that live."""

    blob: str
    """The type of its columns of bytes."""
    owner: str
    """This worker's name, known to be alive until it is closed or dies."""

    def close(self) -> None:
        """Close it and let go of this worker's lock."""
        ...

    def rows(self, text: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one statement, ``?`` for each value, and give its rows."""
        ...

    def count(self, text: str, values: Sequence[object] = ()) -> int:
        """Run one statement and say how many rows it changed."""
        ...

    def whole(self) -> AbstractContextManager[None]:
        """All statements within it take effect, or none; one worker at a time."""
        ...

    def dead(self, owner: str) -> AbstractContextManager[bool]:
        """Whether that worker is dead; while the context lasts nobody else takes its jobs."""
        ...


class JobStore:
    """The jobs in a keeper; see the module. Close it where it was opened."""

    def __init__(self, keeper: Keeper) -> None:
        """Make what is missing."""
        self._db = keeper
        try:
            with keeper.whole():
                for each in _TABLES.format(blob=keeper.blob).split(";"):
                    keeper.count(each)
        except BaseException:
            keeper.close()
            raise

    @property
    def owner(self) -> str:
        """This worker's name."""
        return self._db.owner

    def close(self) -> None:
        """Close it and let go of the lock."""
        self._db.close()

    def add(self, job: Job, idempotency: str | None, hook: str = "") -> tuple[Job, bool]:
        """Keep a new job, or give the one that came with the same key; True: it is new.

        ``hook`` names whom to tell of its end.
        """
        with self._db.whole():
            added = self._db.count(
                "INSERT INTO jobs (id, tenant, idempotency, body, agent, tools, priority,"
                " state, due, created) VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?)"
                " ON CONFLICT DO NOTHING",
                (
                    *(job.id, job.tenant, idempotency, job.body, job.agent, job.tools),
                    *(job.priority, job.due, job.created),
                ),
            )
            if added:
                if hook:
                    text = "INSERT INTO hooks (job, hook, state) VALUES (?, ?, 'waiting')"
                    self._db.count(text, (job.id, hook))
                return job, True
            return self._jobs("tenant = ? AND idempotency = ?", (job.tenant, idempotency))[0], False

    def find(self, tenant: str, job_id: str) -> Job | None:
        """A tenant's job."""
        found = self._jobs("id = ? AND tenant = ?", (job_id, tenant))
        return found[0] if found else None

    def listed(self, tenant: str, state: str | None, before: float, most: int) -> list[Job]:
        """A tenant's jobs that were created before ``before``, newest first, at most 200."""
        where = "tenant = ? AND created < ?"
        values: list[object] = [tenant, before]
        if state is not None:
            where, values = f"{where} AND state = ?", [*values, state]
        values.append(min(most, _MOST_LISTED))
        return self._jobs(f"{where} ORDER BY created DESC LIMIT ?", values)

    def _jobs(self, where: str, values: Sequence[object]) -> list[Job]:
        rows = self._db.rows(f"SELECT {_COLUMNS} FROM jobs WHERE {where}", values)  # noqa: S608 - constant
        return [_job(row) for row in rows]

    def claim(self, now: float, per_tenant: int) -> Job | None:
        """Take the most urgent job that is due and whose tenant has fewer than ``per_tenant`` running."""
        with self._db.whole():
            rows = self._db.rows(
                "UPDATE jobs SET state = 'running', owner = ?, attempts = attempts + 1 WHERE id ="  # noqa: S608 - constant
                " (SELECT id FROM jobs AS each WHERE state = 'queued' AND due <= ? AND"
                " (SELECT count(*) FROM jobs WHERE state = 'running' AND tenant = each.tenant) < ?"
                " ORDER BY priority DESC, due LIMIT 1) AND state = 'queued'"
                f" RETURNING {_COLUMNS}",
                (self.owner, now, per_tenant),
            )
        return _job(rows[0]) if rows else None

    def waits(self, now: float) -> bool:
        """Whether a job is due; cheaper than to claim one."""
        text = "SELECT 1 FROM jobs WHERE state = 'queued' AND due <= ? LIMIT 1"
        return bool(self._db.rows(text, (now,)))

    def adopt(self, most_crashes: int) -> int:
        """Queue the jobs of workers that are dead. A job under which ``most_crashes`` of them died one after
        the other, and no step was finished in between, is dead too: it may be what kills them.
        """
        owners = self._db.rows(
            "SELECT DISTINCT owner FROM jobs WHERE state = 'running' AND owner != ?", (self.owner,)
        )
        return sum(self._adopt_from(str(owner), most_crashes) for (owner,) in owners)

    def _adopt_from(self, owner: str, most_crashes: int) -> int:
        with self._db.dead(owner) as dead:
            if not dead:
                return 0
            with self._db.whole():
                self._db.count(
                    "INSERT INTO fruitless SELECT id, (SELECT count(*) FROM steps WHERE job = id"
                    " AND outcome IS NOT NULL), 1 FROM jobs WHERE state = 'running' AND owner = ?"
                    " ON CONFLICT (job) DO UPDATE SET steps = excluded.steps, deaths = CASE"
                    " WHEN excluded.steps > fruitless.steps THEN 1 ELSE fruitless.deaths + 1 END",
                    (owner,),
                )
                lost = self._db.rows(
                    "UPDATE jobs SET state = 'dead', code = 'worker_lost', ended = ?, owner = NULL,"
                    " message = 'its worker died each time it ran', crashes = crashes + 1"
                    " WHERE state = 'running' AND owner = ? AND"
                    " (SELECT deaths FROM fruitless WHERE job = id) >= ? RETURNING id",
                    (time.time(), owner, most_crashes),
                )
                for (job_id,) in lost:
                    self._append(str(job_id), _LOST)
                again = self._db.rows(
                    f"UPDATE jobs SET {_WAITING}, crashes = crashes + 1"  # noqa: S608 - constant
                    " WHERE state = 'running' AND owner = ? RETURNING id, state",
                    (time.time(), owner),
                )
                for job_id, state in again:
                    if state == "cancelled":
                        self._append(str(job_id), _CANCELLED)
                    else:
                        self._put_off(str(job_id))
                return len(lost) + len(again)

    def _append(self, job_id: str, error: str) -> None:
        """End a job's events in place of its worker."""
        self._db.count(
            "INSERT INTO events VALUES (?, (SELECT COALESCE(max(seq), 0) + 1 FROM events"
            " WHERE job = ?), 'RUN_ERROR', ?)",
            (job_id, job_id, error),
        )

    def _put_off(self, job_id: str) -> None:
        """Let a job wait that keeps losing its worker and gets no further: others first, and calmer times."""
        rows = self._db.rows("SELECT deaths FROM fruitless WHERE job = ?", (job_id,))
        deaths = cast("int", rows[0][0])
        if deaths > _DEATHS_AT_ONCE:
            wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (deaths - _DEATHS_AT_ONCE))
            text = "UPDATE jobs SET due = ? WHERE id = ? AND state = 'queued'"
            self._db.count(text, (time.time() + wait_s, job_id))

    def settle(
        self, job_id: str, end: AttemptEnd, events: Iterable[tuple[int, str, str]] = ()
    ) -> None:
        """The attempt is over. Its last ``events`` are kept in the same step, so that no other attempt can
        end otherwise than was told. Does nothing where the job is no longer this worker's.
        """
        ended = None if end.state == "queued" else time.time()
        with self._db.whole():
            settled = self._db.count(
                "UPDATE jobs SET state = ?, code = ?, message = ?, due = ?, owner = NULL, ended = ?"
                " WHERE id = ? AND owner = ?",
                (end.state, end.code, end.message, end.due, ended, job_id, self.owner),
            )
            if settled:
                self._insert(job_id, events)

    def give_back(self, job_id: str) -> None:
        """Queue a job whose attempt was stopped with its worker: that was no attempt."""
        with self._db.whole():
            rows = self._db.rows(
                f"UPDATE jobs SET {_WAITING} WHERE id = ? AND owner = ? RETURNING state",  # noqa: S608 - constant
                (time.time(), job_id, self.owner),
            )
            if rows == [("cancelled",)]:
                self._append(job_id, _CANCELLED)

    def cancel(self, tenant: str, job_id: str) -> None:
        """End a waiting job; mark a running one for its worker to end."""
        with self._db.whole():
            rows = self._db.rows(
                "UPDATE jobs SET cancel = 1, ended = CASE state WHEN 'queued' THEN ? END, state ="
                " CASE state WHEN 'queued' THEN 'cancelled' ELSE state END"
                " WHERE id = ? AND tenant = ? AND state IN ('queued', 'running') RETURNING state",
                (time.time(), job_id, tenant),
            )
            if rows == [("cancelled",)] and self.last_told(job_id):  # an attempt had begun it
                self._append(job_id, _CANCELLED)

    def revive(self, tenant: str, job_id: str) -> bool:
        """Queue a dead job anew, its finished steps kept; True: it was one."""
        with self._db.whole():
            revived = self._db.count(
                "UPDATE jobs SET state = 'queued', attempts = 0, crashes = 0, code = '',"
                " message = '', ended = NULL, due = ? WHERE id = ? AND tenant = ? AND state = 'dead'",
                (time.time(), job_id, tenant),
            )
            if revived:
                self._db.count(  # its number stays taken: whoever has read it reads on behind it
                    "UPDATE events SET kind = '', data = '' WHERE job = ? AND kind = 'RUN_ERROR'",
                    (job_id,),
                )
                self._db.count("DELETE FROM fruitless WHERE job = ?", (job_id,))
                text = "UPDATE hooks SET state = 'waiting', tries = 0, due = 0 WHERE job = ?"
                self._db.count(text, (job_id,))
        return bool(revived)

    def cancelled(self) -> list[str]:
        """Own running jobs that somebody has cancelled."""
        rows = self._db.rows(
            "SELECT id FROM jobs WHERE state = 'running' AND cancel = 1 AND owner = ?",
            (self.owner,),
        )
        return [str(row[0]) for row in rows]

    def steps(self, job_id: str) -> dict[str, bytes | None]:
        """Each step that was begun, with its outcome where it was finished."""
        rows = self._db.rows("SELECT step, outcome FROM steps WHERE job = ?", (job_id,))
        return {
            str(step): None if outcome is None else bytes(cast("bytes", outcome))
            for step, outcome in rows
        }

    def begin(self, job_id: str, step: str) -> None:
        """A step is about to be run."""
        text = "INSERT INTO steps VALUES (?, ?, NULL) ON CONFLICT DO NOTHING"
        self._db.count(text, (job_id, step))

    def finish(self, job_id: str, step: str, outcome: bytes) -> None:
        """A step has been run: never again."""
        self._db.count(
            "INSERT INTO steps VALUES (?, ?, ?) ON CONFLICT (job, step)"
            " DO UPDATE SET outcome = excluded.outcome",
            (job_id, step, outcome),
        )

    def tell(self, job_id: str, events: Iterable[tuple[int, str, str]]) -> None:
        """Keep events: number, kind and JSON text."""
        with self._db.whole():
            self._insert(job_id, events)

    def _insert(self, job_id: str, events: Iterable[tuple[int, str, str]]) -> None:
        for event in events:
            self._db.count("INSERT INTO events VALUES (?, ?, ?, ?)", (job_id, *event))

    def told(self, job_id: str, after: int = 0) -> list[tuple[int, str, str]]:
        """The events behind number ``after``."""
        rows = self._db.rows(
            "SELECT seq, kind, data FROM events WHERE job = ? AND seq > ? AND kind != ''"
            " ORDER BY seq",
            (job_id, after),
        )
        return cast("list[tuple[int, str, str]]", rows)

    def last_told(self, job_id: str) -> int:
        """The number of the last event, also of one that was taken back."""
        text = "SELECT COALESCE(max(seq), 0) FROM events WHERE job = ?"
        return cast("int", self._db.rows(text, (job_id,))[0][0])

    def delivery(self, job_id: str) -> Delivery | None:
        """How the telling of a job's end stands; None: nobody is told."""
        text = "SELECT job, hook, state, tries, due, code FROM hooks WHERE job = ?"
        rows = self._db.rows(text, (job_id,))
        return Delivery(*rows[0]) if rows else None  # type: ignore[arg-type]

    def claim_delivery(self, now: float, again_s: float) -> tuple[Delivery, Job] | None:
        """A job's end that is to be told now. Should this worker die, it is due again in ``again_s``."""
        with self._db.whole():
            rows = self._db.rows(
                "UPDATE hooks SET tries = tries + 1, due = ? WHERE job = (SELECT hooks.job FROM hooks"
                " JOIN jobs ON jobs.id = hooks.job WHERE hooks.state = 'waiting' AND hooks.due <= ?"
                " AND jobs.ended IS NOT NULL ORDER BY hooks.due LIMIT 1)"
                " RETURNING job, hook, state, tries, due, code",
                (now + again_s, now),
            )
            if not rows:
                return None
            delivery = Delivery(*rows[0])  # type: ignore[arg-type]
            return delivery, self._jobs("id = ?", (delivery.job,))[0]

    def delivered(self, job_id: str, state: str, due: float, code: str) -> None:
        """A try to tell is over: the telling is, or it is due again at ``due``."""
        text = "UPDATE hooks SET state = ?, due = ?, code = ? WHERE job = ?"
        self._db.count(text, (state, due, code, job_id))

    def last_due(self, schedule: str, now: float) -> float:
        """When a schedule was last served; ``now``, and so from now on, where it is new."""
        text = "INSERT INTO schedules VALUES (?, ?) ON CONFLICT DO NOTHING"
        self._db.count(text, (schedule, now))
        rows = self._db.rows("SELECT last FROM schedules WHERE name = ?", (schedule,))
        return cast("float", rows[0][0])

    def serve(self, schedule: str, due: float) -> bool:
        """Note that a schedule's moment is served; False: another worker has done it."""
        text = "UPDATE schedules SET last = ? WHERE name = ? AND last < ?"
        return bool(self._db.count(text, (due, schedule, due)))

    def depth(self, now: float) -> Depth:
        """How much there is to do."""
        by = self._db.rows(
            "SELECT state, count(*) FROM jobs WHERE state IN ('queued', 'running', 'dead')"
            " GROUP BY state"
        )
        first, queued = self._db.rows(
            "SELECT min(due), count(*) FROM jobs WHERE state = 'queued' AND due <= ?", (now,)
        )[0]
        unheard = self._db.rows(
            "SELECT count(*) FROM hooks JOIN jobs ON jobs.id = hooks.job"
            " WHERE hooks.state = 'waiting' AND jobs.ended IS NOT NULL"
        )[0][0]
        counts = {str(state): cast("int", number) for state, number in by}
        return Depth(
            queued=cast("int", queued),
            delayed=counts.get("queued", 0) - cast("int", queued),
            running=counts.get("running", 0),
            dead=counts.get("dead", 0),
            lag_s=0.0 if first is None else now - cast("float", first),
            undelivered=cast("int", unheard),
        )

    def sweep(self, before: float) -> int:
        """Forget some of the jobs that ended before ``before``, their webhooks told or given up."""
        with self._db.whole():
            rows = self._db.rows(
                "SELECT id FROM jobs WHERE ended < ? AND NOT EXISTS (SELECT 1 FROM hooks"
                " WHERE hooks.job = jobs.id AND hooks.state = 'waiting') LIMIT ?",
                (before, _SWEPT_AT_ONCE),
            )
            for row in rows:
                for each in ("steps", "events", "hooks", "fruitless"):
                    self._db.count(f"DELETE FROM {each} WHERE job = ?", row)  # noqa: S608 - constant
                self._db.count("DELETE FROM jobs WHERE id = ?", row)
        return len(rows)


def _job(row: tuple[object, ...]) -> Job:
    values = list(row)
    values[2] = bytes(cast("bytes", values[2]))
    return Job(*values)  # type: ignore[arg-type]
