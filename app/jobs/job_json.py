"""The JSON of a job, for API answers and webhooks."""

from __future__ import annotations

from datetime import UTC, datetime

from app.stores.job_records import Delivery, Job


def job_json(job: Job, delivery: Delivery | None = None) -> dict[str, object]:
    """A job's state as JSON values, without prompt or answer."""
    found: dict[str, object] = {
        "id": job.id,
        "agent": job.agent,
        "state": job.state,
        "priority": job.priority,
        "attempts": job.attempts,
        "crashes": job.crashes,
        "code": job.code or None,
        "message": job.message or None,
        "created_at": _iso(job.created),
        "due_at": _iso(job.due),
        "ended_at": None if job.ended is None else _iso(job.ended),
    }
    if delivery is not None:
        found["webhook"] = {
            "name": delivery.webhook,
            "state": delivery.state,
            "tries": delivery.tries,
            "code": delivery.code or None,
        }
    return found


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
