"""Workers of one gateway that are there in half the time: each is forked from a process that has
loaded the program already, and serves the same listening socket.

``python -m bench.chaos.zygote CONFIG``: prints ``port N``, then for each line on its standard input
forks a worker and prints its process id. What is forked is the worker that ``slipstream serve`` starts:
the same application under the same server and protocol class. It ends with its standard input.

A line ``METHOD before|after N`` makes the worker kill itself around the Nth call of that method of the store
of jobs (of ``claim`` and ``claim_delivery``: the Nth that finds something).
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn

from app.api.protocol import GatewayProtocol
from app.classify.classifier import Classifier
from app.domain.decisions import PromptView
from app.main import create_app
from app.settings import Settings, load
from app.stores.job_store import JobStore
from app.wire.ag_ui import preload_models


def main() -> None:
    """Fork as often as told."""
    settings = load(sys.argv[1])
    _load_all()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(f"port {listening.getsockname()[1]}", flush=True)
    children: list[int] = []
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if point := line.split():
                _die_at(point[0], point[1], int(point[2]))
            _work(settings, listening)
            os._exit(0)
        children.append(child)
        print(child, flush=True)
    for child in children:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _load_all() -> None:
    """Load what a worker loads at its start and with its first job."""
    for name in ("app.tools.registry_from_settings", "app.jobs.engine", "app.stores.job_sqlite"):
        importlib.import_module(name)
    preload_models()
    Classifier().classify(PromptView("warm up"))  # compiles its patterns


def _die_at(method: str, when: str, number: int) -> None:
    original: Callable[..., object] = getattr(JobStore, method)
    looks = method.startswith("claim")
    calls = 0

    def deadly(self: JobStore, *args: object) -> object:
        nonlocal calls
        if not looks:
            calls += 1
        if when == "before" and calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(self, *args)
        if looks:
            calls += result is not None
        if when == "after" and calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(JobStore, method, deadly)


def _work(settings: Settings, listening: socket.socket) -> None:
    os.close(sys.stdin.fileno())
    config = uvicorn.Config(
        create_app(settings),
        http=GatewayProtocol,
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
