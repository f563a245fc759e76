"""Race: pieces of work run at once, and the first to emit an event wins.

The others are cancelled at that moment, before the event is forwarded, so that the client sees one answer.
Each piece is a task, as one must be able to fail alone; all have ended when ``Race.close`` returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.domain.events import Emit, Event, Offer, offer_of


class Race:
    """Concurrent pieces of work, of which one answers."""

    def __init__(self, emit: Emit, on_win: Callable[[object], None]) -> None:
        """Forward the winner's events to ``emit``; ``on_win`` gets the winner before the first one."""
        self.emit, self._on_win = emit, on_win
        self.won: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.winner: object = None
        self._tasks: list[tuple[object, asyncio.Task[None]]] = []

    def enter(self, runner: object, work: Callable[[Emit], Awaitable[None]]) -> asyncio.Task[None]:
        """Start ``work`` for ``runner``; its first event claims the win."""
        emit = _RunnerEmit(self, runner)

        async def run() -> None:
            await work(emit)

        task = asyncio.get_running_loop().create_task(run(), name="race")
        self._tasks.append((runner, task))
        return task

    def claim_win(self, runner: object) -> bool:
        """Whether ``runner`` is, or now becomes, the winner; on becoming it the others are cancelled."""
        if self.winner is not None:
            return self.winner is runner
        self.winner = runner
        self._on_win(runner)
        for other, task in self._tasks:
            if other is not runner:
                task.cancel()
        self.won.set_result(None)
        return True

    async def close(self) -> None:
        """Cancel what still runs, and wait until it has ended."""
        self.won.cancel()
        tasks = [task for _, task in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # retrieved, so that asyncio does not warn


class _RunnerEmit:
    """One runner's ``Emit``."""

    def __init__(self, race: Race, runner: object) -> None:
        self._race, self._runner = race, runner

    async def __call__(self, event: Event) -> None:
        if not self._race.claim_win(self._runner):
            raise asyncio.CancelledError
        await self._race.emit(event)

    @property
    def offer(self) -> Offer | None:
        """The ``offer`` of the race's ``emit``, for the winner only."""
        return offer_of(self._race.emit) if self._race.winner is self._runner else None


async def until_decided(race: Race, *calls: asyncio.Task[None]) -> None:
    """Return when one has won, or all have ended without an event."""
    while not race.won.done():
        running: set[asyncio.Future[None]] = {call for call in calls if not call.done()}
        if not running:
            return
        await asyncio.wait({*running, race.won}, return_when=asyncio.FIRST_COMPLETED)
