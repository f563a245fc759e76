"""What every log of a run promises its readers: in its own worker, and read from another through Redis."""

from __future__ import annotations

import asyncio

import pytest

from app.domain.run_events import (
    CallEnded,
    Interrupt,
    MessageText,
    RunFailed,
    RunFinished,
    Status,
    Within,
)
from app.errors import NotFound
from app.stores.event_log import EventLog, RunLog
from app.stores.redis import Redis
from app.stores.redis_runs import SharedRuns

pytestmark = pytest.mark.anyio
TENANT = "acme"


class InProcess:
    """The writer and its readers share a log."""

    def __init__(self) -> None:
        self.logs = EventLog()

    def begin(self, run_id: str, **limits: int) -> RunLog:
        self.log = RunLog(run_id, **limits)
        return self.log

    async def reader(self, _: str, seq: int = 0):
        self.log.after(seq)
        return self.log


class ThroughRedis:
    """The writer is one worker's, each reader another's."""

    def __init__(self, here: SharedRuns, there: SharedRuns) -> None:
        self.here, self.there = here, there
        self.cancelled = asyncio.Event()

    def begin(self, run_id: str, **limits: int) -> RunLog:
        log = RunLog(run_id, **limits)
        self.here.copy(TENANT, log, state=lambda: {"state": "running"}, cancel=self.cancelled.set)
        return log

    async def reader(self, run_id: str, seq: int = 0):
        while (found := await self.there.find(TENANT, run_id)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await found.load(seq)
        return found


@pytest.fixture(params=["memory", "redis"])
async def logs(request, redis):
    if request.param == "memory":
        yield InProcess()
        return
    here, there = SharedRuns(redis), SharedRuns(redis)
    await here.start()
    yield ThroughRedis(here, there)
    await here.aclose()


async def read(log, seq: int = 0) -> list[tuple[int, object]]:
    """Everything behind ``seq``, to the end."""
    found = []
    async with asyncio.timeout(20):
        while await log.more(seq):
            for number, event in log.after(seq):
                found.append((number, event))
                seq = number
    return found


async def test_a_reader_beside_the_writer_sees_every_event_once_and_in_order(logs):
    log = logs.begin("r1")
    log.append(Status("Thinking"))
    reading = asyncio.get_running_loop().create_task(read(await logs.reader("r1")))
    said = [Status("Thinking")]
    for number in range(700):
        event = (
            Within("s", CallEnded("c", "t", "x"))
            if number % 7 == 0
            else MessageText("m", str(number))
        )
        said.append(event)
        log.append(event)
        if number % 50 == 0:
            await asyncio.sleep(0)
    said.append(RunFinished("r1", "t", timings={"total": 1.5}))
    log.append(said[-1])
    log.append(Status("after the end"))
    assert await reading == list(enumerate(said, 1))


async def test_a_reader_that_comes_back_misses_and_repeats_nothing(logs):
    log = logs.begin("r2")
    for number in range(20):
        log.append(Status(str(number)))
    log.append(RunFinished("r2", "t"))
    for seq in (0, 1, 19, 20, 21):
        found = await read(await logs.reader("r2", seq), seq)
        assert [number for number, _ in found] == list(range(seq + 1, 22))


async def test_who_comes_for_events_that_have_left_is_told(logs):
    log = logs.begin("r3", max_events=5)
    for number in range(10):
        log.append(Status(str(number)))
    await logs.reader("r3", 7)
    with pytest.raises(NotFound) as gone:
        await logs.reader("r3", 2)
    assert gone.value.code == "events_expired"


class TestThroughRedis:
    @pytest.fixture
    async def pair(self, redis):
        here, there = SharedRuns(redis), SharedRuns(redis)
        await here.start()
        yield ThroughRedis(here, there)
        await here.aclose()

    async def test_a_run_id_is_taken_once_among_all_workers(self, pair):
        assert await pair.here.claim(TENANT, "r")
        assert not await pair.there.claim(TENANT, "r")
        assert await pair.there.claim("another", "r")

    async def test_another_worker_can_cancel(self, pair):
        log = pair.begin("r")
        log.append(Status("Thinking"))
        reader = await pair.reader("r")
        cancelling = asyncio.get_running_loop().create_task(reader.cancel())
        async with asyncio.timeout(20):
            await pair.cancelled.wait()
            log.append(RunFinished("r", "t", cancelled=True))
            await cancelling
        assert reader.ended

    async def test_the_run_of_a_dead_worker_ends_with_an_error_once(self, pair, redis):
        log = pair.begin("r")
        log.append(Status("Thinking"))
        one, other = await pair.reader("r"), await pair.reader("r")
        for task in pair.here._tasks:
            task.cancel()
        await redis.command("DEL", pair.here._keys(TENANT, "r")[2])  # what time would do
        for reader in (one, other):
            [(_, first), (number, last)] = await read(reader)
            assert first == Status("Thinking")
            assert (number, type(last), last.code) == (2, RunFailed, "worker_lost")

    async def test_what_redis_lost_is_written_again(self, pair, redis: Redis):
        log = pair.begin("r")
        log.append(Status("1"))
        reader = await pair.reader("r")
        assert await reader.more(0)
        await redis.command("FLUSHALL")
        log.append(Status("2"))
        log.append(RunFinished("r", "t"))
        found = await read(await pair.reader("r"))
        assert [number for number, _ in found] == [1, 2, 3]
        assert [number for number, _ in await read(reader, 1)] == [2, 3]

    async def test_an_event_that_cannot_be_sent_ends_its_own_run_there_and_no_other(self, pair):
        """A model's call that waits for approval, with a number beyond 64 bits."""
        beyond = Interrupt("i", "c", "transfer", {"amount": 1 << 70})
        log = pair.begin("r1")
        log.append(Status("Thinking"))
        log.append(RunFinished("r1", "t", interrupts=(beyond,)))
        [(_, first), (_, last)] = await read(await pair.reader("r1"))
        assert first == Status("Thinking")
        assert (type(last), last.code) == (RunFailed, "event_unreadable")
        pair.begin("r2").append(RunFinished("r2", "t"))
        assert [event for _, event in await read(await pair.reader("r2"))] == [
            RunFinished("r2", "t")
        ]
