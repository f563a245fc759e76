"""How many turns of the event loop others get while something is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass
class Turns:
    """Counted by a task beside."""

    taken: int = 0


@asynccontextmanager
async def turns_of_others() -> AsyncIterator[Turns]:
    """Count the turns that a task of its own gets within the block."""
    turns, over = Turns(), False

    async def beside() -> None:
        while not over:
            turns.taken += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(beside())
        try:
            yield turns
        finally:
            over = True
