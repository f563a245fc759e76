"""How a pool gets a connection: to the origin's name, or to addresses that somebody has judged first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.upstream.origin import Origin

Dial = Callable[[asyncio.AbstractEventLoop, asyncio.Protocol, Origin], Awaitable[asyncio.Transport]]
"""Connect the protocol to the origin; raises OSError. Cancelled: no socket stays."""

Choose = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host and port that may be reached, at least one; raises what ``request`` shall raise."""


async def straight(
    loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, origin: Origin
) -> asyncio.Transport:
    """Connect to the origin's name."""
    return await _connected(loop, protocol, origin.host, origin.port)


def judged(choose: Choose) -> Dial:
    """Connect to the first address that ``choose`` permits and that answers: to the very address that
    was judged, not to a name that may mean another by then.
    """

    async def dial(
        loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, origin: Origin
    ) -> asyncio.Transport:
        *others, last = await choose(origin.host, origin.port)
        for address in others:
            try:
                return await _connected(loop, protocol, address, origin.port)
            except OSError:
                continue  # the next may answer; the last one's error is told
        return await _connected(loop, protocol, last, origin.port)

    return dial


async def _connected(
    loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, host: str, port: int
) -> asyncio.Transport:
    transport, _ = await loop.create_connection(lambda: protocol, host, port)
    return transport
