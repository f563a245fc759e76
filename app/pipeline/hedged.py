"""A second call to another deployment, once the first has kept its word back for too long.

Both run until one says its first event; the other is cancelled at that moment, before the event is handed
on, so that the client sees one answer and nobody generates tokens for nobody. Each call is a task here, as
one of them must be able to die alone; both are over, whatever happens, when ``hedged`` returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.domain.chat import TextPart
from app.domain.events import Emit, Event, Offer, offer_of
from app.domain.model_call import ModelCall
from app.domain.usage import Usage
from app.pipeline.gateway import Gateway, Turn

Run = Callable[[ModelCall, Gateway, Turn, Emit], Awaitable[None]]
"""Runs one call and settles its account."""

_CHARS_PER_TOKEN = 4


async def hedged(  # noqa: PLR0917 - the race's two sides, and what every call needs
    call: ModelCall, others: list[ModelCall], gateway: Gateway, turn: Turn, emit: Emit, run: Run
) -> None:
    """Run ``call``; once its deployment's usual first-token time is over, race the next of ``others``.

    The one that raced is taken out of ``others``. Raises what the winner raises; where nobody wins, what
    ``call`` raised.
    """
    hedging = gateway.hedging
    backup = next((one for one in others if not gateway.load.is_open(one.model.name)), None)
    delay_s = None
    if hedging is not None and backup is not None:
        load = gateway.load
        delay_s = hedging.delay_s(load.of(call.model.name), load.of(backup.model.name))
    if hedging is None or delay_s is None or backup is None:
        await run(call, gateway, turn, emit)
        return

    def answers(runner: object) -> None:
        winner = call if runner is call else backup
        turn.model, turn.upstream, turn.call = winner.model, winner.timing, winner

    race = Race(emit, answers)
    began_s = asyncio.get_running_loop().time()
    first = race.enter(call, lambda lane: run(call, gateway, turn, lane))
    decided: set[asyncio.Future[None]] = {first, race.won}
    try:
        await asyncio.wait(decided, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
        if first.done() or race.won.done() or not hedging.take(prompt_usd(backup)):
            await first
            return
        others.remove(backup)
        second = race.enter(backup, lambda lane: run(backup, gateway, turn, lane))
        await until_decided(race, first, second)
        if race.winner is backup:
            waited_s = asyncio.get_running_loop().time() - began_s
            usual_s = gateway.load.of(call.model.name).first_tokens.mean_beyond(waited_s)
            saved_s = 0.0 if usual_s is None else usual_s - waited_s
            turn.hedge = saved_s, prompt_usd(call)
            gateway.load.waited(call.model.name, delay_s)
            turn.reason += f"; a second call after {delay_s * 1e3:.0f} ms was quicker"
            turn.upstream_ns += int(delay_s * 1e9)
            hedging.settle("won", call.tokens_streamed, prompt_usd(call))
            await second
        else:
            failed = race.winner is None
            turn.hedge = 0.0, prompt_usd(backup)
            hedging.settle("failed" if failed else "lost", 0, prompt_usd(backup))
            await first
    finally:
        await race.close()


class Race:
    """Pieces of work that run at once, of which one answers."""

    def __init__(self, emit: Emit, on_win: Callable[[object], None]) -> None:
        """The winner's events go to ``emit``; ``on_win`` is told who it is before the first one does."""
        self.emit, self._on_win = emit, on_win
        self.won: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.winner: object = None
        self._tasks: list[tuple[object, asyncio.Task[None]]] = []

    def enter(self, runner: object, work: Callable[[Emit], Awaitable[None]]) -> asyncio.Task[None]:
        """Start ``work`` for ``runner``; its first event is its bid."""
        lane = _Lane(self, runner)

        async def go() -> None:
            await work(lane)

        task = asyncio.get_running_loop().create_task(go(), name="race")
        self._tasks.append((runner, task))
        return task

    def win(self, runner: object) -> bool:
        """``runner`` has something to say: whether it may, being the first. The others are cancelled."""
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
        """Cancel whatever still runs, and wait until it is gone."""
        self.won.cancel()
        tasks = [task for _, task in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # whoever waited for the work has it; nobody need be warned


class _Lane:
    """One runner's ``Emit``."""

    def __init__(self, race: Race, runner: object) -> None:
        self._race, self._runner = race, runner

    async def __call__(self, event: Event) -> None:
        if not self._race.win(self._runner):
            raise asyncio.CancelledError
        await self._race.emit(event)

    @property
    def offer(self) -> Offer | None:
        """The way past the queue that the client's ``Emit`` may have; asked for after the first event."""
        return offer_of(self._race.emit) if self._race.winner is self._runner else None


async def until_decided(race: Race, *calls: asyncio.Task[None]) -> None:
    """Return when one has said something, or all have ended without a word."""
    while not race.won.done():
        running: set[asyncio.Future[None]] = {call for call in calls if not call.done()}
        if not running:
            return
        await asyncio.wait({*running, race.won}, return_when=asyncio.FIRST_COMPLETED)


def prompt_usd(call: ModelCall) -> float:
    """About what reading the prompt of ``call`` costs."""
    if call.native is not None:
        chars = len(call.native.raw)
    elif call.conversation is not None:
        parts = (part for message in call.conversation.messages for part in message.parts)
        chars = sum(len(part.text) for part in parts if isinstance(part, TextPart))
    else:
        chars = 0
    return call.model.price.cost_usd(Usage(input_tokens=chars // _CHARS_PER_TOKEN))
