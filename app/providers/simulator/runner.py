"""Starting the simulator: for ever by `run`, or for a while inside a running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from types import TracebackType

import uvloop

from app.providers.simulator.listener import Listener
from app.providers.simulator.profile import SimulatorSettings
from app.providers.simulator.server import Simulator, create_simulator


class RunningSimulator:
    """A simulator on a loopback port, as a context whose value is its base URL.

    Enter and leave it in the same task. Leaving ends every connection; no task outlives it.
    """

    def __init__(
        self,
        settings: SimulatorSettings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.simulator: Simulator = create_simulator(settings, now=now)
        self._host = host
        self._listener = Listener(
            self.simulator,
            host,
            port,
            max_body_bytes=self.simulator.settings.max_body_bytes,
        )

    @property
    def base_url(self) -> str:
        """Where it listens, without `/v1`: `http://127.0.0.1:43210`."""
        return f"http://{self._host}:{self._listener.bound_port}"

    async def __aenter__(self) -> str:
        """Listen, and give the base URL. Raises `OSError` when the port cannot be had."""
        await self._listener.__aenter__()
        return self.base_url

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening and end every connection."""
        await self._listener.__aexit__(exc_type, exc, traceback)


def running_simulator(
    settings: SimulatorSettings | None = None, *, host: str = "127.0.0.1", port: int = 0
) -> RunningSimulator:
    """A simulator for `async with ... as base_url`, on a free port unless one is given."""
    return RunningSimulator(settings, host=host, port=port)


async def serve(
    host: str,
    port: int,
    settings: SimulatorSettings,
    *,
    on_start: Callable[[str], None] | None = None,
) -> None:
    """Serve until cancelled. `on_start` is told the base URL once connections are accepted."""
    running = running_simulator(settings, host=host, port=port)
    async with running as base_url:
        if on_start is not None:
            on_start(base_url)
        await asyncio.Event().wait()


def run(
    host: str,
    port: int,
    settings: SimulatorSettings,
    *,
    on_start: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, on uvloop: the body of `slipstream simulate`."""

    async def until_told() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(serve(host, port, settings, on_start=on_start))
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, serving.cancel)

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(until_told())
