"""A job whose store fails, or whose end is told twice."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from app.stores.job_records import AttemptEnd, Job
from app.stores.job_sqlite import SqliteJobDatabase
from app.stores.job_store import JobStore
from tests.e2e.agent.test_agent_endpoint import body
from tests.e2e.agent.test_agent_loop import agent, tool
from tests.e2e.agent.test_job_ends import hooked, says_well, told
from tests.e2e.agent.test_jobs import CHANGES, ended, pays
from tests.support.gateway import gateway_process, running_gateway
from tests.support.scripted_model import scripted_model
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
PATIENCE_S = 60.0


async def degraded(client: httpx.AsyncClient, *, jobs: bool) -> dict[str, str]:
    """What ``/readyz`` says once the jobs are degraded, or no longer are."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = (await client.get("/readyz")).json()["degraded"]
            if ("jobs" in found) is jobs:
                return found
            await asyncio.sleep(0.05)


@pytest.mark.timeout(120)
async def test_a_full_disk_is_told_costs_jobs_alone_and_they_go_on_once_there_is_room(
    tmp_path: Path,
) -> None:
    effects: Counter[str] = Counter()
    called, go = asyncio.Event(), asyncio.Event()

    async def pay(asked: Asked) -> None:
        effects[asked.target] += 1
        called.set()
        await go.wait()
        await asked.answer({"paid": asked.target})

    async with tool_server({"/pay/": pay}) as tools, scripted_model(pays) as model:
        values = {
            **agent(model.url, [tool("pay", tools.url, effects=CHANGES)]),
            "state": {"data_dir": str(tmp_path)},
            "telemetry": {"log_format": "json", "log_level": "info"},
        }
        with gateway_process(values) as gateway:
            async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S) as client:
                job_id = (await client.post("/v1/jobs", json=body(text="a"))).json()["id"]
                await asyncio.wait_for(called.wait(), PATIENCE_S)
                pid = gateway.process.pid
                before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
                try:
                    go.set()
                    assert "jobs" in await degraded(client, jobs=True)
                    refused = await client.post("/v1/jobs", json=body(text="b"))
                    assert (refused.status_code, refused.json()["code"]) == (503, "store_away")
                    asked = {"model": "small", "messages": [{"role": "user", "content": "Hm?"}]}
                    asked["stream"] = True
                    answer = await client.post("/v1/chat/completions", json=asked)
                    assert answer.status_code == 200
                finally:
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
                await degraded(client, jobs=False)
                job, events = await ended(client, job_id)
                assert job["state"] == "finished"
                assert max(effects.values()) == 1
                results = [e["content"] for _, e in events if e["type"] == "TOOL_CALL_RESULT"]
                assert len(results) == 2
                assert "not known" in results[0]
                later = (await client.post("/v1/jobs", json=body(text="c"))).json()["id"]
                assert (await ended(client, later))[0]["state"] == "finished"


async def test_each_end_of_a_job_that_is_begun_again_is_told_under_an_id_of_its_own() -> None:
    broken = True

    async def script(asked: Asked) -> None:
        if broken:
            await asked.answer({"error": {"message": "no", "type": "server_error"}}, 400)
        else:
            await says_well(asked)

    async def hears(asked: Asked) -> None:
        await asked.answer(b"", 204)

    async with (
        tool_server({"/hook": hears}) as receiver,
        tool_server({"/v1/chat/completions": script}) as model,
        running_gateway({**agent(model.url, []), "jobs": hooked(receiver.url)}) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        job_id = (await client.post("/v1/jobs?webhook=ci", json=body())).json()["id"]
        await told(client, job_id, "delivered")
        broken = False
        assert (await client.post(f"/v1/jobs/{job_id}/retry")).status_code == 202
        await ended(client, job_id)
        await told(client, job_id, "delivered")
        heard = [
            (asked.headers["webhook-id"], json.loads(asked.body)["type"])
            for asked in receiver.asked
        ]
        assert [kind for _, kind in heard] == ["job.dead", "job.finished"]
        assert len({each for each, _ in heard}) == 2


def test_a_job_and_its_last_event_end_in_one_step(tmp_path: Path) -> None:
    """Else an attempt after a crash between the two could end otherwise than its readers were told."""
    store = JobStore(SqliteJobDatabase(tmp_path))
    now = time.time()
    job = Job.queued(id="j", tenant="t", body=b"{}", agent="a", due=now, created=now)
    store.add(job, None)
    assert store.claim(now, 4) is not None
    store.settle("j", AttemptEnd("finished", now), [(1, "RUN_FINISHED", "{}")])
    assert store.events_after("j") == [(1, "RUN_FINISHED", "{}")]
    store.settle("j", AttemptEnd("dead", now, "late"), [(2, "RUN_ERROR", "{}")])
    found = store.find("t", "j")
    assert found is not None
    assert found.state == "finished"
    assert store.events_after("j") == [(1, "RUN_FINISHED", "{}")]
    store.close()


def test_the_events_of_a_job_cancelled_under_a_worker_that_died_have_an_end(tmp_path: Path) -> None:
    store, other = JobStore(SqliteJobDatabase(tmp_path)), JobStore(SqliteJobDatabase(tmp_path))
    now = time.time()
    store.add(Job.queued(id="j", tenant="t", body=b"{}", agent="a", due=now, created=now), None)
    assert store.claim(now, 4) is not None
    store.append_events("j", [(1, "RUN_STARTED", "{}")])
    store.cancel("t", "j")
    store.close()
    assert other.requeue_orphans(50) == 1
    found = other.find("t", "j")
    assert found is not None
    assert found.state == "cancelled"
    assert [kind for _, kind, _ in other.events_after("j")] == ["RUN_STARTED", "RUN_ERROR"]
    other.close()


def test_the_events_of_a_job_cancelled_between_two_attempts_have_an_end(tmp_path: Path) -> None:
    store = JobStore(SqliteJobDatabase(tmp_path))
    now = time.time()
    for each in ("j", "never begun"):
        store.add(Job.queued(id=each, tenant="t", body=b"", agent="a", due=now, created=now), None)
    assert store.claim(now, 4) is not None
    store.append_events("j", [(1, "RUN_STARTED", "{}")])
    store.settle("j", AttemptEnd("queued", now + 9))
    store.cancel("t", "j")
    store.cancel("t", "never begun")
    assert [kind for _, kind, _ in store.events_after("j")] == ["RUN_STARTED", "RUN_ERROR"]
    assert store.events_after("never begun") == []
    store.close()
