"""Several gateway processes of one Redis, and what happens when one of them, or Redis, is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass
from uuid import uuid4

import httpx2
import pytest

from app.providers.simulator import RunningSimulator, SimulatorSettings
from tests.e2e.conftest import NO_TLS
from tests.e2e.state.test_shared_flights import CHAT, Client, Held, body, over
from tests.support.gateway import configuration, gateway_process, sse_events
from tests.support.redis import redis_server
from tests.support.scripted_model import scripted_model

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
WORKERS = 4


@dataclass(frozen=True, slots=True)
class Process:
    """One gateway process, and a client of it."""

    process: subprocess.Popen[str]
    http: httpx2.AsyncClient

    @property
    def pid(self) -> int:
        """Its id."""
        return self.process.pid


@contextlib.asynccontextmanager
async def processes(redis_url: str, upstream: str, **sections: object):
    """Gives a way to so many living gateways: what is missing, or was killed, is started side by side."""
    state = {"redis_url": redis_url, "redis_budget_ms": 1_000}
    telemetry = {"log_format": "json", "log_level": "info"}  # its start is read from there
    values = configuration(upstream, **{"state": state, "telemetry": telemetry, **sections})
    async with contextlib.AsyncExitStack() as stack:
        living: list[Process] = []

        async def so_many(count: int) -> list[Process]:
            living[:] = [each for each in living if each.process.poll() is None]
            missing = [gateway_process(values) for _ in range(count - len(living))]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(asyncio.to_thread(each.__enter__)) for each in missing]
            for each in missing:
                stack.push_async_callback(asyncio.to_thread, each.__exit__, None, None, None)
            for task in tasks:
                gateway = task.result()
                limits = httpx2.Limits(max_connections=200, max_keepalive_connections=200)
                client = httpx2.AsyncClient(
                    verify=NO_TLS, base_url=gateway.url, timeout=60, limits=limits
                )
                http = await stack.enter_async_context(client)
                living.append(Process(gateway.process, http))
            return [*living]

        yield so_many


@pytest.fixture(scope="module")
async def held():
    """A model under the tests' control, and gateways over it; a test takes ``fresh``."""
    script = _Changing()
    with redis_server() as redis:
        async with (
            scripted_model(script) as served,
            processes(redis.url, served.url, **over(served.url)) as so_many,
        ):
            yield script, so_many


class _Changing:
    """One served address, another script for each test."""

    def __init__(self) -> None:
        self.now = Held()

    async def __call__(self, speaking) -> None:
        await self.now(speaking)


@pytest.fixture
async def fresh(held):
    """The model, and four living workers, whatever an earlier test has killed."""
    script, so_many = held
    script.now = Held()
    return script.now, await so_many(WORKERS)


@pytest.fixture
def text() -> str:
    return f"What does the word {uuid4().hex[:10]} mean in the glossary of TCP?"


async def test_two_hundred_identical_requests_over_four_workers_are_one_call(fresh, text):
    model, made = fresh
    clients = [Client(made[n % WORKERS], body(text)) for n in range(200)]
    async with asyncio.timeout(60):
        for client in clients:
            await client.first.wait()
        assert not any(client.task.done() for client in clients)
        model.go.set()
        await asyncio.wait([client.task for client in clients])
    assert model.calls == 1
    assert {client.text for client in clients} == {"Held back"}
    assert len({client.data for client in clients}) == 1
    assert Counter(client.outcome for client in clients) == {"miss": 1, "coalesced": 199}


async def test_an_invalidation_holds_for_a_worker_that_was_stopped_meanwhile(fresh, text):
    model, made = fresh
    model.go.set()
    asleep = made[2]
    only = {"x-slipstream-cache": "only"}
    for worker in made:  # the kept answer lies in the memory of each
        assert (await worker.http.post(CHAT, json=body(text))).status_code == 200
    for worker in made:
        assert (await worker.http.post(CHAT, json=body(text), headers=only)).status_code == 200
    os.kill(asleep.pid, signal.SIGSTOP)
    try:
        said = await made[0].http.post("/v1/cache/invalidate", json={"all": True})
        assert said.status_code == 200
    finally:
        os.kill(asleep.pid, signal.SIGCONT)
    for worker in (asleep, *made):
        assert (await worker.http.post(CHAT, json=body(text), headers=only)).status_code == 504


async def test_redis_killed_and_started_under_load_costs_no_request():
    async with RunningSimulator(SimulatorSettings(time_scale=0)) as upstream:
        with redis_server() as redis:
            async with processes(redis.url, upstream) as so_many:
                made, asked = await so_many(2), iter(range(600))
                done: Counter[int] = Counter()
                third, two_thirds = asyncio.Event(), asyncio.Event()

                async def ask() -> None:
                    for number in asked:
                        question = f"What does the word tcp-{number // 3} mean in the glossary?"
                        reply = await made[number % 2].http.post(
                            CHAT, json=body(question, stream=number % 2 == 0)
                        )
                        done[reply.status_code] += 1
                        if number == 200:
                            third.set()
                        elif number == 400:
                            two_thirds.set()

                async with asyncio.timeout(90), asyncio.TaskGroup() as group:
                    for _ in range(16):
                        group.create_task(ask())
                    await third.wait()
                    redis.kill()
                    await two_thirds.wait()
                    redis.start()
                assert done == {200: 600}


async def test_a_leader_killed_before_its_first_word_is_replaced(fresh, text):
    model, made = fresh
    model.before.clear()
    leader = Client(made[3], body(text))
    async with asyncio.timeout(20):
        while not model.calls:  # noqa: ASYNC110 - a count has no event; no time is measured
            await asyncio.sleep(0.001)
    followers = [Client(made[number % 3], body(text)) for number in range(9)]
    async with asyncio.timeout(20):
        while await in_flight(made) < 10:  # noqa: ASYNC110 - a count has no event
            await asyncio.sleep(0.01)
    os.kill(made[3].pid, signal.SIGKILL)
    model.before.set()
    model.go.set()
    async with asyncio.timeout(30):
        await asyncio.wait([leader.task, *(each.task for each in followers)])
    assert was_cut_off(leader)
    assert [each.text for each in followers] == ["Held back"] * 9
    assert model.calls == 2


async def test_a_leader_killed_in_the_middle_is_taken_over_from_where_the_stream_stood(fresh, text):
    model, made = fresh
    leader = Client(made[2], body(text))
    await leader.first.wait()
    followers = [Client(made[n % 2], body(text)) for n in range(4)]
    other = {"x-slipstream-cache": "only"}
    async with asyncio.timeout(20):
        for each in followers:
            await each.first.wait()
    os.kill(made[2].pid, signal.SIGKILL)
    model.go.set()
    async with asyncio.timeout(30):
        await asyncio.wait([leader.task, *(each.task for each in followers)])
    assert was_cut_off(leader)
    assert [each.text for each in followers] == ["Held back"] * 4
    assert len({each.data for each in followers}) == 1
    assert followers[0].data.count(b"[DONE]") == 1
    assert len({event["id"] for event in sse_events(followers[0].data.decode())}) == 1
    assert model.calls == 2
    kept = await made[0].http.post(CHAT, json=body(text, stream=False), headers=other)
    assert kept.json()["choices"][0]["message"]["content"] == "Held back"


async def test_a_model_that_says_something_else_is_not_gone_on_with(fresh, text):
    model, made = fresh
    leader = Client(made[1], body(text))
    await leader.first.wait()
    follower = Client(made[0], body(text))
    await follower.first.wait()
    model.word = "Other"
    os.kill(made[1].pid, signal.SIGKILL)
    model.go.set()
    async with asyncio.timeout(30):
        await asyncio.wait([leader.task, follower.task])
    assert was_cut_off(leader)
    last = sse_events(follower.data.decode())[-1]
    assert last["error"]["code"] == "leader_lost"
    assert "Other" not in follower.data.decode()


def was_cut_off(client: Client) -> bool:
    """Whether its worker died under it. Asked here, or its failure would be the next test's."""
    return isinstance(client.task.exception(), httpx2.TransportError)


async def in_flight(made: list[Process]) -> int:
    """Turns that the workers are answering now."""
    found = 0
    for worker in made:
        page = (await worker.http.get("/metrics")).text
        found += int(float(page.split("\nslipstream_in_flight ", 1)[1].split("\n", 1)[0]))
    return found
