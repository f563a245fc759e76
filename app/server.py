"""Run the application under uvicorn, with our protocol class, and the simulated upstream beside it
when asked.

A start is mostly loading: half a second of imports here, the model in the vector process, and the
simulator. They come up at the same time: the vector process is begun first, the gateway is loaded in a
thread while the simulator is waited for, and this module's own imports are few.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import blake2b
from importlib import import_module
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
from uvicorn.supervisors import Multiprocess

from app.api.acceptor import raise_descriptor_limit
from app.api.draining import RELOAD_REFUSED_FILE, RELOADING_FILE
from app.api.protocol import GatewayProtocol
from app.bootstrap_encoder import launch_encoder
from app.errors import GatewayError
from app.garbage_collection import GarbageSchedule
from app.settings import Settings, SettingsError, settle_for_libraries
from app.simulator_process import simulated_upstream
from app.stores.sidecar_start import StartedProcess

_BACKLOG = 4096
_WORKER_START_TIMEOUT_S = 30
_FILE_POLL_S = 1.0
_SWITCH_INTERVAL_S = 0.001
"""The interpreter's thread switch interval: how long a thread (a reload's, the ledger's) may keep the event
loop
waiting; Python's default is 5 ms."""
_GC_THRESHOLD = 50_000
"""New objects after which the collector runs by itself, ahead of ``app.garbage_collection``."""
_GATEWAY_MODULES = ("app.reloading", "app.bootstrap", "app.api.admin_routes", "app.api.agent")
"""Modules that are loaded while the simulator starts."""


def serve(
    settings: Settings,
    host: str,
    port: int,
    workers: int,
    read: tuple[Callable[[], Settings], Path | None],
) -> None:
    """Serve until a signal; raises ``GatewayError`` if the port cannot be bound.

    ``read`` is a function that reads the configuration again on SIGHUP and raises ``SettingsError``, and the
    file that it reads, if any, which may be watched.
    """
    listening = _bind(host, port)  # first: a port that is taken is told before anything is started
    settle_for_libraries()
    raise_descriptor_limit()
    gc.disable()  # until everything is loaded: collecting modules takes a tenth of a second in all
    for said in sharing_warnings(settings, workers):
        _print(said)
    encoder = (
        launch_encoder(settings) if workers == 1 else None
    )  # with several workers each starts its own
    loading = _load_gateway_in_thread() if workers == 1 else None
    with simulated_upstream(settings) as simulated, _socket_folder(workers) as siblings:
        if loading is not None:
            loading.join()
        again, file = read
        servers: list[uvicorn.Server] = []
        several = partial(_worker_app, settings, simulated=simulated, siblings=siblings)
        alone = partial(
            _single_process_app, settings, again, simulated, lambda: servers[0], encoder
        )
        config = uvicorn.Config(
            several if siblings is not None else alone,
            factory=True,
            interface="asgi3",
            host=host,
            port=port,
            workers=workers,
            http=GatewayProtocol,
            loop="app.api.acceptor:GatewayLoop",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            backlog=_BACKLOG,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=ceil(settings.server.shutdown_grace_s),
            timeout_worker_healthcheck=_WORKER_START_TIMEOUT_S,
        )
        _listen(listening, host, port)
        bound = listening.getsockname()
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        print(f"Slipstream on http://{shown}:{bound[1]}", file=sys.stderr, flush=True)
        servers.append(SingleProcessServer(config))
        signal.signal(
            signal.SIGHUP, signal.SIG_IGN
        )  # until there is something that could be reloaded
        if file is not None and settings.server.reload_on_change:
            reload_on_change(file)
        if siblings is None:
            servers[0].run(sockets=[listening])
        else:

            def anew() -> Callable[[], object]:
                return partial(_worker_app, again(), simulated=simulated, siblings=siblings)

            gc.enable()
            Supervisor(config, listening, siblings, anew).run()


def _load_gateway_in_thread() -> threading.Thread:
    """Load the gateway's modules in a thread; an import error is raised again where they are used."""

    def load() -> None:
        for name in _GATEWAY_MODULES:
            import_module(name)

    thread = threading.Thread(target=load, name="loading", daemon=True)
    thread.start()
    return thread


class SingleProcessServer(uvicorn.Server):
    """uvicorn's server, which at shutdown serves connections that the kernel has already accepted."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept the connections in the backlog, then shut down as uvicorn does."""
        loop = asyncio.get_running_loop()
        made = partial(
            GatewayProtocol, self.config, self.server_state, self.lifespan.state, _loop=loop
        )
        for listening in sockets or ():
            with suppress(BlockingIOError):
                while True:
                    connection, _ = listening.accept()
                    connection.settimeout(0)
                    await loop.connect_accepted_socket(made, connection)
        await super().shutdown(sockets)


class Supervisor(Multiprocess):
    """uvicorn's supervisor of worker processes, whose SIGHUP also reloads the configuration, whole or not at
    all.

    Each worker's successor is ready before the worker is told to end, and what it has begun goes on for
    ``server.shutdown_grace_s``. The listening socket, and with it host, port and the number of workers, stay.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listening: socket.socket,
        folder: Path,
        again: Callable[[], Callable[[], object]],
    ) -> None:
        """``again`` reads the configuration and returns the factory of its application; it may raise."""
        super().__init__(config, [listening])
        self._socket_folder, self._reload_factory = folder, again
        self._ready_pids: set[int | None] = set()

    def keep_subprocess_alive(self) -> None:
        """Replace workers that ended, as uvicorn does, and report that and each worker that is ready."""
        before = list(self.processes)
        super().keep_subprocess_alive()
        for old, new in zip(before, self.processes, strict=True):
            if old is not new:
                _print(
                    f"worker {old.pid} ended ({_exit_reason(old.exitcode)}); worker {new.pid} replaces it"
                )
        self._report_ready()

    def _report_ready(self) -> None:
        """Report each worker once when it is ready, and all of them once."""
        pids = {process.pid for process in self.processes}
        if pids <= self._ready_pids or self.should_exit.is_set():
            return
        self._ready_pids &= pids
        for process in self.processes:
            if process.pid not in self._ready_pids and process.is_ready(timeout=1):
                self._ready_pids.add(process.pid)
                _print(f"worker {process.pid} is up")
        if pids <= self._ready_pids:
            _print(f"{len(pids)} workers are up")

    def handle_hup(self) -> None:
        """Replace every worker by one with the new configuration, or report why not."""
        before, refused = self.config.app, self._socket_folder / RELOAD_REFUSED_FILE
        try:
            self.config.app = self._reload_factory()
        except (SettingsError, OSError) as exc:
            _print_reload_refused(exc)
            refused.write_text(
                "the last reload was refused: the configuration is invalid (see the log)"
            )
            return
        staying, old = (
            self._socket_folder / RELOADING_FILE,
            {process.pid for process in self.processes},
        )
        staying.touch()
        try:
            self.restart_all()
        finally:
            staying.unlink()
        if old.isdisjoint(process.pid for process in self.processes):
            refused.unlink(missing_ok=True)
            _print("the configuration was read again")
        elif not self.should_exit.is_set():
            self.config.app = before
            said = "the last reload failed: a worker did not become ready (see the log)"
            refused.write_text(said)
            _print(said)


def _print(text: str) -> None:
    print(f"slipstream: {text}", file=sys.stderr, flush=True)


def _exit_reason(exitcode: int | None) -> str:
    """How a process ended: its signal's name or its exit status."""
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"status {exitcode}"


def _print_reload_refused(why: SettingsError | OSError) -> None:
    problems = why.problems if isinstance(why, SettingsError) else [why]
    for problem in problems:
        print(problem, file=sys.stderr)
    _print("reload refused, nothing has changed")


def reload_on_change(file: Path) -> None:
    """Send this process SIGHUP when ``file`` has changed and is stable for a second."""
    thread = threading.Thread(target=_watch, args=(file, os.getpid()), name="watch", daemon=True)
    thread.start()


def _watch(file: Path, pid: int) -> None:
    taken = seen = _digest(file)
    while True:
        time.sleep(_FILE_POLL_S)
        now = _digest(file)
        if now == seen != taken and now:
            taken = now
            os.kill(pid, signal.SIGHUP)
        seen = now


def _digest(file: Path) -> bytes:
    try:
        return blake2b(file.read_bytes()).digest()
    except OSError:
        return b""  # being replaced


def sharing_warnings(settings: Settings, workers: int) -> list[str]:
    """Warnings about state that several workers do not share."""
    if workers == 1 or settings.state.redis_url:
        return []
    said = (
        f"{workers} workers and no state.redis_url: each keeps its own answers, limits and runs, and "
        "a client rejoins a run only on the worker that has it"
    )
    return [said]


@contextmanager
def _socket_folder(workers: int) -> Iterator[Path | None]:
    """The folder of the workers' unix sockets; None for one worker.

    Not in ``data_dir``: the path of a socket holds 107 bytes at most.
    """
    if workers == 1:
        yield None
        return
    with TemporaryDirectory(prefix="slipstream-workers-") as folder:
        yield Path(folder)


def _worker_app(settings: Settings, *, simulated: bool, siblings: Path | None) -> object:
    """Build the application in a worker process."""
    gc.disable()  # as in serve()
    encoder = launch_encoder(settings)
    from app.main import create_app  # the gateway: loaded while the encoder is

    app = create_app(settings, simulated=simulated, siblings=siblings, encoder=encoder)
    _finish_loading()
    return app


def _finish_loading() -> None:
    """Freeze the objects of the start for the collector, and shorten the thread switch interval."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 50)
    gc.enable()
    GarbageSchedule(asyncio.get_running_loop()).start()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


def _single_process_app(
    settings: Settings,
    read: Callable[[], Settings],
    simulated: bool,  # noqa: FBT001 - bound by name below
    server: Callable[[], uvicorn.Server],
    encoder: StartedProcess | None,
) -> object:
    """Build the application of a single process."""
    from app.reloading import ReloadableApp

    def on_swap() -> None:
        for connection in server().server_state.connections:
            if isinstance(connection, GatewayProtocol):
                connection.forget_heads()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    app = ReloadableApp(
        settings, read, simulated=simulated, on_swap=on_swap, say=say, encoder=encoder
    )
    _finish_loading()
    return app


def _bind(host: str, port: int) -> socket.socket:
    """Take the address before anything is started; raises ``GatewayError`` where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as exc:
        listening.close()
        raise _cannot_listen(host, port, exc) from exc
    listening.set_inheritable(True)
    return listening


def _listen(listening: socket.socket, host: str, port: int) -> None:
    """Accept connections from now on; two processes may have bound one port, but only one listens."""
    try:
        listening.listen(_BACKLOG)
    except OSError as exc:
        listening.close()
        raise _cannot_listen(host, port, exc) from exc


def _cannot_listen(host: str, port: int, cause: OSError) -> GatewayError:
    flag = "--port" if cause.errno in {errno.EADDRINUSE, errno.EACCES} else "--host"
    return GatewayError(
        f"cannot listen on {host}:{port}: {cause.strerror}; choose another with {flag}"
    )
