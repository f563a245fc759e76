"""Identical requests in flight on different workers: one upstream call, whatever happens to whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
from uuid import uuid4

import httpx2
import pytest

from tests.e2e.conftest import NO_TLS
from tests.e2e.state.conftest import workers
from tests.support.gateway import sse_events
from tests.support.redis import redis_server
from tests.support.scripted_model import scripted_model
from tests.support.tool_server import tool_server

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"


def begin(work) -> asyncio.Task:
    """Run it beside the test, which awaits it."""
    return asyncio.get_running_loop().create_task(work)


class Held:
    """A model that says one word, waits, and says the rest; or fails instead of the rest."""

    def __init__(self) -> None:
        self.calls = 0
        self.word = "Held"
        self.go = asyncio.Event()
        self.before = asyncio.Event()
        self.before.set()
        self.gone = asyncio.Event()

    async def __call__(self, speaking) -> None:
        self.calls += 1
        await self.before.wait()
        await speaking.text(self.word)
        leaving = begin(speaking.asked.until_gone())
        going = begin(self.go.wait())
        await asyncio.wait([leaving, going], return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            self.gone.set()
            going.cancel()
            return
        leaving.cancel()
        await speaking.text(" back")
        await speaking.finish()


@pytest.fixture
async def model():
    held = Held()
    async with scripted_model(held) as served:
        held.url = served.url
        yield held


def over(url: str) -> dict:
    provider = {"kind": "openai", "base_url": f"{url}/v1", "warm_connections": 0, "retries": 0}
    return {"providers": {"local": provider, "claude": {**provider}}}


@pytest.fixture
async def two(model, server):
    async with workers(model.url, server.url, **over(model.url)) as made:
        yield made


def body(text: str, *, stream: bool = True, **more) -> dict:
    return {
        "model": "small",
        "messages": [{"role": "user", "content": text}],
        "stream": stream,
        **more,
    }


@pytest.fixture
def text() -> str:
    return f"What does the word {uuid4().hex[:10]} mean in the glossary of TCP?"


class Client:
    """One streaming client, read as it comes."""

    def __init__(self, worker, sent: dict) -> None:
        self.worker, self.sent = worker, sent
        self.first, self.data, self.outcome = asyncio.Event(), b"", ""
        self.task = begin(self._read())

    async def _read(self) -> None:
        async with self.worker.http.stream("POST", CHAT, json=self.sent) as reply:
            self.status, self.outcome = reply.status_code, reply.headers["x-slipstream-cache"]
            async for piece in reply.aiter_raw():
                self.data += piece
                self.first.set()

    async def left(self) -> None:
        """Hang up."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    @property
    def text(self) -> str:
        """What it was told."""
        return "".join(
            choice["delta"].get("content") or ""
            for event in sse_events(self.data.decode())
            for choice in event.get("choices", ())
        )


async def test_a_late_one_on_another_worker_gets_what_was_said_and_the_live_rest(two, model, text):
    one, other = two
    leader = Client(one, body(text=text))
    await leader.first.wait()
    follower = Client(other, body(text=text))
    await follower.first.wait()
    assert (follower.text, follower.task.done()) == ("Held", False)
    model.go.set()
    await asyncio.gather(leader.task, follower.task)  # noqa: TID251 - both must end
    assert leader.data == follower.data
    assert (leader.outcome, follower.outcome, model.calls) == ("miss", "coalesced", 1)


async def test_another_dialect_and_form_joins_too(two, model, text):
    one, other = two
    leader = Client(one, body(text=text, stream_options={"include_usage": True}, max_tokens=99))
    await leader.first.wait()
    asked = {"model": "small", "messages": [{"role": "user", "content": text}], "max_tokens": 99}
    whole = begin(other.http.post("/v1/messages", json=asked))
    while not other.shared._wakeups:  # noqa: ASYNC110 - it follows; no time is measured
        await asyncio.sleep(0.001)
    model.go.set()
    reply = await whole
    await leader.task
    assert reply.json()["content"][0]["text"] == leader.text == "Held back"
    assert (reply.headers["x-slipstream-cache"], model.calls) == ("coalesced", 1)


async def test_the_leaders_client_may_leave_and_the_last_one_ends_the_call(two, model, text):
    one, other = two
    leader = Client(one, body(text=text))
    await leader.first.wait()
    follower = Client(other, body(text=text))
    await follower.first.wait()
    await leader.left()
    second = Client(other, body(text=text))
    await second.first.wait()
    assert not model.gone.is_set()
    await follower.left()
    await second.left()
    async with asyncio.timeout(20):
        await model.gone.wait()


async def test_the_leader_leaves_and_the_others_hear_it_to_the_end(two, model, text):
    one, other = two
    leader = Client(one, body(text=text))
    await leader.first.wait()
    follower = Client(other, body(text=text))
    await follower.first.wait()
    await leader.left()
    model.go.set()
    await follower.task
    assert (follower.text, model.calls) == ("Held back", 1)
    again = await other.http.post(CHAT, json=body(text=text, stream=False))
    await one.written()
    assert again.json()["choices"][0]["message"]["content"] == "Held back"


async def test_a_failure_is_everybodys(server, text):
    go = asyncio.Event()

    async def fail(asked) -> None:
        await go.wait()
        said = {"error": {"message": "no such luck", "type": "invalid_request_error"}}
        await asked.answer(said, 418)

    async with (
        tool_server({CHAT: fail}) as served,
        workers(served.url, server.url, **over(served.url)) as (one, other),
    ):
        first = begin(one.http.post(CHAT, json=body(text=text)))
        await served.arrived.get()
        second = begin(other.http.post(CHAT, json=body(text=text)))
        while not other.shared._wakeups:  # noqa: ASYNC110 - it follows; no time is measured
            await asyncio.sleep(0.001)
        go.set()
        assert [(await each).status_code for each in (first, second)] == [418, 418]
        assert len(served.asked) == 1


async def test_nobody_joins_a_call_from_before_an_invalidation(two, model, text):
    one, other = two
    leader = Client(one, body(text=text))
    await leader.first.wait()
    await other.http.post("/v1/cache/invalidate", json={"all": True})
    model.go.set()
    late = Client(other, body(text=text))
    await late.task
    await leader.task
    assert (late.outcome, model.calls) == ("miss", 2)
    await one.written()
    await other.written()
    again = await one.http.post(CHAT, json=body(text=text, stream=False))
    assert again.headers["x-slipstream-cache"] == "exact", "the later answer, not the earlier"
    assert model.calls == 2


async def test_redis_dies_and_returns_in_the_middle_and_nobody_loses_a_word(model, text):
    with redis_server() as own:
        async with workers(model.url, own.url, **over(model.url)) as (one, other):
            leader = Client(one, body(text=text))
            await leader.first.wait()
            follower = Client(other, body(text=text))
            await follower.first.wait()
            own.kill()
            third = Client(other, body(text=text + "?"))
            await third.first.wait()
            own.start()
            model.go.set()
            async with asyncio.timeout(20):
                await asyncio.wait([leader.task, follower.task, third.task])
            assert follower.data == leader.data
            assert third.text == "Held back"
            assert [each.status for each in (leader, follower, third)] == [200] * 3


async def test_what_happens_with_redis_is_told(model, text):
    with redis_server() as own:
        async with workers(model.url, own.url, count=1, **over(model.url)) as (one,):
            model.go.set()

            async def degraded() -> dict:
                return (await one.http.get("/readyz")).json()["degraded"]

            assert "redis" not in await degraded()
            own.kill()
            answered = await one.http.post(CHAT, json=body(text=text))
            assert answered.status_code == 200
            assert "Redis" in (await degraded())["redis"]
            metrics = (await one.http.get("/metrics")).text
            assert "slipstream_redis_in_use 0" in metrics
            refused = await one.http.post("/v1/cache/invalidate", json={"all": True})
            assert refused.status_code == 503
            assert refused.json()["code"] == "store_away"
            own.start()
            while "redis" in await degraded():  # noqa: ASYNC110 - the prober's own clock
                await asyncio.sleep(0.01)
            assert "slipstream_redis_in_use 1" in (await one.http.get("/metrics")).text
            while one.shared.workers.has_unsent_invalidations:  # noqa: ASYNC110 - the lease's own clock
                await asyncio.sleep(0.01)
            accepted = await one.http.post("/v1/cache/invalidate", json={"all": True})
            assert accepted.status_code == 200


async def test_a_redis_that_takes_no_writes_costs_nothing_and_is_told(model, text):
    with redis_server("--maxmemory", "100kb", "--maxmemory-policy", "noeviction") as own:
        async with workers(model.url, own.url, count=1, **over(model.url)) as (one,):
            model.go.set()
            for number in range(3):
                said = await one.http.post(CHAT, json=body(text=f"{text} {number}"))
                assert said.status_code == 200
            degraded = (await one.http.get("/readyz")).json()["degraded"]
            assert "takes no writes" in degraded["redis"]


async def test_a_redis_that_evicts_loses_hits_and_nothing_else(model, text):
    with redis_server("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru") as own:
        async with workers(model.url, own.url, **over(model.url)) as (one, other):
            model.go.set()
            redis = one.shared._redis
            for number in range(40):
                await redis.command("SET", f"filler:{number}", b"x" * 100_000)
                said = await one.http.post(CHAT, json=body(text=f"{text} {number}"))
                assert said.status_code == 200
                await one.written()
                accepted = await other.http.post("/v1/cache/invalidate", json={"model": "large"})
                assert accepted.status_code == 200
            async with httpx2.AsyncClient(verify=NO_TLS, base_url=one.running.url) as client:
                degraded = (await client.get("/readyz")).json()["degraded"]
            assert "redis" not in degraded, json.dumps(degraded)


async def test_a_call_of_a_gateway_of_another_version_is_not_joined(two, model, text):
    """What it says of its form, or of its answer, cannot be read: this one asks by itself."""
    one, other = two
    model.go.set()
    first = Client(one, body(text))
    await first.task
    store = other.shared._store
    stranger = f"What does the word {uuid4().hex[:10]} mean in the glossary of UDP?"
    real_claim = store.claim

    async def as_of_another_version(entry_id, flight, _, *, look):
        return await real_claim(entry_id, flight, b"\x93\x01", look=look)

    store.claim = as_of_another_version  # the other one is of a version to come
    model.go.clear()
    leader = Client(other, body(stranger))
    await leader.first.wait()
    late = Client(one, body(stranger))
    await late.first.wait()
    model.go.set()
    await asyncio.wait([leader.task, late.task])
    assert (leader.text, late.text) == ("Held back", "Held back")
    assert late.status == 200
    assert model.calls == 3
