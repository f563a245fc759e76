"""Runs that any worker can be asked for: rejoined, cancelled, and ended clearly when theirs is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from uuid import uuid4

import pytest

from tests.e2e.agent.test_agent_endpoint import body, read
from tests.e2e.agent.test_agent_loop import agent, echo, tool
from tests.e2e.state.conftest import workers
from tests.e2e.state.test_worker_processes import processes
from tests.support.redis import redis_server
from tests.support.scripted_model import scripted_model
from tests.support.tool_server import tool_server

pytestmark = pytest.mark.anyio


class Talking:
    """A model that says a few words, waits, and says the rest."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, speaking) -> None:
        for word in ("One ", "two "):
            await speaking.text(word)
        await self.go.wait()
        await speaking.text("three.")
        await speaking.finish()


def sections(model_url: str) -> dict:
    values = agent(model_url, [])
    return {name: values[name] for name in ("providers", "models", "agents")}


@pytest.fixture
async def talking():
    script = Talking()
    async with scripted_model(script) as model:
        script.url = model.url
        yield script


class Reader:
    """A client of an event stream, read as it comes."""

    def __init__(self, http, method: str, path: str, **more) -> None:
        self.data, self.two = b"", asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._read(http, method, path, more))

    async def _read(self, http, method: str, path: str, more: dict) -> None:
        async with http.stream(method, path, **more) as reply:
            self.status = reply.status_code
            async for piece in reply.aiter_raw():
                self.data += piece
                if b"two " in self.data:
                    self.two.set()


async def test_a_stream_is_resumed_byte_for_byte_from_another_worker(talking, server):
    run_id = uuid4().hex
    async with workers(talking.url, server.url, **sections(talking.url)) as (one, other):
        first = Reader(one.http, "POST", "/v1/agent", json=body(run_id, onDisconnect="detach"))
        await first.two.wait()
        elsewhere = Reader(other.http, "GET", f"/v1/runs/{run_id}/events")
        await elsewhere.two.wait()
        assert (await other.http.get(f"/v1/runs/{run_id}")).json()["state"] == "running"
        talking.go.set()
        async with asyncio.timeout(20):
            await asyncio.wait([first.task, elsewhere.task])
        told = first.data.split(b"\n\n")
        assert elsewhere.data.split(b"\n\n") == told
        events = read(first.data.decode())
        assert events[-1][1]["type"] == "RUN_FINISHED"
        for number in range(1, len(events)):
            head = {"last-event-id": events[number - 1][0]}
            rest = await other.http.get(f"/v1/runs/{run_id}/events", headers=head)
            assert rest.content.split(b"\n\n") == told[number:]
        state = (await other.http.get(f"/v1/runs/{run_id}")).json()
        assert state == (await one.http.get(f"/v1/runs/{run_id}")).json()
        assert (await other.http.get(f"/v1/runs/{run_id}x/events")).status_code == 404
        again = await other.http.post("/v1/agent", json=body(run_id))
        assert again.status_code == 409


async def test_any_worker_can_cancel_a_run(talking, server):
    run_id = uuid4().hex
    async with workers(talking.url, server.url, **sections(talking.url)) as (one, other):
        first = Reader(one.http, "POST", "/v1/agent", json=body(run_id))
        await first.two.wait()
        state = await other.http.post(f"/v1/runs/{run_id}/cancel")
        assert state.json()["state"] == "cancelled"
        async with asyncio.timeout(20):
            await first.task


@pytest.mark.slow
async def test_the_run_of_a_killed_worker_ends_with_a_clear_error(talking):
    run_id = uuid4().hex
    with redis_server() as redis:
        async with processes(redis.url, talking.url, **sections(talking.url)) as so_many:
            one, other = await so_many(2)
            first = Reader(one.http, "POST", "/v1/agent", json=body(run_id))
            await first.two.wait()
            elsewhere = Reader(other.http, "GET", f"/v1/runs/{run_id}/events")
            await elsewhere.two.wait()
            os.kill(one.pid, signal.SIGKILL)
            async with asyncio.timeout(30):
                await asyncio.wait([first.task, elsewhere.task])
            last = read(elsewhere.data.decode())[-1][1]
            assert (last["type"], last["code"]) == ("RUN_ERROR", "worker_lost")
            state = (await other.http.get(f"/v1/runs/{run_id}")).json()
            assert (state["state"], state["code"]) == ("failed", "worker_lost")


async def test_a_tools_result_is_used_by_every_worker_for_its_time(server):
    async def call_once(speaking) -> None:
        if any(message["role"] == "tool" for message in speaking.body["messages"]):
            await speaking.text("done")
            await speaking.finish()
            return
        await speaking.call(0, "a", '{"id": "1"}')
        await speaking.finish("tool_calls")

    async with tool_server({"/a/": echo()}) as tools, scripted_model(call_once) as model:
        values = agent(model.url, [tool("a", tools.url, cache_ttl_s=60)])
        parts = {name: values[name] for name in ("providers", "models", "agents", "tools")}
        async with workers(model.url, server.url, **parts) as (one, other):
            for worker in (one, other, one):
                said = await worker.http.post("/v1/agent", json=body(uuid4().hex))
                assert "RUN_FINISHED" in said.text
                await worker.running.context.edge.gateway.tools.shared.settled()
        assert len(tools.asked) == 1
