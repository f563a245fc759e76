"""An approval reaches the run that asked, whichever worker hears it, and is taken once by all of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import httpx
import pytest

from tests.e2e.agent.test_agent_endpoint import body, post, read
from tests.e2e.agent.test_agent_loop import agent, echo, tool
from tests.e2e.agent.test_approvals import YES, resumed, two_calls
from tests.support.gateway import gateway_process, running_gateway
from tests.support.redis import redis_server
from tests.support.scripted_model import scripted_model
from tests.support.tool_server import tool_server

pytestmark = pytest.mark.anyio


@pytest.fixture
def server():
    with redis_server() as running:
        yield running


RUNS = 12
"""With two workers, about half of the approvals meet the one that did not ask."""


@contextlib.asynccontextmanager
async def configured(**more: object):
    """The configuration of an agent that may look, and restart what a person approves; and its tools."""
    async with (
        tool_server({"/look/": echo(), "/restart/": echo()}) as tools,
        scripted_model(*[two_calls] * (6 * RUNS)) as model,
    ):
        offered = [tool("look", tools.url), tool("restart", tools.url, approval=True)]
        yield {**agent(model.url, offered), **more}, tools


def made(tools) -> int:
    """How often the approved call was made."""
    return tools.targets().count("/restart/2")


def refusal(response: httpx.Response) -> tuple[int, str]:
    """An error's status and code."""
    return response.status_code, response.json()["code"]


async def approve(url: str, asked_by: str, run_id: str) -> httpx.Response:
    """Approve the call that the run ``asked_by`` ended with."""
    return await post(url, resumed(YES, run_id=run_id, interrupt=f"{asked_by}:c1"))


@pytest.mark.slow
async def test_any_worker_of_a_server_takes_an_approval_and_all_take_it_once() -> None:
    async with configured() as (values, tools):
        with gateway_process(values, "--workers", "2") as gateway:
            for number in range(RUNS):
                await post(gateway.url, body(f"ask-{number}"))
                response = await approve(gateway.url, f"ask-{number}", f"go-on-{number}")
                assert response.status_code == 200, (number, response.text)
                assert read(response.text)[-1][1]["outcome"] == {"type": "success"}
                again = await approve(gateway.url, f"ask-{number}", f"again-{number}")
                assert refusal(again) == (409, "interrupt_answered")
            assert made(tools) == RUNS
            for number in range(RUNS):
                unknown = await approve(gateway.url, f"nobody-{number}", f"unknown-{number}")
                assert refusal(unknown) == (404, "interrupt_not_found")


@pytest.mark.slow
async def test_of_approvals_that_come_at_once_to_several_workers_one_is_taken() -> None:
    async with configured() as (values, tools):
        with gateway_process(values, "--workers", "2") as gateway:
            await post(gateway.url, body("ask"))
            approvals = (approve(gateway.url, "ask", f"go-on-{n}") for n in range(6))
            statuses = Counter(each.status_code for each in await asyncio.gather(*approvals))  # noqa: TID251
            assert statuses == {200: 1, 409: 5}
            assert made(tools) == 1


async def test_through_redis_an_approval_is_taken_by_the_other_worker_once(server) -> None:
    async with (
        configured(state={"redis_url": server.url}) as (values, tools),
        running_gateway(values) as asking,
        running_gateway(values) as other,
    ):
        await post(asking.url, body("ask"))
        response = await approve(other.url, "ask", "go-on")
        assert response.status_code == 200, response.text
        assert read(response.text)[-1][1]["outcome"] == {"type": "success"}
        for number, gateway in enumerate((asking, other)):
            again = await approve(gateway.url, "ask", f"again-{number}")
            assert refusal(again) == (409, "interrupt_answered")
        unknown = await approve(other.url, "nobody", "unknown")
        assert refusal(unknown) == (404, "interrupt_not_found")
        assert made(tools) == 1


async def test_through_redis_no_worker_takes_what_the_worker_that_asked_has_taken(server):
    async with (
        configured(state={"redis_url": server.url}) as (values, tools),
        running_gateway(values) as asking,
        running_gateway(values) as other,
    ):
        await post(asking.url, body("ask"))
        assert (await approve(asking.url, "ask", "go-on")).status_code == 200
        again = await approve(other.url, "ask", "again")
        assert refusal(again) == (409, "interrupt_answered")
        assert made(tools) == 1


async def test_an_approval_is_not_made_while_redis_cannot_say_whether_it_was(server) -> None:
    """It is refused to be tried again: a refund made twice is worse than one made late."""
    async with (
        configured(state={"redis_url": server.url}) as (values, tools),
        running_gateway(values) as asking,
    ):
        await post(asking.url, body("ask"))
        server.kill()
        response = await approve(asking.url, "ask", "go-on")
        assert refusal(response) == (503, "store_away")
        assert made(tools) == 0
        server.start()


async def test_an_approval_with_a_run_id_that_is_taken_is_not_used_up() -> None:
    async with configured() as (values, tools), running_gateway(values) as gateway:
        await post(gateway.url, body("ask"))
        taken = await approve(gateway.url, "ask", "ask")
        assert refusal(taken) == (409, "run_exists")
        assert (await approve(gateway.url, "ask", "go-on")).status_code == 200
        assert made(tools) == 1
