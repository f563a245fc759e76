"""Several workers of one server answer as one: whichever of them a connection meets."""

from __future__ import annotations

import os
import re
import signal
import time

import httpx
import pytest

from app.providers.simulator import SimulatorSettings, running_simulator
from tests.support.gateway import configuration, gateway_process

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
WORKERS = 3
ASKED = 30
STARTS_WITHIN_S = 120.0
"""A worker takes two seconds to start, and half a minute where eight others want the CPU."""


async def ask(url: str, text: str, **headers: str) -> httpx.Response:
    """Ask on a connection of its own, which any worker may get."""
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        answer = await client.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer


async def call(url: str, method: str, path: str, json: object = None) -> httpx.Response:
    """One administrative request on a connection of its own."""
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        return await client.request(method, path, json=json)


async def test_workers_answer_as_one() -> None:
    """Metrics, traces, savings, verdicts and invalidations concern all workers, whoever is asked."""
    async with running_simulator(SimulatorSettings(time_scale=0)) as upstream:
        values = configuration(upstream, telemetry={"log_format": "json"})
        with gateway_process(values, "--workers", str(WORKERS)) as gateway:
            url = gateway.url
            ids = [(await ask(url, f"Question {n}?")).headers["x-request-id"] for n in range(ASKED)]

            for _ in range(WORKERS * 2):  # whoever answers, the sum is the same
                page = (await call(url, "GET", "/metrics")).text
                counted = re.findall(r"(?m)^slipstream_requests_total\{.*\} (\d+)", page)
                assert sum(map(int, counted)) == ASKED
            traces = (await call(url, "GET", f"/v1/traces?limit={ASKED}")).json()["traces"]
            assert [t["request_id"] for t in traces] == ids[::-1]
            assert (await call(url, "GET", "/v1/savings")).json()["turns"] == ASKED

            for request_id in ids:
                assert (await call(url, "GET", f"/v1/traces/{request_id}")).status_code == 200
            said = [
                await call(url, "POST", "/v1/feedback", {"request_id": i, "verdict": "bad"})
                for i in ids
            ]
            assert {answer.status_code for answer in said} == {200}
            unknown = await call(url, "GET", "/v1/traces/req_nobody")
            assert unknown.status_code == 404

            kept = (await call(url, "GET", "/v1/cache/stats")).json()["entries"]
            assert kept == ASKED
            listed = (await call(url, "GET", f"/v1/cache/entries?limit={ASKED - 10}")).json()
            rest = f"/v1/cache/entries?limit={ASKED}&after={listed['next']}"
            entries = [*listed["entries"], *(await call(url, "GET", rest)).json()["entries"]]
            assert [entry["request_id"] for entry in entries] == ids[::-1]
            gone = (await call(url, "POST", "/v1/cache/invalidate", {"all": True})).json()
            assert gone == {"invalidated": ASKED}
            for halted in ("true", "false"):
                await call(url, "POST", f"/v1/speculation?halted={halted}")
                for _ in range(WORKERS * 2):  # the kill switch is one, whoever is asked
                    told = (await call(url, "GET", "/v1/speculation")).json()
                    assert told["halted"] is (halted == "true")
            for n in range(ASKED):
                again = await ask(url, f"Question {n}?")
                assert again.headers["x-slipstream-cache"] == "miss"


async def test_what_is_called_wrong_or_deleted_leaves_the_memory_of_every_worker() -> None:
    async with running_simulator(SimulatorSettings(time_scale=0)) as upstream:
        values = configuration(upstream, telemetry={"log_format": "json"})
        with gateway_process(values, "--workers", str(WORKERS)) as gateway:
            url = gateway.url
            for way in ("verdict", "delete"):
                text, hit = f"Question of the {way}?", None
                # some worker has had no miss of its own only for so long
                for _ in range(ASKED):
                    answer = await ask(url, text)
                    hit = answer if answer.headers["x-slipstream-cache"] == "exact" else hit
                assert hit is not None
                request_id = hit.headers["x-request-id"]
                if way == "verdict":
                    said = {"request_id": request_id, "verdict": "wrong"}
                    told = await call(url, "POST", "/v1/cache/feedback", said)
                else:
                    trace = (await call(url, "GET", f"/v1/traces/{request_id}")).json()
                    path = f"/v1/cache/entries/{trace['cache']['entry']}"
                    told = await call(url, "DELETE", path)
                    assert told.json()["invalidated"] >= 1
                assert told.status_code == 200
                left = (await call(url, "GET", "/v1/cache/entries")).json()["entries"]
                assert left == []


async def test_imported_answers_are_hits_on_every_worker() -> None:
    """An import reaches each worker's own memory, and says how many have it."""
    async with running_simulator(SimulatorSettings(time_scale=0)) as upstream:
        with gateway_process(configuration(upstream), "--workers", str(WORKERS)) as gateway:
            long = "x" * 100_000  # more than the administrative requests otherwise hold
            entries = [
                {"question": "What is the refund window?", "answer": "30 days."},
                {"question": "What is long?", "answer": long},
            ]
            for _ in range(100):  # until the last worker is up
                told = await call(gateway.url, "POST", "/v1/cache/import", {"entries": entries})
                assert told.status_code == 200, told.text
                said = told.json()
                if said["workers"] == WORKERS:
                    break
            assert (said["exact"], said["workers"], said["workers_missed"]) == (2, WORKERS, 0)
            for _ in range(ASKED):
                hit = await ask(gateway.url, "What is the refund window?")
                assert hit.headers["x-slipstream-cache"] == "exact"
                assert hit.json()["choices"][0]["message"]["content"] == "30 days."
            refused = await call(gateway.url, "POST", "/v1/cache/import", {"entries": []})
            assert refused.status_code == 422


def run_input(run_id: str, **more: object) -> dict[str, object]:
    """What an agent is asked."""
    message = {"id": "m", "role": "user", "content": "hi"}
    return {"threadId": "t", "runId": run_id, "messages": [message], **more}


async def test_a_run_is_found_and_cancelled_through_any_worker() -> None:
    async with running_simulator(SimulatorSettings(time_scale=0)) as upstream:
        values = configuration(upstream, agents=[{"name": "desk", "model": "small"}])
        with gateway_process(values, "--workers", str(WORKERS)) as gateway:
            told = await call(gateway.url, "POST", "/v1/agent", run_input("r1"))
            assert "RUN_FINISHED" in told.text
            for _ in range(WORKERS * 2):
                found = await call(gateway.url, "GET", "/v1/runs/r1")
                assert (found.status_code, found.json()["state"]) == (200, "finished")
                over = await call(gateway.url, "POST", "/v1/runs/r1/cancel")
                assert (over.status_code, over.json()["state"]) == (200, "finished")
            assert (await call(gateway.url, "GET", "/v1/runs/nobody")).status_code == 404


async def test_a_runs_events_are_read_on_through_any_worker_without_redis() -> None:
    """The same events by the same ids, from the beginning and from the middle; an unknown run is a 404."""
    async with running_simulator(SimulatorSettings(time_scale=0)) as upstream:
        values = configuration(upstream, agents=[{"name": "desk", "model": "small"}])
        with gateway_process(values, "--workers", str(WORKERS)) as gateway:
            told = await call(gateway.url, "POST", "/v1/agent", run_input("r2"))
            ids = re.findall(r"(?m)^id: (r2:\d+)$", told.text)
            assert len(ids) > 3
            for _ in range(WORKERS * 3):
                found = await call(gateway.url, "GET", "/v1/runs/r2/events")
                assert (found.status_code, found.headers["content-type"].split(";")[0]) == (
                    200,
                    "text/event-stream",
                )
                assert re.findall(r"(?m)^id: (r2:\d+)$", found.text) == ids
                rest = await call(gateway.url, "GET", "/v1/runs/r2/events?starting_after=2")
                assert re.findall(r"(?m)^id: (r2:\d+)$", rest.text) == ids[2:]
            assert (await call(gateway.url, "GET", "/v1/runs/nobody/events")).status_code == 404


async def test_a_live_runs_events_pass_through_another_worker_until_it_is_cancelled() -> None:
    async with running_simulator(SimulatorSettings(time_scale=50)) as upstream:
        values = configuration(upstream, agents=[{"name": "desk", "model": "small"}])
        with gateway_process(values, "--workers", str(WORKERS)) as gateway:
            given = run_input("r3", forwardedProps={"on_disconnect": "detach"})
            async with (
                httpx.AsyncClient(base_url=gateway.url, timeout=20) as client,
                client.stream("POST", "/v1/agent", json=given) as begun,
            ):
                await anext(begun.aiter_bytes())  # it has begun; then this client leaves
            for _ in range(WORKERS * 2):  # one reader after another leaves: the run goes on
                async with (
                    httpx.AsyncClient(base_url=gateway.url, timeout=20) as client,
                    client.stream("GET", "/v1/runs/r3/events") as reading,
                ):
                    assert reading.status_code == 200
                    assert b"RUN_STARTED" in await anext(reading.aiter_bytes())
            assert (await call(gateway.url, "GET", "/v1/runs/r3")).json()["state"] == "running"
            async with (
                httpx.AsyncClient(base_url=gateway.url, timeout=20) as client,
                client.stream("GET", "/v1/runs/r3/events") as reading,
            ):
                seen = b""
                async for data in reading.aiter_bytes():
                    if not seen:
                        await call(gateway.url, "POST", "/v1/runs/r3/cancel")
                    seen += data
            assert b"cancelled" in seen


@pytest.mark.timeout(4 * STARTS_WITHIN_S)
def test_an_operator_is_told_that_all_workers_are_up_and_when_one_ended() -> None:
    values = configuration("http://127.0.0.1:9")
    with gateway_process(values, "--workers", "2") as gateway:
        said(gateway.log, r"slipstream: 2 workers are up")
        found = re.findall(r"slipstream: worker (\d+) is up", "".join(gateway.log))
        assert len(found) == 2
        os.kill(int(found[0]), signal.SIGKILL)
        other = said(
            gateway.log, rf"slipstream: worker {found[0]} ended \(SIGKILL\); worker (\d+) replaces"
        )
        said(gateway.log, rf"slipstream: worker {other} is up")


def said(log: list[str], pattern: str) -> str:
    """Wait until ``log`` has what ``pattern`` says; its first group."""
    until_s = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until_s:
        if found := re.search(pattern, "".join(log)):
            return found[found.re.groups and 1]
        time.sleep(0.05)  # another process's doing: there is no event to wait for
    raise AssertionError(f"nobody said {pattern}:\n" + "".join(log))
