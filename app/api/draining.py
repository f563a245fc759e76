"""Graceful shutdown: a worker announces its end, keeps serving for ``server.drain_s``, then stops listening.

Theory of operation. uvicorn closes its socket within 0.1 s of SIGTERM. A load balancer would notice by a
refused connection or, worse, by a request on a keep-alive connection that is being closed, which must not be
repeated. So SIGTERM is handled before uvicorn sees it: ``/readyz`` returns 503 at once, every inference
response from then on closes its connection, new requests are still served, and after ``server.drain_s`` the
signal is passed to uvicorn, which waits for requests in flight. A second SIGTERM skips the wait; SIGINT
(Ctrl-C) never waits.

A reload replaces workers, not the server: the old workers drain too, but ``/readyz`` stays 200, because their
successors listen on the same socket.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # loads the gateway
    from app.api.context import Context

RELOADING_FILE = "staying"
"""A file in the folder of the workers' sockets, present while a reload replaces them."""
RELOAD_REFUSED_FILE = "refused"
"""A file there with the reason why the last reload was refused."""
_POLL_S = 0.02
_LAST_RESPONSES_S = 1.0


@contextmanager
def drain_on_sigterm(
    contexts: Callable[[], Sequence[Context]], drain_s: Callable[[], float], folder: Path | None
) -> Iterator[None]:
    """Handle SIGTERM while the context lasts; ``folder`` holds the sockets of the server's workers.

    ``contexts`` is called when the signal arrives and returns the gateways that serve then. Does nothing if
    the server has installed no handler, or outside the main thread.
    """
    servers = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(servers):
        yield
        return
    handler, draining = servers, False
    loop = asyncio.get_running_loop()

    def pass_on() -> None:
        handler(signal.SIGTERM, None)

    def begin() -> None:
        reloading = folder is not None and (folder / RELOADING_FILE).exists()
        for context in contexts():
            context.readiness.draining = not reloading
            context.edge.in_flight.draining = context.edge.heartbeat.stopping = True
        loop.call_later(drain_s(), pass_on)

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal draining
        if draining:
            handler(number, frame)
        else:
            draining = True
            loop.call_soon_threadsafe(begin)

    signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


async def wait_for_last_responses(context: Context) -> None:
    """Wait up to a second for requests that the shutdown cancelled to send their final error."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + _LAST_RESPONSES_S
    while context.edge.in_flight.now and loop.time() < until_s:  # noqa: ASYNC110 - once a life
        await asyncio.sleep(_POLL_S)
