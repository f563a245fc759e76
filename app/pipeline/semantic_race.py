"""Race the semantic look-up with the model's call: the first to emit an event answers.

A look-up takes milliseconds, a model hundreds of them. One after the other makes every miss slower by the
look-up; both at once costs the start of a call for every hit. The operator chooses by tenant
(``cache.semantic.race_for``).

Each side runs on a copy of the turn, and the winner's copy becomes the turn; so a hit leaves of the call
only its cost.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from app.domain.chat import ChatRequest
from app.domain.events import Emit
from app.pipeline.flights import LeadingFlight
from app.pipeline.gateway import Ask, Gateway, Turn
from app.pipeline.hedged import estimated_prompt_usd
from app.pipeline.race import Race, until_decided

if TYPE_CHECKING:
    from app.pipeline.semantic_answers import SemanticAnswers, SemanticLookup

_LOOK, _MODEL = "look", "model"


async def answer_by_race(  # noqa: PLR0917 - what every way to an answer needs, and the way to a model
    key: bytes, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit, ask: Ask
) -> SemanticLookup | None:
    """Answer from the look-up if it finds a hit before the model's first event, else from the model.

    Returns the look-up if it finished. Raises the model's failure where neither answers. Both sides have
    ended when it returns, cancelled or not.
    """
    with LeadingFlight(key, request, gateway, turn) as flight:
        recording = flight.recording(emit)
        return await race_lookup_with_model((key, ask), request, gateway, turn, recording)


async def race_lookup_with_model(
    how: tuple[bytes, Ask], request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> SemanticLookup | None:
    """As ``answer_by_race``, for a caller that leads the request's flight; ``emit`` records into it.

    ``how``: the request's key, and how its model is asked.
    """
    (key, ask), semantic = how, gateway.semantic
    assert semantic is not None  # noqa: S101 - the caller has read ``race_for`` from it
    lookup: SemanticLookup | None = None
    sides = {_LOOK: copy.copy(turn), _MODEL: copy.copy(turn)}
    sides[_LOOK].started_exchange, sides[_LOOK].exchange_started_ns = None, 0

    def on_win(winner: object) -> None:
        vars(turn).update(vars(sides[str(winner)]))

    race = Race(emit, on_win)

    async def look(to: Emit) -> None:
        nonlocal lookup
        lookup = await _serve_from_lookup(semantic, key, request, gateway, sides[_LOOK], to)

    # The model first: its request is sent before the question is classified, which takes half a millisecond.
    second = race.enter(_MODEL, lambda to: ask(request, gateway, sides[_MODEL], to))
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
        turn.cost_usd += sides[_MODEL].cost_usd or (estimated_prompt_usd(call) if call else 0.0)
    semantic.on_race(winner)
    return lookup


async def _serve_from_lookup(  # noqa: PLR0917 - see above
    semantic: SemanticAnswers,
    key: bytes,
    request: ChatRequest,
    gateway: Gateway,
    turn: Turn,
    emit: Emit,
) -> SemanticLookup | None:
    """Look up, and emit the hit if there is one."""
    lookup = await semantic.look_up(key, request, turn)
    if lookup is not None and lookup.result.hit is not None:
        await semantic.serve_hit(lookup.result, request, gateway, turn, emit)
    return lookup
