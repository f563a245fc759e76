"""Identical requests in flight share a run, where nothing that it may call changes anything."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.e2e.agent.test_agent_loop import PATIENCE_S, agent, answers, chat, said, tool
from tests.support.gateway import running_gateway
from tests.support.scripted_model import Speaking, scripted_model
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio


async def one_call(speaking: Speaking) -> None:
    """Call the tool, then answer."""
    if any(m["role"] == "tool" for m in speaking.body["messages"]):
        await answers(speaking)
        return
    await speaking.call(0, "a", '{"id": "1"}')
    await speaking.finish("tool_calls")


@pytest.mark.parametrize(
    ("effects", "headers", "runs"),
    [
        ({"read_only": True}, {}, 1),
        ({}, {}, 2),
        ({"read_only": True}, {"x-slipstream-deadline-ms": "15000"}, 2),
    ],
)
async def test_only_a_run_that_changes_nothing_is_shared(effects, headers, runs) -> None:
    arrived: asyncio.Queue[Asked] = asyncio.Queue()
    go_on = asyncio.Event()

    async def waits(asked: Asked) -> None:
        arrived.put_nowait(asked)
        await go_on.wait()
        await asked.answer({"ok": True})

    async with (
        tool_server({"/a/": waits}) as tools,
        scripted_model(one_call) as model,
        running_gateway(agent(model.url, [tool("a", tools.url, effects=effects)])) as gateway,
        asyncio.TaskGroup() as group,
    ):
        flights = gateway.context.edge.gateway.flights
        first = group.create_task(chat(gateway.url, stream=True, headers=headers))
        await asyncio.wait_for(arrived.get(), PATIENCE_S)
        second = group.create_task(chat(gateway.url, headers=headers))
        if runs == 2:
            await asyncio.wait_for(arrived.get(), PATIENCE_S)
        else:
            (flight,) = flights._flights.values()
            while not flight.followers:  # noqa: ASYNC110 - a count has no event
                await asyncio.sleep(0)
        go_on.set()
        assert said(await second) == "All done."
        assert "All done." in (await first).text
        assert len(model.bodies) == 2 * runs
        assert (await second).headers["x-slipstream-cache"] == (
            "coalesced" if runs == 1 else "miss"
        )


async def test_the_first_to_ask_may_leave() -> None:
    arrived: asyncio.Queue[Asked] = asyncio.Queue()
    go_on = asyncio.Event()

    async def waits(asked: Asked) -> None:
        arrived.put_nowait(asked)
        await go_on.wait()
        await asked.answer({"ok": True})

    async with (
        tool_server({"/a/": waits}) as tools,
        scripted_model(one_call) as model,
        running_gateway(agent(model.url, [tool("a", tools.url)])) as gateway,
        httpx.AsyncClient(timeout=PATIENCE_S) as leaver,
        asyncio.TaskGroup() as group,
    ):
        flights = gateway.context.edge.gateway.flights
        body = {
            "model": "agent/desk",
            "stream": True,
            "messages": [{"role": "user", "content": "hi"}],
        }
        url = f"{gateway.url}/v1/chat/completions"
        leaving = group.create_task(leaver.post(url, json=body))
        await asyncio.wait_for(arrived.get(), PATIENCE_S)
        (flight,) = flights._flights.values()
        second = group.create_task(chat(gateway.url))
        while not flight.followers:  # noqa: ASYNC110 - a count has no event
            await asyncio.sleep(0)
        leaving.cancel()
        while not flight.leader_gone:  # noqa: ASYNC110 - a count has no event
            await asyncio.sleep(0)
        go_on.set()
        assert said(await second) == "All done."
        assert len(model.bodies) == 2
