"""A worker that is told to end: first it says so, then it goes on for a while, then it stops listening.

Theory of operation. uvicorn closes its socket within 0.1 s of SIGTERM. Whoever stands in front learns of
that by a refused connection, or worse, by a request sent on a kept connection just as it was closed, which
nobody may repeat. So SIGTERM is taken before uvicorn gets it: ``/readyz`` turns 503 at once, every inference
answer from then on ends its connection, new ones are still served, and only ``server.drain_s`` later uvicorn
hears of the signal and waits for what is in flight. A second SIGTERM skips the wait, and SIGINT (a person at
a terminal) has none.

A reload replaces workers, not the server: the old ones drain as well, but ``/readyz`` does not turn, for
their successors listen on the same socket.
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

STAYING = "staying"
"""A file among the workers' sockets while a reload replaces them."""
REFUSED = "refused"
"""A file there that says, in a sentence, why the last reload was refused."""
_LOOK_EVERY_S = 0.02
_LAST_WORDS_S = 1.0


@contextmanager
def told_to_end(
    contexts: Callable[[], Sequence[Context]], drain_s: Callable[[], float], folder: Path | None
) -> Iterator[None]:
    """Take SIGTERM while the context lasts; ``folder`` is where the workers of one server meet.

    ``contexts`` are asked for when the signal comes: the gateways that serve then.

    Does nothing where no server has put a handler of its own, or outside the main thread.
    """
    servers = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(servers):
        yield
        return
    handler, told = servers, False
    loop = asyncio.get_running_loop()

    def pass_on() -> None:
        handler(signal.SIGTERM, None)

    def begin() -> None:
        staying = folder is not None and (folder / STAYING).exists()
        for context in contexts():
            context.readiness.draining = not staying
            context.edge.in_flight.draining = context.edge.pulse.stopping = True
        loop.call_later(drain_s(), pass_on)

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            handler(number, frame)
        else:
            told = True
            loop.call_soon_threadsafe(begin)

    signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


async def last_words(context: Context) -> None:
    """Wait, briefly, until the requests that the end of the grace cut off have told their clients."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + _LAST_WORDS_S
    while context.edge.in_flight.now and loop.time() < until_s:  # noqa: ASYNC110 - once a life
        await asyncio.sleep(_LOOK_EVERY_S)
