"""A job is kept, runs to its end whatever becomes of its worker, and does nothing twice."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.e2e.agent.test_agent_endpoint import body
from tests.e2e.agent.test_agent_loop import agent, answers, echo, tool
from tests.support.gateway import gateway_process, running_gateway
from tests.support.scripted_model import Speaking, scripted_model
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
PATIENCE_S = 60.0
CHANGES = {"read_only": False, "repeatable": False}


async def ended(client: httpx.AsyncClient, job_id: str) -> tuple[dict, list[tuple[str, dict]]]:
    """The job when it is over, and its events with their ids."""
    text = (await client.get(f"/v1/jobs/{job_id}/events", timeout=PATIENCE_S)).text
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in lines:
            found.append((lines["id"], json.loads(lines["data"])))
    return (await client.get(f"/v1/jobs/{job_id}")).json(), found


async def pays(speaking: Speaking) -> None:
    """Call the tool twice, one turn after the other; then answer."""
    said = speaking.body["messages"]
    number = sum(message["role"] == "tool" for message in said)
    who = next(m["content"] for m in said if m["role"] == "user")
    if number < 2:
        await speaking.call(0, "pay", json.dumps({"id": f"{who}-{number}"}))
        await speaking.finish("tool_calls")
    else:
        await speaking.text(f"Paid for {who}.")
        await speaking.finish()


async def test_a_job_is_accepted_runs_and_tells_its_events() -> None:
    async with (
        tool_server({"/pay/": echo()}) as tools,
        scripted_model(pays) as model,
        running_gateway(agent(model.url, [tool("pay", tools.url, effects=CHANGES)])) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        answer = await client.post("/v1/jobs", json=body(text="a"))
        assert answer.status_code == 202
        job, events = await ended(client, answer.json()["id"])
        assert job["state"] == "finished"
        assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
        assert [event_id for event_id, _ in events] == [
            f"{job['id']}:{n + 1}" for n in range(len(events))
        ]
        assert events[0][1]["type"] == "RUN_STARTED"
        assert events[-1][1]["type"] == "RUN_FINISHED"
        assert tools.targets() == ["/pay/a-0", "/pay/a-1"]
        keys = {asked.headers["idempotency-key"] for asked in tools.asked}
        assert len(keys) == 2


async def test_the_same_key_is_the_same_job_and_with_another_body_a_conflict() -> None:
    async with (
        scripted_model(answers) as model,
        running_gateway(agent(model.url, [])) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        key = {"idempotency-key": "k1"}
        one = await client.post("/v1/jobs", json=body(text="a"), headers=key)
        two = await client.post("/v1/jobs", json=body(text="a"), headers=key)
        other = await client.post("/v1/jobs", json=body(text="b"), headers=key)
        assert one.json()["id"] == two.json()["id"]
        assert other.status_code == 409
        assert (await ended(client, one.json()["id"]))[0]["state"] == "finished"
        assert len(model.bodies) == 1


async def test_a_cancelled_job_stops_and_says_so() -> None:
    async def hangs(asked: Asked) -> None:
        await asked.until_gone()

    async with (
        tool_server({"/pay/": hangs}) as tools,
        scripted_model(pays) as model,
        running_gateway(agent(model.url, [tool("pay", tools.url)])) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        job_id = (await client.post("/v1/jobs", json=body(text="a"))).json()["id"]
        await asyncio.wait_for(tools.arrived.get(), PATIENCE_S)
        assert (await client.post(f"/v1/jobs/{job_id}/cancel")).json()["state"] == "cancelled"
        assert (await ended(client, job_id))[0]["state"] == "cancelled"


@pytest.mark.parametrize("most", [1, 3])
async def test_a_failing_upstream_is_tried_so_often_and_then_the_job_is_dead(most: int) -> None:
    async def fails(asked: Asked) -> None:
        await asked.answer({"error": {"message": "no", "type": "server_error"}}, 500)

    jobs = {"max_attempts": most, "backoff_s": 0.01}
    async with (
        tool_server({"/v1/chat/completions": fails}) as model,
        running_gateway({**agent(model.url, []), "jobs": jobs}) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        job_id = (await client.post("/v1/jobs", json=body(text="a"))).json()["id"]
        job, events = await ended(client, job_id)
        assert (job["state"], job["attempts"]) == ("dead", most)
        assert [event["type"] for _, event in events].count("RUN_ERROR") == 1


async def test_jobs_that_are_off_are_not_there() -> None:
    async with (
        scripted_model(answers) as model,
        running_gateway({**agent(model.url, []), "jobs": {"enabled": False}}) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        assert (await client.post("/v1/jobs", json=body(text="a"))).status_code == 404


@pytest.mark.parametrize("setting", ["concurrency", "per_tenant"])
async def test_no_more_jobs_run_at_once_than_a_worker_and_a_tenant_may(setting: str) -> None:
    under_way, most = 0, 0

    async def counts(asked: Asked) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        await asked.answer({})

    async with (
        tool_server({"/pay/": counts}) as tools,
        scripted_model(pays) as model,
        running_gateway(
            {**agent(model.url, [tool("pay", tools.url)]), "jobs": {setting: 1}}
        ) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        ids = [
            (await client.post("/v1/jobs", json=body(text=f"j{n}"))).json()["id"] for n in range(4)
        ]
        assert [(await ended(client, each))[0]["state"] for each in ids] == ["finished"] * 4
        order = [target.rpartition("/")[2] for target in tools.targets()]
        assert order == [f"j{n}-{m}" for n in range(4) for m in range(2)]
        assert most == 1


@pytest.mark.timeout(3600)
async def test_killed_workers_lose_no_job_and_double_no_side_effect(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """SIGKILL at random points of running jobs, a new worker each time."""
    kills = int(pytestconfig.getoption("kills"))
    rng = random.Random(8)
    effects: Counter[str] = Counter()

    async def pay(asked: Asked) -> None:
        effects[asked.headers["idempotency-key"]] += 1
        await asyncio.sleep(rng.random() * 0.02)  # spreads the points at which a kill may fall
        await asked.answer({"paid": asked.target})

    async with tool_server({"/pay/": pay}) as tools, scripted_model(pays) as model:
        values = {
            **agent(model.url, [tool("pay", tools.url, effects=CHANGES)]),
            "state": {"data_dir": str(tmp_path)},
            "telemetry": {"log_format": "json", "log_level": "info"},  # it tells its start there
        }
        ids: list[str] = []
        for kill in range(kills + 1):
            with ExitStack() as stack:
                gateway = await asyncio.to_thread(stack.enter_context, gateway_process(values))
                async with httpx.AsyncClient(base_url=gateway.url) as client:
                    if kill == kills:
                        over = [await ended(client, each) for each in ids]
                        break
                    for number in range(3):
                        key = {"idempotency-key": f"{kill}-{number}"}
                        given = body(text=f"j{kill}-{number}")
                        answer = await client.post("/v1/jobs", json=given, headers=key)
                        ids.append(answer.json()["id"])
                    await asyncio.sleep(rng.random() * 0.15)
                gateway.process.kill()
                await asyncio.to_thread(gateway.process.wait)
        assert [job["state"] for job, _ in over] == ["finished"] * len(ids)
        assert sum(job["crashes"] for job, _ in over) > 0
        assert max(effects.values()) == 1
        for job, events in over:
            kinds = [event["type"] for _, event in events]
            assert (kinds.count("RUN_STARTED"), kinds.count("RUN_FINISHED")) == (1, 1), job
