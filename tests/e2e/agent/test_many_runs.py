"""Two hundred runs at once end right and leave nothing: no task, no connection, no memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter

import httpx
import pytest

from app.bootstrap_state import connections_of_all
from app.pipeline.agent import AgentRun
from app.providers.simulator import RunningSimulator, SimulatorSettings
from tests.e2e.agent.test_agent_endpoint import body, read
from tests.e2e.agent.test_agent_loop import agent, echo, tool
from tests.support.gateway import Running, running_gateway
from tests.support.tool_server import Asked, tool_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
RUNS = 200
LEAVING = 50
PATIENCE_S = 25.0


@contextlib.asynccontextmanager
async def desk(*, stock=None):
    """A gateway over the simulator, whose agent calls two tools for each question."""
    async with (
        RunningSimulator(SimulatorSettings(time_scale=0)) as upstream,
        tool_server({"/stock/": stock or echo(), "/price/": echo()}) as tools,
        running_gateway(
            agent(
                upstream,
                [
                    tool(name, tools.url, timeout_s=PATIENCE_S, max_concurrency=RUNS)
                    for name in ("stock", "price")
                ],
            )
        ) as gateway,
    ):
        yield gateway


def question(number: int) -> str:
    """What makes the simulated model call both tools."""
    return f"stock and price of {number}"


async def run_all(gateway: Running, count: int, prefix: str) -> list[httpx.Response]:
    """So many runs at once."""
    async with client_of(gateway) as client, asyncio.TaskGroup() as at_once:
        runs = [
            at_once.create_task(client.post("/v1/agent", json=body(f"{prefix}-{n}", question(n))))
            for n in range(count)
        ]
    return [each.result() for each in runs]


def client_of(gateway: Running) -> httpx.AsyncClient:
    """A client with a connection for each request."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S, limits=limits)


async def idle(gateway: Running) -> None:
    """Wait until no run is under way, and the client's connections are closed."""
    async with asyncio.timeout(PATIENCE_S):
        while gateway.context.runs.under_way or gateway.server.server_state.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)


def tasks() -> Counter[str]:
    """The gateway's own tasks by their function; not those of the clients and servers of this test."""
    files = {
        task: task.get_coro().cr_code.co_filename
        for task in asyncio.all_tasks()
        if not task.done() and hasattr(task.get_coro(), "cr_code")
    }
    return Counter(
        task.get_coro().__qualname__
        for task, file in files.items()
        if "/app/" in file and "/simulator/" not in file
    )


def in_use(gateway: Running) -> Counter[str]:
    """Connections that somebody uses or waits for."""
    found: Counter[str] = Counter()
    for stats in connections_of_all(gateway.context.edge.gateway).values():
        if stats is not None:
            found += Counter(in_flight=stats.in_flight, waiting=stats.waiting)
    return found


def kept_runs() -> int:
    """Runs that are still in memory with all that they read."""
    gc.collect()
    return sum(isinstance(each, AgentRun) for each in gc.get_objects())


async def test_two_hundred_runs_at_once_end_right_and_leave_nothing() -> None:
    async with desk() as gateway:
        for response in await run_all(gateway, 5, "warm"):
            assert response.status_code == 200
        await idle(gateway)
        before = tasks()
        for response in await run_all(gateway, RUNS, "run"):
            events = [event for _, event in read(response.text)]
            assert events[-1]["type"] == "RUN_FINISHED", events[-1]
            assert events[-1]["outcome"] == {"type": "success"}
            told = Counter(event["type"] for event in events)
            assert told["TOOL_CALL_START"] == told["TOOL_CALL_RESULT"] > 0
        await idle(gateway)
        assert not in_use(gateway)
        assert gateway.context.edge.in_flight.now == 0
        assert {name for name in tasks() - before if name.startswith("run ")} == set()
        assert not tasks() - before
        assert kept_runs() == 0
        assert all(
            registered.waiting == 0
            for registered in gateway.context.edge.gateway.tools.tools.values()
        )


async def test_fifty_clients_that_leave_in_the_middle_cancel_their_runs() -> None:
    arrived: asyncio.Queue[Asked] = asyncio.Queue()

    async def hangs(asked: Asked) -> None:
        arrived.put_nowait(asked)
        await asked.until_gone()

    async with (
        desk(stock=hangs) as gateway,
        client_of(gateway) as client,
        asyncio.TaskGroup() as leaving,
    ):
        before = tasks()
        clients = [
            leaving.create_task(client.post("/v1/agent", json=body(f"r-{n}", question(n))))
            for n in range(LEAVING)
        ]
        hung = [await asyncio.wait_for(arrived.get(), PATIENCE_S) for _ in range(LEAVING)]
        for each in clients:
            each.cancel()
        for asked in hung:
            await asyncio.wait_for(asked.gone.wait(), PATIENCE_S)
        await idle(gateway)
        assert not in_use(gateway)
        states = {gateway.context.runs.find("default", f"r-{n}").state for n in range(LEAVING)}
        assert states == {"cancelled"}
        assert not tasks() - before
        assert kept_runs() == 0
