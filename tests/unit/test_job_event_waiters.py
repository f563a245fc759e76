"""Who waits for a job, or asked for one, leaves nothing behind, wherever the job runs."""

from __future__ import annotations

import asyncio
import gc

import pytest

from app.jobs import engine
from app.jobs.engine import JobEngine
from app.stores.job_records import Job

pytestmark = pytest.mark.anyio


def jobs() -> JobEngine:
    return JobEngine(None, None, None, None, None, None, None, None)


async def leave_before_there_is_news(told: JobEngine, count: int) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(told.wait_for_events(f"job-{number}")) for number in range(count)
        ]
        await asyncio.sleep(0)
        assert len(told._waiting_readers) == count
        for each in waiting:
            each.cancel()


async def test_who_left_before_there_was_news_is_forgotten():
    """A job that runs on another host never has news here."""
    told = jobs()
    await leave_before_there_is_news(told, 20)
    gc.collect()
    assert len(told._waiting_readers) == 0


async def test_all_who_wait_for_a_job_hear_its_news():
    told = jobs()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(told.wait_for_events("job")) for _ in range(3)]
        await asyncio.sleep(0)
        told._notify_readers("job")
        for _ in range(3):
            await asyncio.sleep(0)
        assert all(each.done() for each in waiting)


async def test_what_is_to_be_charged_for_jobs_that_run_elsewhere_is_forgotten(monkeypatch):
    class Store:
        def add(self, job: object, *_: object) -> tuple[object, bool]:
            return job, True

    monkeypatch.setattr(engine, "_MAX_CHARGES", 3)
    told = jobs()
    told._store = Store()
    for number in range(5):
        job = Job.queued(id=f"job-{number}", tenant="t", body=b"", agent="a", due=0, created=0)
        await told.submit(job, None, lambda _: None)
    assert list(told._charges) == ["job-2", "job-3", "job-4"]
    told._store_thread.shutdown()
