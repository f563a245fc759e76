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
from app.domain.usage import Usage
from app.pipeline.gateway import Gateway, Turn
from app.ports import ModelCall

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
    delay_s = None if hedging is None else hedging.delay_s(gateway.load.of(call.model.name))
    backup = next((one for one in others if not gateway.load.is_open(one.model.name)), None)
    if hedging is None or delay_s is None or backup is None:
        await run(call, gateway, turn, emit)
        return
    race = Race(emit, turn)
    first = race.enter(call, run, gateway)
    decided: set[asyncio.Future[None]] = {first, race.won}
    try:
        await asyncio.wait(decided, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
        if first.done() or race.won.done() or not hedging.take(_prompt_usd(backup)):
            await first
            return
        others.remove(backup)
        second = race.enter(backup, run, gateway)
        await _until_decided(race, first, second)
        if race.winner is backup:
            gateway.load.waited(call.model.name, delay_s)
            turn.reason += f"; a second call after {delay_s * 1e3:.0f} ms was quicker"
            turn.upstream_ns += int(delay_s * 1e9)
            hedging.settle("won", call.tokens_streamed, _prompt_usd(call))
            await second
        else:
            failed = race.winner is None
            hedging.settle("failed" if failed else "lost", 0, _prompt_usd(backup))
            await first
    finally:
        await race.close()


class Race:
    """Calls that run at once, of which one answers."""

    def __init__(self, emit: Emit, turn: Turn) -> None:
        """The winner's events go to ``emit``; ``turn`` is told who it is."""
        self.emit, self.turn = emit, turn
        self.won: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.winner: ModelCall | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def enter(self, call: ModelCall, run: Run, gateway: Gateway) -> asyncio.Task[None]:
        """Start ``call``."""
        lane = _Lane(self, call)

        async def go() -> None:
            await run(call, gateway, self.turn, lane)

        task = asyncio.get_running_loop().create_task(go(), name=f"call {call.model.name}")
        self._tasks[id(call)] = task
        return task

    def win(self, call: ModelCall) -> bool:
        """``call`` has something to say: whether it may, being the first. The others are cancelled."""
        if self.winner is not None:
            return self.winner is call
        self.winner, turn = call, self.turn
        turn.model, turn.upstream, turn.call = call.model, call.timing, call
        for which, task in self._tasks.items():
            if which != id(call):
                task.cancel()
        self.won.set_result(None)
        return True

    async def close(self) -> None:
        """Cancel whatever still runs, and wait until it is gone."""
        self.won.cancel()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.wait(self._tasks.values())
        for task in self._tasks.values():
            if not task.cancelled():
                task.exception()  # whoever waited for the call has it; nobody need be warned


class _Lane:
    """One call's ``Emit``."""

    def __init__(self, race: Race, call: ModelCall) -> None:
        self._race, self._call = race, call

    async def __call__(self, event: Event) -> None:
        if not self._race.win(self._call):
            raise asyncio.CancelledError
        await self._race.emit(event)

    @property
    def offer(self) -> Offer | None:
        """The way past the queue that the client's ``Emit`` may have; asked for after the first event."""
        return offer_of(self._race.emit) if self._race.winner is self._call else None


async def _until_decided(race: Race, *calls: asyncio.Task[None]) -> None:
    """Return when one has said something, or all have ended without a word."""
    while not race.won.done():
        running: set[asyncio.Future[None]] = {call for call in calls if not call.done()}
        if not running:
            return
        await asyncio.wait({*running, race.won}, return_when=asyncio.FIRST_COMPLETED)


def _prompt_usd(call: ModelCall) -> float:
    """About what reading the prompt of ``call`` costs."""
    if call.native is not None:
        chars = len(call.native.raw)
    elif call.conversation is not None:
        parts = (part for message in call.conversation.messages for part in message.parts)
        chars = sum(len(part.text) for part in parts if isinstance(part, TextPart))
    else:
        chars = 0
    return call.model.price.cost_usd(Usage(input_tokens=chars // _CHARS_PER_TOKEN))
