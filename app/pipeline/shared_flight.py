"""A turn where several workers share a Redis: what is kept there, what another worker is at, or a
model.

``answer_shared`` stands where the pipeline would otherwise lead a flight of its own: it leads one for
the requests of this worker, and inside it finds out whether the answer is kept, whether another
worker's call can be followed, or whether the call is this worker's to make.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from app.cache.coalesce import Flight
from app.cache.exact import CachedAnswer
from app.domain.chat import ChatRequest, Dialect
from app.domain.decisions import CacheOutcome
from app.domain.events import Emit, Event
from app.errors import UpstreamClosed, UpstreamError
from app.pipeline.flights import LeadingFlight, joinable, translating_emit
from app.pipeline.gateway import Ask, Gateway, Turn
from app.pipeline.replay import may_serve, same_form, serve_cached
from app.pipeline.take_over import GoingOn, going_on

if TYPE_CHECKING:
    from app.pipeline.shared_stream import Said
    from app.stores.shared_flights import Running

_TRIES = 4
"""How often a call whose leader was lost is begun again."""


async def answer_shared(
    key: bytes, request: ChatRequest, gateway: Gateway, turn: Turn, to: tuple[Emit, Ask]
) -> None:
    """Answer from what all workers keep and do, or by asking a model; ``to``: whom to tell, how to ask."""
    emit, ask = to
    with LeadingFlight(key, request, gateway, turn) as flight:
        flight.recording(emit)
        told = await _answer_from_shared(key, request, gateway, turn, flight)
        if told is None:
            return
        turn.cache, turn.reason = CacheOutcome.MISS, ""
        await ask(request, gateway, turn, told)
        await _finish(told)


async def _finish(told: Flight | GoingOn) -> None:
    """The answer is whole; where it was gone on with, say so."""
    if isinstance(told, GoingOn):
        await told.finish_answer()


async def _answer_from_shared(
    key: bytes, request: ChatRequest, gateway: Gateway, turn: Turn, flight: Flight
) -> Flight | GoingOn | None:
    """Answer from what is kept in Redis, or from another worker's call. Else gives what a model's answer
    is to be told to: the flight, or whatever goes on with it where a part was shown already.
    """
    told: Flight | GoingOn = flight
    shared, look = gateway.shared, True
    if shared is None or not _may_share(key, gateway, turn):
        return told
    for _ in range(_TRIES):
        with turn.timeline.stage("cache", "shared"):
            found = await shared.claim(key, flight, look=look)
        if found is None:
            return told
        if isinstance(found, CachedAnswer):
            if may_serve(found, key, request, gateway, turn):
                await serve_cached(found, request, gateway, turn, told)
                await _finish(told)
                return None
            look = False
        else:
            followed = await _follow_remote_call((key, found), request, gateway, turn, told)
            if followed:
                await _finish(told)
                return None
            if followed is False:
                return told
            if flight.events:  # its leader was lost in the middle
                told = going_on(flight.events, request, gateway, flight)
    return told


def _may_share(key: bytes, gateway: Gateway, turn: Turn) -> bool:
    return gateway.sharing is None or gateway.sharing.admits(key, turn.user)


async def look_up_shared(
    key: bytes | None, request: ChatRequest, gateway: Gateway, turn: Turn
) -> CachedAnswer | None:
    """What other workers keep, where nothing may be claimed: only a hit will do, or a look by meaning
    comes first.
    """
    shared = gateway.shared
    if shared is None or key is None or gateway.flights.running(key) is not None:
        return None
    entry = await shared.look(key)
    return entry if entry is not None and may_serve(entry, key, request, gateway, turn) else None


async def _follow_remote_call(
    what: tuple[bytes, Running],
    request: ChatRequest,
    gateway: Gateway,
    turn: Turn,
    told: Emit,
) -> bool | None:
    """Follow another worker's call. None: its leader was lost. False: it does not say all that this
    request asks for.
    """
    from app.pipeline.shared_answers import LeaderLost
    from app.pipeline.shared_stream import Form

    (key, running), shared = what, gateway.shared
    if shared is None:
        return False
    try:
        form = msgspec.msgpack.decode(running.form, type=Form)
    except (msgspec.DecodeError, ValueError):  # of a gateway of another version
        return False
    like = Flight(Dialect(form.dialect), form.streamed, form.usage_shown, lambda: None)
    if not joinable(like, request):
        return False
    as_it_is = same_form(like, request)
    translated = told if as_it_is else translating_emit(gateway.codecs[like.dialect], told)
    turn.cache, turn.cache_reason = CacheOutcome.COALESCED, "in_flight"
    turn.reason = "joined an identical request in flight on another worker"
    waiting = list[Event]()

    async def hand_on(said: Said, event: Event) -> None:
        _copy_progress(said, gateway, turn)
        if request.stream:
            await translated(event)
        else:  # until it is whole, nothing is shown and a lost leader costs nothing
            waiting.append(event)

    try:
        with turn.timeline.stage("upstream", "joined"):
            said = await shared.follow(key, running, hand_on)
        for event in waiting:
            await translated(event)
    except LeaderLost:
        return None
    except UpstreamError as error:
        if error.already_reported and not as_it_is:
            raise UpstreamClosed(error.message, code=error.code) from error
        raise
    _copy_progress(said, gateway, turn)
    turn.usage, turn.saved_usd, turn.finish = said.usage, said.cost_usd, said.finish
    turn.complete = True
    return True


def _copy_progress(said: Said, gateway: Gateway, turn: Turn) -> None:
    if turn.model is None and said.model:
        turn.model, turn.answered_tier = gateway.models.get(said.model), said.tier
