"""What stands beside the gateway: the simulator that it starts, trusts, and takes down with itself."""

from __future__ import annotations

import asyncio
import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.errors import GatewayError
from app.providers.simulator import SimulatorSettings, running_simulator
from app.server import serve, sharing_warnings
from app.settings import Settings, load, loads
from app.simulator_process import is_listening, simulated_upstream

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = "SLIPSTREAM_SIMULATOR__PORT"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def built_in(port: int) -> Settings:
    """The configuration without a file and without a key: it asks for the simulator."""
    return load(None, {PORT: str(port)})


def meant(port: int) -> Settings:
    """A file of the operator's own whose only upstream is where the simulator would stand."""
    text = f"""
providers: {{p: {{kind: openai, base_url: "http://127.0.0.1:{port}/v1"}}}}
models: [{{name: m, provider: p, model: m, tier: fast}}]
simulator: {{port: {port}}}
"""
    return loads(text, "gateway.yaml", {})


@pytest.fixture
def another_server() -> Iterator[int]:
    """The port of an HTTP server that knows no /sim/stats."""
    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_taken_port_is_refused_before_anything_is_started(another_server: int):
    settings = built_in(another_server + 1 if another_server < 65_535 else another_server - 1)
    with pytest.raises(GatewayError, match=f"{another_server}: Address already in use; .*--port"):
        serve(settings, "127.0.0.1", another_server, 1, (lambda: settings, None))


class TestTheSimulatorsPort:
    def test_another_server_on_it_is_an_error_that_says_what_to_do(self, another_server: int):
        beside = simulated_upstream(built_in(another_server))
        with pytest.raises(GatewayError, match=f"{another_server}.* taken .*simulator.port"):
            beside.__enter__()

    def test_another_server_that_is_the_operators_upstream_is_used_and_not_called_simulated(
        self, another_server: int
    ):
        with simulated_upstream(meant(another_server)) as simulated:
            assert not simulated

    @pytest.mark.anyio
    @pytest.mark.parametrize("settings", [built_in, meant])
    async def test_a_simulator_that_runs_already_is_used_as_it_is(self, settings):
        def enter(port: int) -> bool:
            with simulated_upstream(settings(port)) as simulated:
                return simulated

        async with running_simulator(SimulatorSettings(time_scale=0)) as url:
            port = int(url.rpartition(":")[2])
            assert await asyncio.to_thread(enter, port)
            assert await asyncio.to_thread(enter, port)  # it was not ended

    def test_a_simulator_that_ends_with_its_own_gateway_is_replaced(self):
        """Two gateways without a key on one machine: the end of the first leaves the second with one."""
        settings = built_in(free_port())
        first = simulated_upstream(settings)
        assert first.__enter__()
        with simulated_upstream(settings) as simulated:
            assert simulated
            first.__exit__(None, None, None)
            until_s = time.monotonic() + 60
            while not is_listening("127.0.0.1", settings.simulator.port):
                assert time.monotonic() < until_s
                time.sleep(0.05)  # another process's start: there is no event to wait for
        assert not is_listening("127.0.0.1", settings.simulator.port), "it ends with the block"

    def test_a_configuration_with_another_upstream_gets_no_simulator(self):
        settings = meant(free_port()).model_copy(update={"simulator": Settings().simulator})
        with simulated_upstream(settings) as simulated:
            assert not simulated


def test_workers_that_share_nothing_are_told_of_at_start():
    shared = loads("state: {redis_url: 'redis://127.0.0.1:6379/0'}", "gateway.yaml", {})
    [said] = sharing_warnings(Settings(), 4)
    assert "4 workers and no state.redis_url" in said
    assert sharing_warnings(Settings(), 1) == sharing_warnings(shared, 4) == []


def test_a_gateway_takes_all_the_descriptors_that_it_may_have(tmp_path):
    """A shell's 1,024 of many more would be full at 500 streams."""
    kept = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}  # noqa: TID251 - for the process
    serve = 'ulimit -Sn 256; ulimit -Hn 4096; exec "$0" -m app serve --port 0'
    with subprocess.Popen(
        ["/bin/sh", "-c", serve, sys.executable],
        stderr=subprocess.PIPE,
        text=True,
        env={**kept, PORT: str(free_port()), "SLIPSTREAM_STATE__DATA_DIR": str(tmp_path)},
    ) as process:
        assert process.stderr is not None
        assert any(line.startswith("Slipstream on") for line in process.stderr)
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert re.search(r"Max open files +4096 +4096", limits)
        process.terminate()
        process.stderr.read()


class TestTheSimulatorsEnd:
    def test_it_ends_when_the_process_that_holds_its_input_does(self):
        command = [sys.executable, "-m", "app", "simulate", "--port", "0", "--exit-with-parent"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            assert process.stderr.readline().startswith("Simulated upstream on http://")
            process.stdin.close()
            assert process.wait(30) == 0

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_a_gateway_that_is_ended_leaves_no_simulator_behind(self, number: int, tmp_path):
        """Both write to one pipe, so its end is the end of both."""
        port = free_port()
        kept = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}  # noqa: TID251 - for the process
        told = {
            PORT: str(port),
            "SLIPSTREAM_DATA": str(tmp_path),
            "SLIPSTREAM_CACHE__SEMANTIC__ENABLED": "false",  # an encoder takes longer than all the rest
        }
        command = [sys.executable, "-m", "app", "serve", "--port", "0"]
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**kept, **told}
        ) as process:
            assert process.stderr is not None
            assert any(line.startswith("Slipstream on") for line in process.stderr)
            socket.create_connection(("127.0.0.1", port), 5).close()
            process.send_signal(number)
            process.stderr.read()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), 5)
