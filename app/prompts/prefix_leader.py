"""Wait for a prefix leader: of several calls that would write a prefix one does, and the others read it."""

from __future__ import annotations

import asyncio


async def wait_for_leader(first_byte: asyncio.Event, longest_s: float) -> None:
    """Wait until the leader's answer begins, at most ``longest_s``, which releases all followers."""
    try:
        async with asyncio.timeout(longest_s):
            await first_byte.wait()
    except TimeoutError:
        first_byte.set()
