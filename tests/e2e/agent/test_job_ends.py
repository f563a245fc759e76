"""Who waits for a job's end hears of it, signed; dead jobs can be listed and begun again; schedules
make jobs and warm prompts; all of it is counted.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from app.domain.cron import parse
from app.jobs.schedules import Schedule, Schedules
from app.stores.job_records import AttemptEnd, Job
from app.stores.job_sqlite import SqliteJobDatabase
from app.stores.job_store import JobStore
from app.telemetry.metrics import Metrics
from tests.e2e.agent.test_agent_endpoint import body
from tests.e2e.agent.test_agent_loop import agent, answers
from tests.e2e.agent.test_jobs import PATIENCE_S, ended
from tests.support.gateway import running_gateway
from tests.support.scripted_model import Speaking, scripted_model
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()


def hooked(url: str, **more: object) -> dict[str, object]:
    """A receiver ``ci`` at ``url``."""
    hook = {"name": "ci", "url": f"{url}/hook", "secret": SECRET}
    return {"webhooks": [hook], "webhook_backoff_s": 0.01, **more}


def signature_of(asked: Asked) -> str:
    """What the receiver computes, by Standard Webhooks."""
    headers = asked.headers
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + asked.body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


async def says_well(asked: Asked) -> None:
    """A model that answers in whichever form it is asked."""
    choice = {"index": 0, "finish_reason": "stop"}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    if json.loads(asked.body).get("stream"):
        head["object"] = "chat.completion.chunk"
        chunk = {**head, "choices": [{**choice, "delta": {"content": "Well."}}]}
        text = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        await asked.answer(text, kind="text/event-stream")
        return
    said = {**choice, "message": {"role": "assistant", "content": "Well."}}
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    await asked.answer({**head, "choices": [said], "usage": usage})


async def told(client: httpx.AsyncClient, job_id: str, state: str) -> dict:
    """The job, once its webhook is in ``state``."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            job = (await client.get(f"/v1/jobs/{job_id}")).json()
            if job["webhook"]["state"] == state:
                return job
            await asyncio.sleep(0.02)


async def test_a_receiver_that_fails_twice_hears_the_third_time_signed_and_under_one_id() -> None:
    statuses = [500, 429, 204]

    async def hears(asked: Asked) -> None:
        await asked.answer(b"", statuses.pop(0))

    async with (
        tool_server({"/hook": hears}) as receiver,
        scripted_model(answers) as model,
        running_gateway({**agent(model.url, []), "jobs": hooked(receiver.url)}) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        answer = await client.post("/v1/jobs?webhook=ci", json=body(text="secret words"))
        assert answer.status_code == 202
        assert answer.json()["webhook"] == {
            "name": "ci",
            "state": "waiting",
            "tries": 0,
            "code": None,
        }
        job = await told(client, answer.json()["id"], "delivered")
        assert job["webhook"]["tries"] == 3
        assert len({asked.headers["webhook-id"] for asked in receiver.asked}) == 1
        for asked in receiver.asked:
            assert abs(int(asked.headers["webhook-timestamp"]) - time.time()) < PATIENCE_S
            assert asked.headers["webhook-signature"] == signature_of(asked)
            said = json.loads(asked.body)
            assert said["type"] == "job.finished"
            assert said["data"]["id"] == job["id"]
            assert b"secret words" not in asked.body
        page = (await client.get("/metrics")).text
        assert 'slipstream_webhooks_total{outcome="delivered"} 1.0' in page
        assert 'slipstream_webhooks_total{outcome="retried"} 2.0' in page
        assert 'slipstream_job_attempts_total{outcome="finished"} 1.0' in page


@pytest.mark.parametrize(("status", "tries"), [(500, 2), (410, 1)])
async def test_a_webhook_fails_after_its_tries_and_at_once_where_the_receiver_is_gone(
    status: int, tries: int
) -> None:
    async def refuses(asked: Asked) -> None:
        await asked.answer(b"", status)

    async with (
        tool_server({"/hook": refuses}) as receiver,
        scripted_model(answers) as model,
        running_gateway(
            {**agent(model.url, []), "jobs": hooked(receiver.url, webhook_attempts=2)}
        ) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        job_id = (await client.post("/v1/jobs?webhook=ci", json=body())).json()["id"]
        job = await told(client, job_id, "failed")
        assert (job["webhook"]["tries"], job["webhook"]["code"]) == (tries, f"status_{status}")
        assert len(receiver.asked) == tries


async def test_a_receiver_on_a_private_address_behind_a_name_is_not_reached() -> None:
    """The egress policy holds for webhooks; an address in the URL itself is the operator's word."""
    async with (
        tool_server({}) as receiver,
        scripted_model(answers) as model,
        running_gateway(
            {
                **agent(model.url, []),
                "jobs": hooked(
                    receiver.url.replace("127.0.0.1", "ip6-localhost"), webhook_attempts=1
                ),
            }
        ) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        job_id = (await client.post("/v1/jobs?webhook=ci", json=body())).json()["id"]
        job = await told(client, job_id, "failed")
        assert job["webhook"]["code"] in {"tool_egress", "tool_refused"}
        assert not receiver.asked


async def test_only_configured_receivers_of_the_own_tenant_can_be_named() -> None:
    jobs = hooked("http://127.0.0.1:9")
    jobs["webhooks"][0]["tenant"] = "acme"  # type: ignore[index]
    async with (
        scripted_model(answers) as model,
        running_gateway({**agent(model.url, []), "jobs": jobs}) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        for name in ("ci", "https://evil.example/"):
            answer = await client.post("/v1/jobs", params={"webhook": name}, json=body())
            assert answer.status_code == 400
            assert answer.json()["code"] == "webhook_not_found"


async def test_a_dead_job_is_listed_and_begun_again_from_the_step_where_it_failed() -> None:
    broken = True

    async def script(asked: Asked) -> None:
        if broken:
            await asked.answer({"error": {"message": "no", "type": "server_error"}}, 400)
        else:
            await says_well(asked)

    async with (
        tool_server({"/v1/chat/completions": script}) as model,
        running_gateway(agent(model.url, [])) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        job_id = (await client.post("/v1/jobs", json=body())).json()["id"]
        job, events = await ended(client, job_id)
        assert job["state"] == "dead"
        assert [
            each["id"] for each in (await client.get("/v1/jobs?state=dead")).json()["jobs"]
        ] == [job_id]
        seen = len(events)
        broken = False
        assert (await client.post(f"/v1/jobs/{job_id}/retry")).status_code == 202
        job, events = await ended(client, job_id)
        assert job["state"] == "finished"
        kinds = [event["type"] for _, event in events]
        assert (kinds.count("RUN_STARTED"), kinds.count("RUN_ERROR")) == (1, 0)
        assert int(events[-1][0].rpartition(":")[2]) > seen  # no number is given twice
        assert (await client.post(f"/v1/jobs/{job_id}/retry")).status_code == 409


async def test_the_most_urgent_job_that_waits_is_begun_first() -> None:
    begun, gate, order = asyncio.Event(), asyncio.Event(), list[str]()

    async def script(speaking: Speaking) -> None:
        order.append(next(m["content"] for m in speaking.body["messages"] if m["role"] == "user"))
        begun.set()
        await gate.wait()
        await answers(speaking)

    async with (
        scripted_model(script) as model,
        running_gateway({**agent(model.url, []), "jobs": {"concurrency": 1}}) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        ids = [(await client.post("/v1/jobs", json=body(text="first"))).json()["id"]]
        await asyncio.wait_for(begun.wait(), PATIENCE_S)
        for text, priority in (("low", -5), ("plain", 0), ("urgent", 50)):
            params = {"priority": priority}
            answer = await client.post("/v1/jobs", params=params, json=body(text=text))
            ids.append(answer.json()["id"])
        async with asyncio.timeout(PATIENCE_S):
            waiting = 'slipstream_jobs{state="queued"} 3.0'
            while waiting not in (await client.get("/metrics")).text:  # noqa: ASYNC110 - a server
                await asyncio.sleep(0.05)
        gate.set()
        for each in ids:
            assert (await ended(client, each))[0]["state"] == "finished"
        assert order == ["first", "urgent", "plain", "low"]


async def test_a_schedule_runs_its_agent_and_warms_its_prompt(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.json"
    prompt.write_text(
        json.dumps({"model": "small", "messages": [{"role": "user", "content": "W"}]})
    )
    schedules = [
        {"name": "digest", "cron": "* * * * *", "agent": "desk", "input": "What is new?"},
        {"name": "warm", "cron": "* * * * *", "warm": str(prompt)},
    ]
    async with (
        tool_server({"/hook": lambda asked: asked.answer(b"", 200)}) as receiver,
        tool_server({"/v1/chat/completions": says_well}) as model,
    ):
        schedules[0]["webhook"] = "ci"
        jobs = hooked(receiver.url, schedules=schedules)
        data = {"data_dir": str(tmp_path / "data")}
        with_last_minute(tmp_path / "data" / "jobs", ["digest", "warm"])
        values = {**agent(model.url, []), "jobs": jobs, "state": data}
        async with (
            running_gateway(values) as gateway,
            httpx.AsyncClient(base_url=gateway.url) as client,
        ):
            asked = await asyncio.wait_for(receiver.arrived.get(), PATIENCE_S)
            assert json.loads(asked.body)["data"]["agent"] == "desk"
            async with asyncio.timeout(PATIENCE_S):
                while 'schedules_total{outcome="warmed"}' not in (page := await page_of(client)):
                    assert 'schedules_total{outcome="failed"}' not in page
                    await asyncio.sleep(0.02)
            assert 'slipstream_schedules_total{outcome="job"}' in page
            bodies = [json.loads(asked.body) for asked in model.asked]
            words = {m["content"] for sent in bodies for m in sent["messages"]}
            assert {"What is new?", "W"} <= words


async def page_of(client: httpx.AsyncClient) -> str:
    """The metrics."""
    return (await client.get("/metrics")).text


def with_last_minute(folder: Path, names: list[str]) -> None:
    """A store in which these schedules were served two minutes ago."""
    store = JobStore(SqliteJobDatabase(folder))
    for name in names:
        store.last_served(name, time.time() - 120)
    store.close()


async def test_workers_that_see_one_moment_make_one_job_of_it(tmp_path: Path) -> None:
    """A hundred looks of three workers over four moments, one worker stopped in between."""

    async def do(work, *args):
        return work(*args)

    now = 1_790_000_000.0
    stores = [JobStore(SqliteJobDatabase(tmp_path)) for _ in range(3)]
    each = Schedule("s", parse("*/10 * * * *"), late_s=3600, agent="desk", input="Go")
    workers = [(Schedules([each], Metrics().jobs, clock=lambda: now), store) for store in stores]
    made: list[int] = []
    for step in range(33):
        now = 1_790_000_000.0 + step * 75
        for worker, store in workers if step % 5 else workers[:2]:
            await worker.run_due(store, do)
        made.append(len(stores[0].list_jobs("default", None, 2e9, 200)))
    moments = (int(now) // 600) - (1_790_000_000 // 600)
    assert made[-1] == moments
    for store in stores:
        store.close()


async def test_a_store_that_an_older_version_left_is_taken_over_with_its_jobs(
    tmp_path: Path,
) -> None:
    old = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
    old.executescript(
        """CREATE TABLE jobs (
          id TEXT PRIMARY KEY, tenant TEXT NOT NULL, idempotency TEXT, body BLOB NOT NULL,
          agent TEXT NOT NULL, tools TEXT, priority INTEGER NOT NULL, state TEXT NOT NULL,
          due REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0,
          owner TEXT, cancel INTEGER NOT NULL DEFAULT 0, code TEXT NOT NULL DEFAULT '',
          message TEXT NOT NULL DEFAULT '', created REAL NOT NULL, ended REAL,
          UNIQUE (tenant, idempotency));
        CREATE TABLE steps (job TEXT NOT NULL, step TEXT NOT NULL, outcome BLOB,
          PRIMARY KEY (job, step)) WITHOUT ROWID;
        CREATE TABLE events (job TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL,
          data TEXT NOT NULL, PRIMARY KEY (job, seq)) WITHOUT ROWID;
        INSERT INTO jobs VALUES ('j', 't', NULL, x'7b7d', 'desk', NULL, 0, 'running', 1, 1, 0,
          'gone', 0, '', '', 1, NULL);
        INSERT INTO steps VALUES ('j', 'tool-1', NULL);"""
    )
    old.close()
    store = JobStore(SqliteJobDatabase(tmp_path))
    assert store.requeue_orphans(50) == 1
    job = store.claim(time.time(), 4)
    assert job is not None
    assert (job.id, job.body, job.attempts, job.crashes) == ("j", b"{}", 1, 1)
    assert store.steps("j") == {"tool-1": None}
    store.settle("j", AttemptEnd("finished", 0.0))
    assert store.depth(time.time()).queued == 0
    store.close()


def test_only_a_job_that_kills_its_workers_without_getting_on_is_given_up(tmp_path: Path) -> None:
    """Three deaths are one too many; a finished step in between begins the count anew."""
    first = JobStore(SqliteJobDatabase(tmp_path))
    good, bad = (replace(a_job(), id=name) for name in ("good", "bad"))
    for each in (good, bad):
        first.add(each, None)
    for death in range(8):
        worker = JobStore(SqliteJobDatabase(tmp_path))
        taken = {job.id for _ in range(2) if (job := worker.claim(time.time(), 9)) is not None}
        assert "good" in taken
        if death % 2:
            worker.finish_step("good", f"step-{death}", b"{}")
        worker.close()
        first.requeue_orphans(3)
    assert (first.find("t", "good").state, first.find("t", "good").crashes) == ("queued", 8)  # type: ignore[union-attr]
    assert (first.find("t", "bad").state, first.find("t", "bad").crashes) == ("dead", 3)  # type: ignore[union-attr]
    assert [kind for _, kind, _ in first.events_after("bad")] == ["RUN_ERROR"]
    assert first.revive("t", "bad")
    assert first.events_after("bad") == []
    first.close()


def a_job() -> Job:
    """A job that is due."""
    return Job.queued(id="j", tenant="t", body=b"{}", agent="desk", due=1.0, created=1.0)
