"""Waiting for who goes ahead: of several that would write a prefix one does, and the others read it."""

from __future__ import annotations

import asyncio


async def wait_for_leader(first_byte: asyncio.Event, longest_s: float) -> None:
    """Wait until the leader's answer begins; one silent for ``longest_s`` holds nobody back any more."""
    try:
        async with asyncio.timeout(longest_s):
            await first_byte.wait()
    except TimeoutError:
        first_byte.set()
