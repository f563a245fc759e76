"""The simulated upstream beside the gateway: started where no provider key is configured, ended with it.

It is a process of its own (``slipstream simulate``), so that its clock does not wait for the gateway's loop.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from urllib.parse import urlsplit

from app.errors import GatewayError
from app.settings import Settings, SimulatorSettings

_UP_WITHIN_S = 20.0
_ANSWERS_WITHIN_S = 5.0
_STATS_BYTES = 1 << 20
_NO_KEY = "none"
_START_POLL_S = 0.01
_TAKE_OVER_POLL_S = 0.25


@contextmanager
def simulated_upstream(settings: Settings) -> Iterator[bool]:
    """Run the simulated upstream if the settings need one; yields whether answers are simulated.

    One that runs already is used, and replaced if it ends first. Raises ``GatewayError`` where
    ``simulator.start`` asks for it and another server has its port.
    """
    simulator = settings.simulator
    if not (simulator.start or _points_at_simulator(settings)):
        yield False
        return
    where = f"http://{simulator.host}:{simulator.port}"
    if is_listening(simulator.host, simulator.port):
        if _is_simulator(simulator.host, simulator.port):
            with _successor(simulator):
                yield True
        elif simulator.start:
            raise GatewayError(_port_taken(simulator))
        else:  # an upstream of the operator's own on that port
            yield False
        return
    with _running_simulator(simulator):
        notice = (
            f"No provider key is configured: answers come from the SIMULATED models on {where}. "
            "Set OPENAI_API_KEY or ANTHROPIC_API_KEY, or use --config.\n"
        )
        sys.stderr.write(notice)
        yield True


@contextmanager
def _successor(simulator: SimulatorSettings) -> Iterator[None]:
    """Replace a simulator that another gateway started once it has ended with that gateway.

    Of several gateways that wait one gets the port; the others' simulators end at once, and they wait on.
    """
    over = threading.Event()

    def replace() -> None:
        while not over.wait(_TAKE_OVER_POLL_S):
            if is_listening(simulator.host, simulator.port):
                continue
            with suppress(GatewayError), _running_simulator(simulator) as process:
                while process.poll() is None and not over.wait(_TAKE_OVER_POLL_S):
                    pass

    thread = threading.Thread(target=replace, name="simulator", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _running_simulator(simulator: SimulatorSettings) -> Iterator[subprocess.Popen[bytes]]:
    """Run a simulator while the context lasts; raises ``GatewayError`` if it does not come up."""
    process = _start(simulator)
    try:
        _wait_until_up(simulator, process)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        if process.stdin is not None:
            process.stdin.close()


def _start(simulator: SimulatorSettings) -> subprocess.Popen[bytes]:
    """Start the simulator such that it ends with this process, even if this one is killed.

    Its standard input is a pipe that nobody writes to; the kernel closes it with this process.
    """
    command = [sys.executable, "-m", "app", "simulate", "--host", simulator.host]
    command += ["--port", str(simulator.port), "--seed", str(simulator.seed), "--exit-with-parent"]
    return subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - our own command, no shell


def _port_taken(simulator: SimulatorSettings) -> str:
    return (
        f"port {simulator.port} of {simulator.host} is taken by something that is not the simulated "
        "upstream (GET /sim/stats is not its answer): stop that server, or set simulator.port "
        "(SLIPSTREAM_SIMULATOR__PORT)"
    )


def _points_at_simulator(settings: Settings) -> bool:
    """Whether no provider has a key and every base URL is the simulator's address."""
    addresses = {f"{name}:{settings.simulator.port}" for name in ("127.0.0.1", "localhost")}
    return bool(settings.providers) and all(
        provider.api_key.get_secret_value() == _NO_KEY
        and urlsplit(provider.base_url).netloc in addresses
        for provider in settings.providers.values()
    )


def is_listening(host: str, port: int) -> bool:
    """Whether a connection to the port is accepted within half a second."""
    try:
        with socket.create_connection((host, port), 0.5):
            return True
    except OSError:
        return False


def _is_simulator(host: str, port: int) -> bool:
    """Whether the server on that port answers ``/sim/stats`` as the simulator does."""
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWERS_WITHIN_S)
    try:
        connection.request("GET", "/sim/stats")
        answer = connection.getresponse()
        found = json.loads(answer.read(_STATS_BYTES))
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    return answer.status == HTTPStatus.OK and isinstance(found, dict) and "in_flight" in found


def _wait_until_up(simulator: SimulatorSettings, process: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + _UP_WITHIN_S
    while not is_listening(simulator.host, simulator.port):
        if process.poll() is not None or time.monotonic() > until_s:
            message = (
                f"the simulated upstream did not start on {simulator.host}:{simulator.port}: "
                "is the port taken?"
            )
            raise GatewayError(message)
        time.sleep(_START_POLL_S)
    if not _is_simulator(simulator.host, simulator.port):
        raise GatewayError(_port_taken(simulator))
