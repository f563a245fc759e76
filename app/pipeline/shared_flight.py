"""Answer where workers share a Redis: from a stored answer, from another worker's call, or from a model.

``answer_shared`` leads a flight for this worker's requests, and inside it finds out whether the answer is
stored, whether another worker's call can be followed, or whether this worker is to make the call.
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
from app.pipeline.leader_takeover import Continuation, continuation
from app.pipeline.replay import may_serve, same_form, serve_cached

if TYPE_CHECKING:
    from app.pipeline.shared_stream import RemoteProgress
    from app.stores.shared_flights import RemoteFlight

_TRIES = 4
"""How often a call whose leader was lost is claimed again."""


async def answer_shared(
    key: bytes, request: ChatRequest, gateway: Gateway, turn: Turn, to: tuple[Emit, Ask]
) -> None:
    """Answer from the shared cache or flights, or from a model; ``to``: the ``Emit``, and how to ask."""
    emit, ask = to
    with LeadingFlight(key, request, gateway, turn) as flight:
        flight.recording(emit)
        target = await _answer_from_shared(key, request, gateway, turn, flight)
        if target is None:
            return
        turn.cache, turn.reason = CacheOutcome.MISS, ""
        await ask(request, gateway, turn, target)
        await _finish(target)


async def _finish(target: Flight | Continuation) -> None:
    """The answer is complete: end a continuation."""
    if isinstance(target, Continuation):
        await target.finish_answer()


async def _answer_from_shared(
    key: bytes, request: ChatRequest, gateway: Gateway, turn: Turn, flight: Flight
) -> Flight | Continuation | None:
    """Answer from Redis or from another worker's call; None when done. Otherwise returns the ``Emit`` for a
    model's answer: the flight, or its continuation where a part was already shown.
    """
    target: Flight | Continuation = flight
    shared, look = gateway.shared, True
    if shared is None or not _may_share(key, gateway, turn):
        return target
    for _ in range(_TRIES):
        with turn.timeline.stage("cache", "shared"):
            found = await shared.claim(key, flight, look=look)
        if found is None:
            return target
        if isinstance(found, CachedAnswer):
            if may_serve(found, key, request, gateway, turn):
                await serve_cached(found, request, gateway, turn, target)
                await _finish(target)
                return None
            look = False
        else:
            followed = await _follow_remote_call((key, found), request, gateway, turn, target)
            if followed:
                await _finish(target)
                return None
            if followed is False:
                return target
            if flight.events:  # the leader was lost after its first event
                target = continuation(flight.events, request, gateway, flight)
    return target


def _may_share(key: bytes, gateway: Gateway, turn: Turn) -> bool:
    return gateway.sharing is None or gateway.sharing.admits(key, turn.user)


async def look_up_shared(
    key: bytes | None, request: ChatRequest, gateway: Gateway, turn: Turn
) -> CachedAnswer | None:
    """The shared cache's answer, without claiming the call: only a hit may answer, or a semantic look-up
    comes first.
    """
    shared = gateway.shared
    if shared is None or key is None or gateway.flights.running(key) is not None:
        return None
    entry = await shared.look_up(key)
    return entry if entry is not None and may_serve(entry, key, request, gateway, turn) else None


async def _follow_remote_call(
    what: tuple[bytes, RemoteFlight],
    request: ChatRequest,
    gateway: Gateway,
    turn: Turn,
    emit: Emit,
) -> bool | None:
    """Follow another worker's call to its end. None: its leader was lost. False: its form does not carry all
    that this request asks for.
    """
    from app.pipeline.shared_answers import LeaderLost
    from app.pipeline.shared_stream import StreamForm

    (key, running), shared = what, gateway.shared
    if shared is None:
        return False
    try:
        form = msgspec.msgpack.decode(running.form, type=StreamForm)
    except (msgspec.DecodeError, ValueError):  # from a gateway of another version
        return False
    leader_form = Flight(Dialect(form.dialect), form.streamed, form.usage_shown, lambda: None)
    if not joinable(leader_form, request):
        return False
    is_same_form = same_form(leader_form, request)
    translated = (
        emit if is_same_form else translating_emit(gateway.codecs[leader_form.dialect], emit)
    )
    turn.cache, turn.cache_reason = CacheOutcome.COALESCED, "in_flight"
    turn.reason = "joined an identical request in flight on another worker"
    waiting = list[Event]()

    async def forward(progress: RemoteProgress, event: Event) -> None:
        _copy_progress(progress, gateway, turn)
        if request.stream:
            await translated(event)
        else:  # nothing is shown until complete, so a lost leader costs nothing
            waiting.append(event)

    try:
        with turn.timeline.stage("upstream", "joined"):
            progress = await shared.follow(key, running, forward)
        for event in waiting:
            await translated(event)
    except LeaderLost:
        return None
    except UpstreamError as error:
        if error.already_reported and not is_same_form:
            raise UpstreamClosed(error.message, code=error.code) from error
        raise
    _copy_progress(progress, gateway, turn)
    turn.usage, turn.saved_usd = progress.usage, progress.cost_usd
    turn.finish = progress.finish
    turn.complete = True
    return True


def _copy_progress(progress: RemoteProgress, gateway: Gateway, turn: Turn) -> None:
    if turn.model is None and progress.model:
        turn.model, turn.answered_tier = gateway.models.get(progress.model), progress.tier
