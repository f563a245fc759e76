"""Under more load than the upstream bears: some are told to come back, the others are served at pace."""

from __future__ import annotations

import asyncio
import statistics
import time

import httpx2
import pytest

from tests.contract.test_settings_act import CHAT, NO_TLS, chat_answer, gateway_over, question
from tests.support.gateway import configuration, running_gateway
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
TAKES_S = 0.05


async def test_what_is_over_the_queue_is_told_to_come_back_and_the_rest_keep_their_pace():
    """Ten clients' worth of requests at an upstream with places for four: a ratio, no absolute time."""

    async def work(asked: Asked, _: dict) -> None:
        await asyncio.sleep(TAKES_S)
        await asked.answer(chat_answer("The answer, after some honest work on it."))

    provider = {
        "max_connections": 4,
        "max_queued": 4,
        "queue_timeout_s": 10 * TAKES_S,
        "retries": 0,
    }
    cache = {"exact": {"enabled": False}, "coalesce": False, "semantic": {"enabled": False}}
    async with gateway_over(work, provider=provider, cache=cache) as (client, upstream, running):

        async def ask(number: int) -> tuple[int, float, str | None]:
            began_s = time.monotonic()
            answer = await client.post(CHAT, json=question(text=f"Question {number}"))
            took_s = time.monotonic() - began_s
            return answer.status_code, took_s, answer.headers.get("retry-after")

        calm = [await ask(number) for number in range(8)]
        async with asyncio.TaskGroup() as group:
            tasks = []
            for number in range(160):
                tasks.append(group.create_task(ask(100 + number)))
                await asyncio.sleep(TAKES_S / 10)
        answers = [task.result() for task in tasks]
        page = (await client.get("/metrics")).text
    assert {status for status, _, _ in answers} == {200, 503}
    served = [took_s for status, took_s, _ in answers if status == 200]
    refused = [(took_s, retry) for status, took_s, retry in answers if status == 503]
    assert len(served) + len(refused) == 160
    assert len(served) > 160 * 0.25
    assert all(retry and int(retry) >= 1 for _, retry in refused)
    calm_s = statistics.median(took_s for _, took_s, _ in calm)
    # At most its own time and one turn of the queue before it.
    assert statistics.median(served) < 4 * calm_s
    # Most are told at once and not after a wait.
    assert statistics.median(took_s for took_s, _ in refused) < calm_s
    assert len(upstream.asked) == 8 + len(served)
    assert 'slipstream_upstream_places{provider="local",which="waiting"} 0' in page
    assert "slipstream_shed_total{" in page
    assert running.context.edge.in_flight.now == 0


async def test_an_upstream_that_says_too_much_is_asked_less():
    """And says so by its limit, while every client gets the true status."""
    busy = 0

    async def refuse(asked: Asked, _: dict) -> None:
        nonlocal busy
        busy += 1
        try:
            await asyncio.sleep(TAKES_S)
            if busy > 3:
                error = {"error": {"message": "slow down", "type": "rate_limit_error"}}
                await asked.answer(error, 429)
            else:
                await asked.answer(chat_answer("Here is what you have asked for, quite whole."))
        finally:
            busy -= 1

    provider = {"max_connections": 32, "retries": 0}
    cache = {"exact": {"enabled": False}, "coalesce": False, "semantic": {"enabled": False}}
    async with gateway_over(refuse, provider=provider, cache=cache) as (client, upstream, _):

        async def rounds(count: int) -> list[int]:
            async def one(number: int) -> int:
                answer = await client.post(CHAT, json=question(text=f"Question {number}"))
                return answer.status_code

            found: list[int] = []
            for _ in range(count):
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(number)) for number in range(12)]
                found += [task.result() for task in tasks]
            return found

        first = await rounds(2)
        await rounds(15)
        before = len(upstream.asked)
        last = await rounds(4)
    assert len(upstream.asked) > before
    assert first.count(429) > last.count(429)
    assert last.count(200) > 0


async def test_where_one_upstream_has_no_place_another_of_the_tier_answers():
    go = asyncio.Event()

    async def stuck(asked: Asked) -> None:
        await go.wait()
        await asked.answer(chat_answer("The first one, after everybody else was done."))

    async def quick(asked: Asked) -> None:
        await asked.answer(chat_answer("The second one had a place for this question."))

    path = "/v1/chat/completions"
    async with tool_server({path: stuck}) as one, tool_server({path: quick}) as two:
        common = {"kind": "openai", "warm_connections": 0, "retries": 0, "max_connections": 1}
        values = configuration(one.url)
        values["providers"] = {
            "one": {**common, "base_url": f"{one.url}/v1", "max_queued": 0},
            "two": {**common, "base_url": f"{two.url}/v1"},
        }
        values["models"] = [
            {"name": name, "provider": name, "model": name, "tier": "fast"}
            for name in ("one", "two")
        ]
        async with (
            running_gateway(values) as gateway,
            httpx2.AsyncClient(verify=NO_TLS, base_url=gateway.url, timeout=20) as http,
            asyncio.TaskGroup() as group,
        ):
            held = group.create_task(http.post(CHAT, json=question("one", "One thing")))
            await one.arrived.get()
            for number in range(6):
                answer = await http.post(CHAT, json=question("auto", f"Thing {number}"))
                assert answer.status_code == 200
            refused = await http.post(CHAT, json=question("one", "Another thing"))
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "upstream_busy"
            go.set()
            assert (await held).status_code == 200
    assert len(one.asked) == 1
