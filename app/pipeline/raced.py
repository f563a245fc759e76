"""The look-up by meaning and the model at once: who speaks first answers.

A look-up takes milliseconds, a model hundreds of them. To wait for the first before asking the second makes
every miss slower by the look-up; to ask both costs the beginning of a call for every hit. Which of the two a
tenant would rather pay is the operator's to say (``cache.semantic.race_for``).

The model's call runs on a copy of the turn, which becomes the turn when the model wins; so a hit leaves no
trace of a call but its cost.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from app.domain.chat import ChatRequest
from app.domain.events import Emit
from app.pipeline.gateway import Ask, Gateway, Turn
from app.pipeline.hedged import Race, prompt_usd, until_decided
from app.pipeline.remember import keep

if TYPE_CHECKING:
    from app.pipeline.meaning import Looked, Meaning

_LOOK, _MODEL = "look", "model"


async def answer_by_the_first(  # noqa: PLR0917 - what every way to an answer needs, and the way to a model
    key: bytes, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit, ask: Ask
) -> Looked | None:
    """Answer from the look-up if it finds a hit before the model speaks, else from the model.

    Gives what the look-up saw, if it came to that. Raises what the model raised where neither answers.
    Cancelled: both are over when it returns.
    """
    with keep(key, request, gateway, turn) as led:
        return await run_race((key, ask), request, gateway, turn, led.recording(emit))


async def run_race(
    asked: tuple[bytes, Ask], request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> Looked | None:
    """As ``answer_by_the_first``, for whoever leads the request's flight and records what ``emit`` is told.

    ``asked``: the request's key, and how its model is asked.
    """
    (key, ask), meaning = asked, gateway.meaning
    assert meaning is not None  # noqa: S101 - whoever asks for a race has asked its settings
    looked: Looked | None = None
    sides = {_LOOK: copy.copy(turn), _MODEL: copy.copy(turn)}
    sides[_LOOK].begun, sides[_LOOK].begun_ns = None, 0

    def answers(winner: object) -> None:
        vars(turn).update(vars(sides[str(winner)]))

    race = Race(emit, answers)

    async def look(lane: Emit) -> None:
        nonlocal looked
        looked = await _told(meaning, key, request, gateway, sides[_LOOK], lane)

    # The model first: it is on its way before the question is judged, which takes half a millisecond.
    second = race.enter(_MODEL, lambda lane: ask(request, gateway, sides[_MODEL], lane))
    first = race.enter(_LOOK, look)
    try:
        await until_decided(race, first, second)
        winner = _LOOK if race.winner == _LOOK else _MODEL
        await (first if winner == _LOOK else second)
    finally:
        await race.close()
        if race.winner != _LOOK:
            vars(turn).update(vars(sides[_MODEL]))
    if winner == _LOOK:
        turn.attempts = sides[_MODEL].attempts
        call = sides[_MODEL].call
        turn.cost_usd += sides[_MODEL].cost_usd or (prompt_usd(call) if call else 0.0)
    meaning.on_race(winner)
    return looked


async def _told(  # noqa: PLR0917 - see above
    meaning: Meaning, key: bytes, request: ChatRequest, gateway: Gateway, turn: Turn, lane: Emit
) -> Looked | None:
    """Look, and tell the hit if there is one."""
    looked = await meaning.look(key, request, turn)
    if looked is not None and looked[1].hit is not None:
        await meaning.tell(looked[1], request, gateway, turn, lane)
    return looked
