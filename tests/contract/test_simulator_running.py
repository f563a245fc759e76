"""The simulator starts where it is told, ends when it is told, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
import time

import httpx2
import pytest

from app.providers.simulator import RunningSimulator, SimulatorSettings, running_simulator

pytestmark = pytest.mark.anyio

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Loopback speaks plain HTTP; loading the list of authorities would cost 100 ms a client."""

BODY = {"model": "sim-fast", "messages": [{"role": "user", "content": "Hi"}]}
PATH = "/v1/chat/completions"
PROGRAM = """
from app.providers.simulator import SimulatorSettings, run
run("127.0.0.1", 0, SimulatorSettings(time_scale=0), on_start=lambda url: print(url, flush=True))
"""


async def test_leaving_ends_what_is_being_answered_and_every_task():
    before = asyncio.all_tasks()
    async with httpx2.AsyncClient(verify=NO_TLS) as http:
        async with (
            asyncio.TaskGroup() as group,
            running_simulator(SimulatorSettings(time_scale=1_000)) as url,
        ):
            lost = group.create_task(_error_of(http, url))
            while (await http.get(f"{url}/sim/stats")).json()["in_flight"] == 0:
                pass
        assert isinstance(lost.result(), httpx2.TransportError)
        with pytest.raises(httpx2.ConnectError):
            await http.get(f"{url}/sim/stats")
    assert asyncio.all_tasks() == before


async def _error_of(http, url):
    try:
        await http.post(f"{url}{PATH}", json=BODY, timeout=60)
    except httpx2.HTTPError as exc:
        return exc
    return None


async def test_two_simulators_listen_side_by_side():
    async with (
        running_simulator(SimulatorSettings(time_scale=0)) as one,
        running_simulator(SimulatorSettings(time_scale=0)) as other,
        httpx2.AsyncClient(verify=NO_TLS) as http,
    ):
        await http.post(f"{one}{PATH}", json=BODY)
        assert (await http.get(f"{one}/sim/stats")).json()["requests"] == 1
        assert (await http.get(f"{other}/sim/stats")).json()["requests"] == 0


async def test_a_taken_port_is_an_os_error():
    async with running_simulator(SimulatorSettings()) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            async with running_simulator(SimulatorSettings(), port=port):
                pass


async def test_the_prompt_cache_follows_the_clock_that_is_passed_in():
    now_s = 0.0
    running = RunningSimulator(SimulatorSettings(time_scale=0), now=lambda: now_s)
    body = {"model": "sim-fast", "messages": [{"role": "user", "content": "word " * 2_000}]}

    async def cached_tokens(http, url):
        reply = (await http.post(f"{url}{PATH}", json=body)).json()
        return reply["usage"]["prompt_tokens_details"]["cached_tokens"]

    async with running as url, httpx2.AsyncClient(verify=NO_TLS) as http:
        assert await cached_tokens(http, url) == 0
        now_s = 1_799.0
        assert await cached_tokens(http, url) > 1_024
        now_s += 1_801.0
        assert await cached_tokens(http, url) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_program_serves_until_a_signal_and_ends_well(root, number):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, cwd=root, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        url = (await process.stdout.readline()).decode().strip()
        async with httpx2.AsyncClient(verify=NO_TLS) as http:
            assert (await http.post(f"{url}{PATH}", json=BODY)).status_code == 200
        process.send_signal(number)
        assert await process.wait() == 0


async def test_time_passes_at_the_scale_that_was_set():
    async with httpx2.AsyncClient(verify=NO_TLS) as http:
        times_s = []
        for scale in (0.0, 0.5):
            async with running_simulator(SimulatorSettings(time_scale=scale)) as url:
                start_s = time.perf_counter()
                await http.post(f"{url}{PATH}", json=BODY)
                times_s.append(time.perf_counter() - start_s)
    assert times_s[1] > times_s[0]
