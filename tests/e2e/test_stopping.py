"""A gateway that is told to end, or to read its configuration again, drops nothing that it has begun."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml

from app.providers.simulator import SimulatorSettings, running_simulator
from tests.support.gateway import PATIENCE_S, GatewayProcess, configuration, gateway_process

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(180)]
SLOW = "sim-fast?token_s=0.02"
LOG = {"log_format": "json"}
NEVER = "sim-fast?token_s=30"


def asking(text: str = "Who?", *, model: str = "small") -> dict[str, object]:
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": text}]}


def with_model(upstream: str, model: str, **server: object) -> dict[str, object]:
    values = configuration(upstream, server=server, telemetry=LOG)
    values["models"][0]["model"] = model  # type: ignore[index]
    return values


async def until(holds: Callable[[], bool]) -> None:
    """Another process's doing: there is no event to wait for."""
    async with asyncio.timeout(3 * PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.02)


async def status_of(client: httpx.AsyncClient) -> int:
    return (await client.get("/readyz")).status_code


async def test_a_stream_ends_whole_and_new_requests_are_served_while_readyz_says_no() -> None:
    async with running_simulator(SimulatorSettings()) as upstream:
        values = with_model(upstream, SLOW)
        environment = {"SLIPSTREAM_SERVER__DRAIN_S": "3"}
        with gateway_process(values, env=environment) as gateway:
            async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
                path = "/v1/chat/completions"
                async with client.stream("POST", path, json=asking()) as stream:
                    lines = stream.aiter_lines()
                    await anext(lines)
                    gateway.process.send_signal(signal.SIGTERM)
                    async with asyncio.timeout(PATIENCE_S):
                        while await status_of(client) != 503:
                            pass
                    later = await client.post(path, json={**asking("Who else?"), "stream": False})
                    assert later.status_code == 200
                    assert later.headers["connection"] == "close"
                    said = [line async for line in lines]
                assert "data: [DONE]" in said
            gateway.process.wait(PATIENCE_S)


@pytest.mark.parametrize("stream", [True, False])
async def test_what_outlasts_the_grace_ends_with_an_error_that_says_to_ask_again(
    stream: bool,
) -> None:
    async with running_simulator(SimulatorSettings()) as upstream:
        values = with_model(upstream, NEVER, shutdown_grace_s=0.5)
        with gateway_process(values) as gateway:
            async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
                path = "/v1/chat/completions"
                async with (
                    httpx.AsyncClient(base_url=upstream) as other,
                    asyncio.TaskGroup() as group,
                ):
                    body = {**asking(), "stream": stream}
                    asked = group.create_task(client.post(path, json=body))
                    async with asyncio.timeout(PATIENCE_S):
                        while not (await other.get("/sim/stats")).json()["in_flight"]:
                            pass
                    gateway.process.send_signal(signal.SIGTERM)
                answer = asked.result()
                assert "shutting_down" in answer.text
                # A stream may have had its first token, and with it its status, or not yet.
                assert answer.status_code in ({200, 503} if stream else {503})
                if answer.status_code == 503:
                    assert answer.headers["retry-after"]
            gateway.process.wait(PATIENCE_S)


def configuration_file(gateway: GatewayProcess) -> Path:
    command: list[str] = gateway.process.args  # type: ignore[assignment]
    return Path(command[command.index("--config") + 1])


def children(pid: int) -> set[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, check=False
    )
    return {int(each) for each in listed.stdout.split()}


async def models(url: str) -> set[str]:
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        return {each["id"] for each in (await client.get("/v1/models")).json()["data"]}


async def test_sighup_gives_all_workers_the_new_configuration_and_drops_no_stream() -> None:
    async with running_simulator(SimulatorSettings()) as upstream:
        values = with_model(upstream, SLOW)
        with gateway_process(values, "--workers", "2") as gateway:
            file = configuration_file(gateway)
            async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
                path = "/v1/chat/completions"
                async with client.stream("POST", path, json=asking()) as stream:
                    lines = stream.aiter_lines()
                    await anext(lines)
                    changed = yaml.safe_load(file.read_text())
                    changed["models"][0]["name"] = "renamed"
                    file.write_text(yaml.safe_dump(changed))
                    os.kill(gateway.process.pid, signal.SIGHUP)
                    said = [line async for line in lines]
                assert "data: [DONE]" in said
            await until(lambda: any("was read again" in line for line in gateway.log))
            for _ in range(6):
                known = await models(gateway.url)
                assert "renamed" in known
                assert "small" not in known


async def test_an_invalid_configuration_is_refused_whole_and_said_on_readyz() -> None:
    async with running_simulator(SimulatorSettings(time_scale=0)) as upstream:
        values = configuration(upstream, telemetry=LOG)
        with gateway_process(values, "--workers", "2") as gateway:
            file = configuration_file(gateway)
            good = file.read_text()
            before = children(gateway.process.pid)
            file.write_text("models: 7\n")
            os.kill(gateway.process.pid, signal.SIGHUP)
            await until(lambda: any("reload refused" in line for line in gateway.log))
            assert children(gateway.process.pid) == before
            async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
                ready = await client.get("/readyz")
                assert ready.status_code == 200
                assert "refused" in ready.json()["degraded"]["configuration"]
            file.write_text(good)
            os.kill(gateway.process.pid, signal.SIGHUP)
            await until(lambda: any("was read again" in line for line in gateway.log))
            async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
                assert (await client.get("/readyz")).json()["degraded"] == {}


async def test_one_worker_takes_a_new_configuration_without_dropping_a_stream() -> None:
    async with running_simulator(SimulatorSettings()) as upstream:
        with gateway_process(with_model(upstream, SLOW)) as gateway:
            file = configuration_file(gateway)
            async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
                path = "/v1/chat/completions"
                known = {"model": "large", "messages": [{"role": "user", "content": "Well?"}]}
                for _ in range(3):  # a connection whose head is known by its bytes
                    assert (await client.post(path, json=known)).status_code == 200
                async with client.stream("POST", path, json=asking()) as stream:
                    lines = stream.aiter_lines()
                    await anext(lines)
                    changed = yaml.safe_load(file.read_text())
                    changed["models"] = [
                        {**each, "name": f"new-{each['name']}"} for each in changed["models"]
                    ]
                    file.write_text(yaml.safe_dump(changed))
                    os.kill(gateway.process.pid, signal.SIGHUP)
                    await until(lambda: any("was read again" in line for line in gateway.log))
                    assert (await client.post(path, json=known)).status_code == 404
                    assert {"new-small", "new-large"} <= await models(gateway.url)
                    said = [line async for line in lines]
                assert "data: [DONE]" in said
                fresh = {**known, "model": "new-large"}
                assert (await client.post(path, json=fresh)).status_code == 200
            gateway.process.terminate()
            assert await asyncio.to_thread(gateway.process.wait, 20) in {0, -signal.SIGTERM}


async def test_one_worker_refuses_an_invalid_configuration_whole_and_says_so() -> None:
    async with running_simulator(SimulatorSettings(time_scale=0)) as upstream:
        with gateway_process(configuration(upstream, telemetry=LOG)) as gateway:
            file = configuration_file(gateway)
            good = file.read_text()
            file.write_text("models: 7\n")
            os.kill(gateway.process.pid, signal.SIGHUP)
            await until(lambda: any("reload refused" in line for line in gateway.log))
            async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
                ready = await client.get("/readyz")
                assert ready.status_code == 200
                assert "refused" in ready.json()["degraded"]["configuration"]
                assert "small" in await models(gateway.url)
                file.write_text(good)
                os.kill(gateway.process.pid, signal.SIGHUP)
                await until(lambda: any("was read again" in line for line in gateway.log))
                assert (await client.get("/readyz")).json()["degraded"] == {}


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_changed_file_is_taken_where_that_is_wanted(workers: str) -> None:
    async with running_simulator(SimulatorSettings(time_scale=0)) as upstream:
        server = {"reload_on_change": True}
        values = configuration(upstream, telemetry=LOG, server=server)
        with gateway_process(values, "--workers", workers) as gateway:
            file = configuration_file(gateway)
            file.write_text("models: 7\n")
            await until(lambda: any("reload refused" in line for line in gateway.log))
            changed = {**values, "models": [{**values["models"][0], "name": "renamed"}]}  # type: ignore[index]
            file.write_text(yaml.safe_dump(changed))
            await until(lambda: any("was read again" in line for line in gateway.log))
            assert "renamed" in await models(gateway.url)


async def test_a_job_goes_on_and_its_events_too_while_one_worker_reloads() -> None:
    async with running_simulator(SimulatorSettings()) as upstream:
        values = with_model(upstream, SLOW)
        values["agents"] = [{"name": "desk", "model": "small"}]
        with gateway_process(values) as gateway:
            file = configuration_file(gateway)
            async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
                text = {"id": "m", "role": "user", "content": "Write."}
                asked = {"threadId": "t", "runId": "r", "messages": [text]}
                job = (await client.post("/v1/jobs", json=asked)).json()["id"]
                async with client.stream("GET", f"/v1/jobs/{job}/events") as stream:
                    lines = stream.aiter_lines()
                    await anext(lines)
                    file.write_text(file.read_text() + "\n# changed\n")
                    os.kill(gateway.process.pid, signal.SIGHUP)
                    said = [line async for line in lines]
                kinds = [json.loads(line[6:])["type"] for line in said if line.startswith("data: ")]
                assert kinds[-1] == "RUN_FINISHED"
                assert kinds.count("RUN_STARTED") <= 1
                assert (await client.get(f"/v1/jobs/{job}")).json()["state"] == "finished"
            assert any("was read again" in line for line in gateway.log)
