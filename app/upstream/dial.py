"""How a pool connects: to the origin's name, or to addresses that a policy has checked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.upstream.origin import Origin

Dial = Callable[[asyncio.AbstractEventLoop, asyncio.Protocol, Origin], Awaitable[asyncio.Transport]]
"""Connect the protocol to the origin; raises OSError. Cancelled: no socket stays."""

AddressPolicy = Callable[[str, int], Awaitable[list[str]]]
"""The permitted addresses of a host and port, at least one; what it raises, ``Pool.request`` raises."""


async def connect_by_name(
    loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, origin: Origin
) -> asyncio.Transport:
    """Connect to the origin's name."""
    return await _connect(loop, protocol, origin.host, origin.port)


def dial_checked(policy: AddressPolicy) -> Dial:
    """Connect to the first address that ``policy`` permits and that answers.

    It connects to the address that was checked, not to the name, which may resolve to another by then.
    """

    async def dial(
        loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, origin: Origin
    ) -> asyncio.Transport:
        *others, last = await policy(origin.host, origin.port)
        for address in others:
            try:
                return await _connect(loop, protocol, address, origin.port)
            except OSError:
                continue  # the next may answer; the last one's error is raised
        return await _connect(loop, protocol, last, origin.port)

    return dial


async def _connect(
    loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, host: str, port: int
) -> asyncio.Transport:
    transport, _ = await loop.create_connection(lambda: protocol, host, port)
    return transport
