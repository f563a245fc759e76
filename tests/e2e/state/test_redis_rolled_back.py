"""A Redis that comes back with data from before: what was forgotten meanwhile stays forgotten."""

from __future__ import annotations

import asyncio
import contextlib
from uuid import uuid4

import pytest

from app.domain.run_events import MessageText, RunFinished
from app.errors import StoreError
from app.stores.event_log import RunLog
from app.stores.redis import Redis
from app.stores.redis_runs import SharedRuns
from tests.e2e.state.conftest import workers
from tests.e2e.test_exact_cache import ask, outcome
from tests.support.redis import redis_server

pytestmark = pytest.mark.anyio


@pytest.fixture
def question() -> str:
    return f"What does the word {uuid4().hex[:10]} mean in the glossary of UDP?"


async def in_use(*all_of_them) -> None:
    """Wait until every worker uses Redis and may serve from its memory."""
    async with asyncio.timeout(20):
        for worker in all_of_them:
            shared = worker.shared
            while shared.workers._redis.unavailable is not None or not shared.trusted():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await shared.workers.subscribed.wait()


async def test_an_invalidation_outlives_a_redis_that_lost_it(upstream, question):
    with redis_server() as own:
        async with workers(upstream.base_url, own.url) as pair:
            one, other = pair
            await ask(one.http, "chat", question)
            await one.written()
            assert own.say(b"SAVE\r\n").startswith(b"+OK")
            answer = await one.http.post("/v1/cache/invalidate", json={"all": True})
            assert answer.status_code == 200
            own.kill()
            own.start()
            async with workers(upstream.base_url, own.url, count=1) as [late]:
                for worker in (one, other, late):
                    found = await ask(worker.http, "chat", question, cache="only")
                    assert outcome(found) != "exact"


async def test_an_invalidation_after_a_restart_with_old_data_is_heard_by_all(upstream, question):
    with redis_server() as own:
        async with workers(upstream.base_url, own.url) as pair:
            one, other = pair
            assert own.say(b"SAVE\r\n").startswith(b"+OK")
            for _ in range(2):
                answer = await one.http.post("/v1/cache/invalidate", json={"model": "large"})
                assert answer.status_code == 200
            own.kill()
            own.start()
            await in_use(one, other)
            await ask(one.http, "chat", question)
            await one.written()
            assert outcome(await ask(other.http, "chat", question)) == "exact"
            answer = await one.http.post("/v1/cache/invalidate", json={"all": True})
            assert answer.status_code == 200
            for worker in (one, other):
                found = await ask(worker.http, "chat", question, cache="only")
                assert outcome(found) != "exact"


async def test_a_runs_log_has_no_gap_where_redis_lost_its_middle():
    with redis_server() as own:
        redis = Redis(own.url, budget_s=2.0, on_state=lambda _: None)
        await redis.start()
        here, there = SharedRuns(redis), SharedRuns(redis)
        await here.start()
        log = RunLog("r1")
        here.copy("acme", log, state=dict, cancel=lambda: None)
        log.append(MessageText("m", "one"))
        await copied(there, 1)
        assert own.say(b"SAVE\r\n").startswith(b"+OK")
        log.append(MessageText("m", "two"))
        await copied(there, 2)
        own.kill()
        own.start()
        log.append(MessageText("m", "three"))
        log.append(RunFinished("r1", "t1"))
        await copied(there, 4)
        found = await there.find("acme", "r1")
        assert found is not None
        await found.load(0)
        assert [number for number, _ in found.after(0)] == [1, 2, 3, 4]
        await here.aclose()
        await redis.aclose()


async def copied(there: SharedRuns, last: int) -> None:
    """Wait until a reader on another worker sees the event of that number."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(StoreError):
                found = await there.find("acme", "r1")
                if found is not None:
                    await found.load(0)
                    if found.last >= last:
                        return
            await asyncio.sleep(0.02)
