"""The log of a run: numbered, bounded, and a reader misses and repeats nothing."""

from __future__ import annotations

import asyncio

import pytest

from app.domain.run_events import CallEnded, Interrupt, RunFinished, Status, Within
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


def call(text: str) -> CallEnded:
    return CallEnded("c", "look", text)


def test_a_run_keeps_its_newest_bytes_and_at_least_its_last_event() -> None:
    log = RunLog("r", max_bytes=1 << 20)
    for number in range(100):
        log.append(call(str(number) * 50_000))
        log.append(Within("s", call("y" * 50_000)))
    assert log.bytes <= 1 << 20
    assert 10 <= log.last - log.first <= 20
    log.append(call("z" * (2 << 20)))
    assert (log.first, log.last) == (201, 201)
    with pytest.raises(NotFound):
        log.after(150)


def test_ended_runs_are_forgotten_by_their_bytes_too_the_longest_ended_first() -> None:
    forgotten: list[tuple[str, str]] = []
    logs = EventLog(max_ended_bytes=1 << 20)
    logs.on_forget = lambda tenant, run_id: forgotten.append((tenant, run_id))
    under_way = logs.open("acme", "under way")
    assert under_way is not None
    under_way.append(call("x" * (2 << 20)))
    for number in range(10):
        log = logs.open("acme", str(number))
        assert log is not None
        log.append(call("x" * 300_000))
        log.append(RunFinished(str(number), "t"))
        logs.close("acme", str(number))
    assert [n for n in range(10) if logs.find("acme", str(n))] == [7, 8, 9]
    assert forgotten == [("acme", str(n)) for n in range(7)]
    assert logs.find("acme", "under way") is under_way


def test_what_a_run_s_end_holds_counts_as_well() -> None:
    log = RunLog("r")
    interrupts = (Interrupt("i", "c", "restart", {"text": "x" * 100_000, "more": ["y" * 100_000]}),)
    log.append(RunFinished("r", "t", interrupts=interrupts))
    assert log.bytes > 200_000
