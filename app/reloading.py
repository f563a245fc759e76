"""Reloading the configuration in a single process: a new gateway is built beside the old one.

Theory of operation. With several workers each is replaced by a successor (``app.server.Supervisor``). A
single process has none, so the whole gateway is built a second time in it, and requests go to the new one
when it is ready. The old one finishes its streams and runs and is then closed. Keep-alive connections stay
open: their cached request heads are dropped, so that their next request reaches the new gateway. An invalid
configuration, or one with which no gateway can be built, changes nothing, and ``/readyz`` says so.

A reload does not change what belongs to the process: address, port, number of workers, and the simulator.
Metrics and the in-memory cache start empty, as after a restart; what was learned of tool calls
(``app.classify.tool_need``) is carried over.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import structlog
from starlette.types import Receive, Scope, Send

from app.api.context import Context
from app.api.draining import drain_on_sigterm, wait_for_last_responses
from app.api.head_template import Endpoint
from app.api.warm_up import send_first_request, warming_up
from app.errors import GatewayError
from app.main import SlipstreamApp, create_app
from app.settings import Settings, SettingsError
from app.stores.sidecar_start import StartedProcess

_POLL_S = 0.05
_RUNS_PREFIX = "/v1/runs/"


@dataclass(slots=True, eq=False)
class _Gateway:
    """A gateway, built from one configuration."""

    settings: Settings
    app: SlipstreamApp
    context: Context
    end: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class ReloadableApp:
    """The application of a single process: delegates to the gateway that was built last."""

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        *,
        simulated: bool,
        on_swap: Callable[[], None],
        say: Callable[[str], None],
        encoder: StartedProcess | None = None,
    ) -> None:
        """``read`` reads the configuration again and raises ``SettingsError``; ``on_swap`` is called when
        requests go to another gateway; ``say`` prints to the operator. ``encoder`` is the first gateway's
        vector process.
        """
        self._settings, self._read = settings, read
        self._simulated, self._on_swap, self._print = simulated, on_swap, say
        self._encoder = encoder
        self._current: _Gateway | None = None
        self._retiring: list[_Gateway] = []
        self._reload_requested = asyncio.Event()
        self.native: dict[str, Endpoint] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Delegate to the newest gateway; requests about a run go to the gateway that has it."""
        if self._current is None or scope["type"] == "lifespan":
            return self._lifespan(receive, send)
        if self._retiring and scope["type"] == "http" and scope["path"].startswith(_RUNS_PREFIX):
            return self._owner_of_run(scope["path"]).app(scope, receive, send)
        return self._current.app(scope, receive, send)

    def _owner_of_run(self, path: str) -> _Gateway:
        run_id = path.removeprefix(_RUNS_PREFIX).partition("/")[0]
        assert self._current is not None  # noqa: S101 - a request is served
        for each in (self._current, *reversed(self._retiring)):
            if each.context.runs.has(run_id):
                return each
        return self._current

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """The ASGI lifespan: start the first gateway, reload on request, close all."""
        await receive()
        try:
            self._current = await self._build(self._settings)
        except BaseException as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        self.native = self._current.app.native
        reloading = asyncio.get_running_loop().create_task(self._reload_forever(), name="reloading")
        with (
            drain_on_sigterm(self._contexts, self._drain_s, None),
            _on_sighup(self._reload_requested.set),
        ):
            await send({"type": "lifespan.startup.complete"})
            async with warming_up(self._current.app):
                await receive()
        reloading.cancel()
        with suppress(asyncio.CancelledError):
            await reloading
        for context in self._contexts():
            context.readiness.draining = True
            await wait_for_last_responses(context)
        for each in (*self._retiring, self._current):
            await _close(each)
        await send({"type": "lifespan.shutdown.complete"})

    def _contexts(self) -> list[Context]:
        """The contexts of all gateways that still serve, the newest last."""
        newest = () if self._current is None else (self._current,)
        return [each.context for each in (*self._retiring, *newest)]

    def _drain_s(self) -> float:
        return 0.0 if self._current is None else self._current.settings.server.drain_s

    async def _build(self, settings: Settings) -> _Gateway:
        """Build a gateway and wait until it is ready; raises the cause if it fails."""
        encoder, self._encoder = self._encoder, None
        make = partial(create_app, settings, simulated=self._simulated, alone=True, encoder=encoder)
        serving = self._current is not None  # and must not be kept from it
        app = await asyncio.to_thread(make) if serving else make()
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        end = asyncio.Event()

        async def live() -> None:
            try:
                async with app.router.lifespan_context(app):
                    ready.set_result(None)
                    await end.wait()
            except BaseException as error:
                if ready.done():
                    raise
                ready.set_exception(error)

        task = loop.create_task(live(), name="gateway")
        await ready
        if serving:
            await send_first_request(app)
        return _Gateway(settings, app, app.state.context, end, task)

    async def _reload_forever(self) -> None:
        retiring: set[asyncio.Task[None]] = set()
        try:
            while True:
                await self._reload_requested.wait()
                self._reload_requested.clear()
                before = self._current
                if before is None or not await self._replace():
                    continue
                work = self._retire(before)
                task = asyncio.get_running_loop().create_task(work, name="retiring")
                retiring.add(task)
                task.add_done_callback(retiring.discard)
        finally:
            for task in retiring:
                task.cancel()

    async def _replace(self) -> bool:
        """Replace the gateway by one with the new configuration; False: nothing has changed."""
        before = self._current
        assert before is not None  # noqa: S101 - the caller has looked
        try:
            after = await self._build(await asyncio.to_thread(self._read))
        except SettingsError as error:
            for problem in error.problems:
                self._print(str(problem))
            return self._refused(before, "the configuration is invalid (see the log)")
        except (GatewayError, OSError) as error:
            return self._refused(before, f"the gateway could not be built: {error}")
        except Exception:  # noqa: BLE001 - the process edge: what serves must go on serving
            structlog.get_logger().exception("reload_failed")
            return self._refused(before, "the gateway could not be built (see the log)")
        after.context.edge.gateway.classifier.tools.adopt_statistics(
            before.context.edge.gateway.classifier.tools
        )
        self._retiring.append(before)
        self._current, self.native = after, after.app.native
        self._on_swap()
        before.app.state.context = (
            after.context
        )  # for what looks again in mid-stream, such as a job's events
        self._print("slipstream: the configuration was read again")
        return True

    def _refused(self, before: _Gateway, why: str) -> bool:
        before.context.readiness.degraded["configuration"] = f"the last reload was refused: {why}"
        self._print(f"slipstream: reload refused, nothing has changed: {why}")
        return False

    async def _retire(self, old: _Gateway) -> None:
        """Close a gateway once it has no requests or runs left. Its jobs move to the new one at once."""
        if old.context.jobs is not None:
            await old.context.jobs.aclose()
        context = old.context
        while context.edge.in_flight.now or context.runs.under_way:  # noqa: ASYNC110 - once a reload
            await asyncio.sleep(_POLL_S)
        self._retiring.remove(old)
        await _close(old)


async def _close(generation: _Gateway) -> None:
    generation.end.set()
    if generation.task is not None:
        await asyncio.wait({generation.task})
        if not generation.task.cancelled() and (error := generation.task.exception()) is not None:
            structlog.get_logger().error("gateway_did_not_close", exc_info=error)


class _on_sighup:  # noqa: N801 - reads as what it does
    """Call ``ask`` on SIGHUP while the context lasts; does nothing outside the main thread."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask, self._main = ask, threading.current_thread() is threading.main_thread()

    def __enter__(self) -> None:
        if self._main:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._ask)

    def __exit__(self, *_: object) -> None:
        if self._main:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
