"""Hedged calls: a second call to another deployment where the first event of the first is late.

Both run until one emits its first event; the other is cancelled then, so that no tokens are generated for
nobody. Both have ended when ``run_hedged`` returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.domain.chat import TextPart
from app.domain.events import Emit
from app.domain.model_call import ModelCall
from app.domain.usage import Usage
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.race import Race, until_decided

Run = Callable[[ModelCall, Gateway, Turn, Emit], Awaitable[None]]
"""Runs one call and settles its account."""

_CHARS_PER_TOKEN = 4


async def run_hedged(  # noqa: PLR0917 - both calls, and what every call needs
    call: ModelCall, others: list[ModelCall], gateway: Gateway, turn: Turn, emit: Emit, run: Run
) -> None:
    """Run ``call``; where its first event is later than usual, race it with the next of ``others``.

    That one is removed from ``others``. Raises the winner's failure; where nobody wins, that of ``call``.
    """
    hedging = gateway.hedging
    backup = next((one for one in others if not gateway.load.is_open(one.model.name)), None)
    delay_s = None
    if hedging is not None and backup is not None:
        load = gateway.load
        delay_s = hedging.delay_s(
            load.deployment(call.model.name), load.deployment(backup.model.name)
        )
    if hedging is None or delay_s is None or backup is None:
        await run(call, gateway, turn, emit)
        return

    def on_win(runner: object) -> None:
        winner = call if runner is call else backup
        turn.model, turn.upstream, turn.call = winner.model, winner.timing, winner

    race = Race(emit, on_win)
    began_s = asyncio.get_running_loop().time()
    first = race.enter(call, lambda to: run(call, gateway, turn, to))
    decided: set[asyncio.Future[None]] = {first, race.won}
    try:
        await asyncio.wait(decided, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
        if first.done() or race.won.done() or not hedging.try_take(estimated_prompt_usd(backup)):
            await first
            return
        others.remove(backup)
        second = race.enter(backup, lambda to: run(backup, gateway, turn, to))
        await until_decided(race, first, second)
        if race.winner is backup:
            waited_s = asyncio.get_running_loop().time() - began_s
            usual_s = gateway.load.deployment(call.model.name).first_tokens.mean_above(waited_s)
            saved_s = 0.0 if usual_s is None else usual_s - waited_s
            turn.hedge = saved_s, estimated_prompt_usd(call)
            gateway.load.record_hedged_wait(call.model.name, delay_s)
            turn.reason += f"; a second call after {delay_s * 1e3:.0f} ms was quicker"
            turn.upstream_ns += int(delay_s * 1e9)
            hedging.record_outcome("won", call.tokens_streamed, estimated_prompt_usd(call))
            await second
        else:
            failed = race.winner is None
            turn.hedge = 0.0, estimated_prompt_usd(backup)
            hedging.record_outcome("failed" if failed else "lost", 0, estimated_prompt_usd(backup))
            await first
    finally:
        await race.close()


def estimated_prompt_usd(call: ModelCall) -> float:
    """The estimated price of the prompt of ``call``."""
    if call.native is not None:
        chars = len(call.native.raw)
    elif call.conversation is not None:
        parts = (part for message in call.conversation.messages for part in message.parts)
        chars = sum(len(part.text) for part in parts if isinstance(part, TextPart))
    else:
        chars = 0
    return call.model.price.cost_usd(Usage(input_tokens=chars // _CHARS_PER_TOKEN))
