"""Run the application under uvicorn, with our protocol class, and the simulated upstream beside it when asked."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlsplit

import uvicorn
from uvicorn.supervisors import Multiprocess

from app.api.protocol import GatewayProtocol
from app.errors import GatewayError
from app.main import create_app
from app.settings import Settings

_SIMULATOR_UP_WITHIN_S = 20.0
_BACKLOG = 4096
_NO_KEY = "none"


def serve(settings: Settings, host: str, port: int, workers: int) -> None:
    """Serve until a signal ends it; raises ``GatewayError`` when the port cannot be had."""
    with _simulator(settings) as simulated:
        app = partial(_worker_app, settings, simulated=simulated)
        config = uvicorn.Config(
            app,
            factory=True,
            host=host,
            port=port,
            workers=workers,
            http=GatewayProtocol,
            loop="uvloop",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            backlog=_BACKLOG,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=int(settings.server.shutdown_grace_s),
        )
        listening = _listen(host, port)
        bound = listening.getsockname()
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        print(f"Slipstream on http://{shown}:{bound[1]}", file=sys.stderr, flush=True)
        if workers == 1:
            uvicorn.Server(config).run(sockets=[listening])
        else:
            Multiprocess(config, sockets=[listening]).run()


def _worker_app(settings: Settings, *, simulated: bool) -> object:
    """Build the application in its worker, and leave what start-up made out of the collector's way."""
    app = create_app(settings, simulated=simulated)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    return app


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as exc:
        listening.close()
        message = f"cannot listen on {host}:{port}: {exc.strerror}; choose another with --port"
        raise GatewayError(message) from exc
    listening.listen(_BACKLOG)
    listening.set_inheritable(True)
    return listening


@contextmanager
def _simulator(settings: Settings) -> Iterator[bool]:
    """Start the simulated upstream where it is wanted and missing; say so; end it afterwards."""
    simulator = settings.simulator
    if not (simulator.start or _meant_for_a_simulator(settings)):
        yield False
        return
    address = (simulator.host, simulator.port)
    if _answers(address):
        yield True
        return
    command = [sys.executable, "-m", "app", "simulate", "--host", simulator.host]
    command += ["--port", str(simulator.port), "--seed", str(simulator.seed)]
    process = subprocess.Popen(command)  # noqa: S603 - our own command, no shell
    try:
        _await(address, process)
        notice = (
            "No provider key is configured: answers come from the SIMULATED models on "
            f"http://{simulator.host}:{simulator.port}. Set OPENAI_API_KEY or ANTHROPIC_API_KEY, or use --config."
        )
        print(notice, file=sys.stderr, flush=True)
        yield True
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _meant_for_a_simulator(settings: Settings) -> bool:
    """No key anywhere, and every upstream is where the simulator would stand."""
    here = {f"{name}:{settings.simulator.port}" for name in ("127.0.0.1", "localhost")}
    return bool(settings.providers) and all(
        provider.api_key.get_secret_value() == _NO_KEY
        and urlsplit(provider.base_url).netloc in here
        for provider in settings.providers.values()
    )


def _answers(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, 0.5):
            return True
    except OSError:
        return False


def _await(address: tuple[str, int], process: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + _SIMULATOR_UP_WITHIN_S
    while not _answers(address):
        if process.poll() is not None or time.monotonic() > until_s:
            message = f"the simulated upstream did not start on {address[0]}:{address[1]}: is the port taken?"
            raise GatewayError(message)
        time.sleep(0.05)
