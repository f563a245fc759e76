"""Jobs of several hosts in one Postgres: none is lost and nothing is done twice, whoever goes away."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.agent.test_agent_endpoint import body
from tests.e2e.agent.test_agent_loop import agent, answers, tool
from tests.e2e.agent.test_jobs import CHANGES, ended, pays
from tests.support.gateway import running_gateway
from tests.support.postgres import Postgres, postgres_server
from tests.support.scripted_model import scripted_model
from tests.support.tool_server import Asked, tool_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def fresh(postgres: Postgres) -> Postgres:
    postgres.say("DROP TABLE IF EXISTS jobs, steps, events, hooks, fruitless, schedules")
    return postgres


async def page_of(client: httpx.AsyncClient) -> dict:
    return (await client.get("/readyz")).json()


async def test_two_hosts_share_the_work_and_each_step_is_done_once(fresh: Postgres) -> None:
    effects: Counter[str] = Counter()

    async def pay(asked: Asked) -> None:
        effects[asked.target] += 1
        await asked.answer({"paid": asked.target})

    async with tool_server({"/pay/": pay}) as tools, scripted_model(pays) as model:
        jobs = {"postgres_url": fresh.url, "concurrency": 1, "per_tenant": 2}
        values = {**agent(model.url, [tool("pay", tools.url, effects=CHANGES)]), "jobs": jobs}
        async with (
            running_gateway(values) as one,
            running_gateway(values) as other,
            httpx.AsyncClient(base_url=one.url) as at_one,
            httpx.AsyncClient(base_url=other.url) as at_other,
        ):
            ids = [
                (await at.post("/v1/jobs", json=body(text=f"j{n}"))).json()["id"]
                for n, at in enumerate([at_one, at_other] * 4)
            ]
            over = [await ended(at_other, each) for each in ids]
            assert [job["state"] for job, _ in over] == ["finished"] * 8
            assert effects == Counter({f"/pay/j{n}-{m}": 1 for n in range(8) for m in range(2)})
            for _, events in over:
                kinds = [event["type"] for _, event in events]
                assert (kinds.count("RUN_STARTED"), kinds.count("RUN_FINISHED")) == (1, 1)
            begun = [
                gateway.context.telemetry.metrics.jobs.waited.child().cumulative()[-1]
                for gateway in (one, other)
            ]
            assert sum(begun) == 8
            assert min(begun) > 0


async def test_a_host_that_loses_its_session_in_a_side_effect_does_not_double_it(
    fresh: Postgres,
) -> None:
    """The other host takes the job up while the first one's call is still under way."""
    calls: list[str] = []
    called, go = asyncio.Event(), asyncio.Event()

    async def pay(asked: Asked) -> None:
        calls.append(asked.target)
        called.set()
        await go.wait()
        await asked.answer({"paid": asked.target})

    async def pays_once(speaking) -> None:
        said = [m["content"] for m in speaking.body["messages"] if m["role"] == "tool"]
        if said:
            await speaking.text(f"It said: {said[0][:60]}")
            await speaking.finish()
        else:
            await speaking.call(0, "pay", json.dumps({"id": "x"}))
            await speaking.finish("tool_calls")

    async with tool_server({"/pay/": pay}) as tools, scripted_model(pays_once) as model:
        jobs = {"postgres_url": fresh.url}
        values = {**agent(model.url, [tool("pay", tools.url, effects=CHANGES)]), "jobs": jobs}
        async with (
            running_gateway(values) as one,
            httpx.AsyncClient(base_url=one.url) as at_one,
        ):
            job_id = (await at_one.post("/v1/jobs", json=body(text="a"))).json()["id"]
            await asyncio.wait_for(called.wait(), PATIENCE_S)
            fresh.say(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'slipstream jobs'"
            )
            async with (
                running_gateway(values) as other,
                httpx.AsyncClient(base_url=other.url) as at_other,
            ):
                job, events = await ended(at_other, job_id)
            go.set()
        assert (job["state"], job["crashes"]) == ("finished", 1)
        assert calls == ["/pay/x"]
        results = [e["content"] for _, e in events if e["type"] == "TOOL_CALL_RESULT"]
        assert len(results) == 1
        assert "not known" in results[0]


async def test_a_postgres_that_is_away_costs_jobs_alone_and_is_taken_back(fresh: Postgres) -> None:
    async with scripted_model(answers) as model:
        values = {**agent(model.url, []), "jobs": {"postgres_url": fresh.url}}
        fresh.stop()
        try:
            async with (
                running_gateway(values) as gateway,
                httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S) as client,
            ):
                refused = await client.post("/v1/jobs", json=body())
                assert refused.status_code == 503
                assert refused.json()["code"] == "store_away"
                assert "Postgres" in (await page_of(client))["degraded"]["jobs"]
                asked = {"model": "small", "stream": True}
                asked["messages"] = [{"role": "user", "content": "Well?"}]
                assert (await client.post("/v1/chat/completions", json=asked)).status_code == 200
                fresh.start()  # looked for once a second
                async with asyncio.timeout(PATIENCE_S):
                    while "jobs" in (await page_of(client))["degraded"]:  # noqa: ASYNC110 - see above
                        await asyncio.sleep(0.05)
                job_id = (await client.post("/v1/jobs", json=body())).json()["id"]
                assert (await ended(client, job_id))[0]["state"] == "finished"
        finally:
            if fresh._process is None:
                fresh.start()
