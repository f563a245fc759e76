"""A job as those see it who asked for it: by request and by webhook."""

from __future__ import annotations

from datetime import UTC, datetime

from app.stores.job_records import Delivery, Job


def state_of(job: Job, delivery: Delivery | None = None) -> dict[str, object]:
    """How a job stands, as JSON values; nothing of what was asked or answered."""
    told: dict[str, object] = {
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
        told["webhook"] = {
            "name": delivery.hook,
            "state": delivery.state,
            "tries": delivery.tries,
            "code": delivery.code or None,
        }
    return told


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
