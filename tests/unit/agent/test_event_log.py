"""The log of a run: numbered, bounded, and a reader misses and repeats nothing."""

from __future__ import annotations

import asyncio

import pytest

from app.domain.run_events import RunFinished, Status
from app.errors import NotFound
from app.stores.event_log import EventLog, RunLog
from tests.support.virtual_time import run_virtually


def test_a_reader_beside_the_writer_sees_every_event_once() -> None:
    async def run() -> None:
        log = RunLog("r")
        seen: list[int] = []

        async def read() -> None:
            seq = 0
            while await log.more(seq):
                for number, _ in log.after(seq):
                    seen.append(number)
                    seq = number

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            for index in range(100):
                log.append(Status(str(index)))
                if index % 7 == 0:
                    await asyncio.sleep(0.01)
            log.append(RunFinished("r", "t"))
            log.append(Status("after the end"))
        assert seen == list(range(1, 102))

    run_virtually(run())


def test_the_oldest_leave_and_who_comes_for_them_is_told() -> None:
    log = RunLog("r", max_events=10)
    for index in range(25):
        log.append(Status(str(index)))
    assert [number for number, _ in log.after(15)] == list(range(16, 26))
    assert log.after(25) == []
    with pytest.raises(NotFound) as gone:
        log.after(3)
    assert gone.value.code == "events_expired"


def test_ended_runs_are_forgotten_in_time_and_in_number() -> None:
    now = [0.0]
    logs = EventLog(keep_s=10, max_ended=2, clock=lambda: now[0])
    for name in "abc":
        assert logs.open("acme", name) is not None
        assert logs.open("acme", name) is None
        logs.close("acme", name)
    assert logs.find("acme", "a") is None
    assert logs.find("acme", "c") is not None
    assert logs.find("other", "c") is None
    now[0] = 11.0
    assert logs.find("acme", "c") is None
