"""One turn, top to bottom as in the picture: lanes, cache, classifier, router, model, stream.

``answer`` is the diagram. It pushes events to ``emit`` and returns when the answer is whole; it raises
a ``GatewayError`` when there is none, or when it broke off. Cancelled at any moment, it stops all
upstream work.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING

from app.cache.coalesce import Flight
from app.cache.exact import CachedAnswer
from app.cache.key import exact_key, leaves_something_behind, moves_a_state
from app.domain.agents import PREFIX as AGENT
from app.domain.chat import ChatRequest
from app.domain.decisions import CacheMode, CacheOutcome, PromptView, Tier
from app.domain.events import Emit
from app.domain.models import AUTO, Model
from app.domain.replay import answer_of_text, replay
from app.errors import BadRequest, CacheOnlyMiss, NotFound
from app.lanes.rules import LaneAnswer
from app.pipeline.agent_answer import answer_as_agent
from app.pipeline.choose import choose
from app.pipeline.converse import converse
from app.pipeline.escalation import converse_or_escalate
from app.pipeline.gateway import Ask, Gateway, Turn
from app.pipeline.raced import answer_by_the_first, run_race
from app.pipeline.remember import follow, joinable, keep, may_serve, tell
from app.pipeline.shared_flight import answer_shared, look_shared
from app.pipeline.skeletons import draft_for, fill_or_ask
from app.pipeline.stay import keep_warm, lags, stays, warm_of
from app.pipeline.tools_called import as_allowed
from app.wire.told_plainly import is_all_that_is_asked

if TYPE_CHECKING:
    from app.lanes.templates import Draft
    from app.pipeline.meaning import (
        Looked,
        Meaning,
    )  # loads learners that are not needed without it

# To name a member of an enumeration is a look-up of 900 instructions: these are named for every request.
_DEFAULT, _BYPASS = CacheMode.DEFAULT, CacheMode.BYPASS
_REFRESH, _ONLY = CacheMode.REFRESH, CacheMode.ONLY
_WORDS = {tier: tier.value for tier in Tier}


def serve(request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit) -> Awaitable[None]:
    """Answer from a model, or by an agent's run where ``agent/<name>`` is asked for."""
    if gateway.contracts is not None:
        request = gateway.contracts.apply(request, turn.tenant, turn.contract)
    elif turn.contract:
        message = "no output contracts are configured: leave out x-slipstream-contract"
        raise BadRequest(message, code="unknown_contract", param="x-slipstream-contract")
    if gateway.layouts is not None:
        request = gateway.layouts.apply(request, turn.tenant)
    if request.model.startswith(AGENT):
        return answer_as_agent(request, gateway, turn, emit)
    return answer(request, gateway, turn, emit)


async def answer(request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit) -> None:
    """Answer ``request`` through ``emit``, from the cheapest source that may answer it."""
    named = gateway.models.get(request.model)
    if named is None and request.model != AUTO:
        raise NotFound(
            _unknown_model(request.model, gateway), code="model_not_found", param="model"
        )
    view = None if named else gateway.codecs[request.dialect].view(request.body)
    _mind_state(request, turn)

    if view is not None and await _told_by_a_lane(view, request, gateway, turn, emit):
        return

    looked = None
    with turn.timeline.stage("cache"):
        key, entry = _look_up(request, gateway, turn)
    if entry is not None:
        await tell(entry, request, gateway, turn, emit)
        return
    if _more_may_be_known(key, request, gateway, turn):
        ask = partial(_ask, (named, view))
        served, looked = await _by_meaning((key, ask), request, gateway, turn, emit)
        if served:
            return
    if key is None:
        await _ask((named, view), request, gateway, turn, emit)
        return
    flight = gateway.flights.running(key)
    if flight is not None and _may_join(flight, key, request, gateway, turn):
        await follow(flight, request, gateway, turn, emit)
        return
    if gateway.shared is not None and turn.cache_mode is not _REFRESH:
        await answer_shared(key, request, gateway, turn, (emit, partial(_ask, (named, view))))
    else:
        with keep(key, request, gateway, turn) as led:
            await _ask((named, view), request, gateway, turn, led.recording(emit))
    if gateway.meaning is not None:
        gateway.meaning.remember(key, request, gateway, turn, looked)


def _mind_state(request: ChatRequest, turn: Turn) -> None:
    """Let a request that is to change something at its vendor pass by the lanes and the cache, and be made
    once.
    """
    if not leaves_something_behind(request):
        return
    turn.once = True
    if turn.cache_mode is not _ONLY and moves_a_state(request):
        turn.cache_mode, turn.cache_reason = _BYPASS, "state"


async def go_on(led: keep, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit) -> None:
    """The rest of ``answer`` for a request whose model is being asked already; ``led`` is its flight."""
    turn.cache_reason = "absent"
    led.adopt(request, turn)
    with led:
        asked = gateway.models[request.model], None
        await _ask(asked, request, gateway, turn, led.recording(emit))
    if gateway.meaning is not None:
        gateway.meaning.remember(led.key, request, gateway, turn, None)


async def race_on(
    led: keep, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> None:
    """As ``go_on``, while an answer to other words of the same meaning is looked for."""
    turn.cache_reason = "absent"
    led.adopt(request, turn)
    with led:
        ask = partial(_ask, (gateway.models[request.model], None))
        looked = await run_race((led.key, ask), request, gateway, turn, led.recording(emit))
    if gateway.meaning is not None:
        gateway.meaning.remember(led.key, request, gateway, turn, looked)


async def _told_by_a_lane(
    view: PromptView, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> bool:
    """Answer a question that needs no model; say whether it was one."""
    if gateway.lanes is None or not _plain_question(view, turn):
        return False
    with turn.timeline.stage("lanes"):
        lane = gateway.lanes.match(view.text)
        if lane is None and gateway.skeletons is not None:
            draft = draft_for(view.text, gateway, open_slots=False)
            lane = None if draft is None else LaneAnswer(draft.skeleton, draft.head)
    if lane is None or request.terms is not None:
        return False
    if not is_all_that_is_asked(request.body, lane.text):
        return False
    turn.cache, turn.reason = CacheOutcome.LANE, f"lane {lane.rule}"
    text = answer_of_text(
        lane.text,
        answer_id=turn.request_id,
        model=f"lane/{lane.rule}",
        created_s=int(turn.started_unix_s),
    )
    for event in replay(text):
        await emit(event)
    return True


def _ask(
    asked: tuple[Model | None, PromptView | None],
    request: ChatRequest,
    gateway: Gateway,
    turn: Turn,
    emit: Emit,
) -> Awaitable[None]:
    """Ask the model that is named, or those that the router chooses."""
    named, view = asked
    if named is None:
        view = view or PromptView("")
        if gateway.skeletons is not None and _plain_question(view, turn):
            draft = draft_for(view.text, gateway, open_slots=True)
            if draft is not None and _may_be_filled(draft, request):
                route = partial(_routed, view, request, gateway, turn, emit)
                return fill_or_ask(draft, view.text, gateway, turn, emit, route)
        return _routed(view, request, gateway, turn, emit)
    turn.answered_tier, turn.reason = _WORDS[named.tier], "model named by the caller"
    if gateway.batching is not None:
        batch = gateway.batching.of(named, request, turn)
        if batch is not None:
            return gateway.batching.answer((batch, named), request, gateway, turn, emit)
    return converse(request, gateway, turn, (named,), emit)


def _routed(
    view: PromptView, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> Awaitable[None]:
    """Ask those models that the router chooses."""
    if lags(view, request, gateway):
        return _routed_when_known(view, request, gateway, turn, emit)
    return _routed_now(view, request, gateway, turn, emit)


async def _routed_when_known(
    view: PromptView, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> None:
    """Likewise, after what ended before this request is learned from: the loop goes on meanwhile."""
    assert gateway.prompts is not None  # noqa: S101 - see lags
    await gateway.prompts.drained()
    await _routed_now(view, request, gateway, turn, emit)


def _routed_now(
    view: PromptView, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> Awaitable[None]:
    candidates = _route(view, request, gateway, turn)
    told = None
    if view.tool_names and gateway.tools_called is not None:
        told = emit = gateway.tools_called.recorder(request, turn, emit)
    going = converse_or_escalate(request, gateway, turn, candidates, emit)
    if gateway.router.aims:
        going = _measured(going, candidates[0].tier, gateway, turn)
    if told is None or gateway.tools_called is None:
        return going
    return gateway.tools_called.after(going, told, request, turn)


async def _measured(going: Awaitable[None], tier: Tier, gateway: Gateway, turn: Turn) -> None:
    """Let the router know what a routed request came to, escalations and hedges included."""
    began_s, spent_usd = gateway.clock(), turn.cost_usd
    routed = turn.routed
    await going
    if routed:
        gateway.router.went(tier, turn.cost_usd - spent_usd, gateway.clock() - began_s)


def _more_may_be_known(
    key: bytes | None, request: ChatRequest, gateway: Gateway, turn: Turn
) -> bool:
    """Whether there is more to ask before a model, or nothing else may be asked."""
    if gateway.shared is not None or turn.cache_mode is _ONLY:
        return True
    meaning = gateway.meaning
    return meaning is not None and key is not None and meaning.open(key, request, gateway, turn)


def _may_race(meaning: Meaning, gateway: Gateway, turn: Turn) -> bool:
    """Whether the model is asked while the look-up by meaning runs."""
    alone = gateway.shared is None and turn.cache_mode is _DEFAULT
    return alone and meaning.races(turn.tenant)


async def _by_meaning(
    asked: tuple[bytes | None, Ask], request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> tuple[bool, Looked | None]:
    """Answer from what was answered to other words of the same meaning, where that is proven safe.

    Says whether it did, and what it saw; where tenants pay for a race, the model may have answered first.
    Raises ``CacheOnlyMiss`` where nothing else may answer.
    """
    (key, ask), meaning, looked = asked, gateway.meaning, None
    if gateway.shared is not None and _look_first(key, request, gateway, turn):
        entry = await look_shared(key, request, gateway, turn)
        if entry is not None:
            await tell(entry, request, gateway, turn, emit)
            return True, None
    if meaning is not None and key is not None and meaning.open(key, request, gateway, turn):
        if _may_race(meaning, gateway, turn):
            looked = await answer_by_the_first(key, request, gateway, turn, emit, ask)
            meaning.remember(key, request, gateway, turn, looked)
            return True, looked
        looked = await meaning.look(key, request, turn)
        if looked is not None and looked[1].hit is not None:
            await meaning.tell(looked[1], request, gateway, turn, emit)
            return True, looked
    if turn.cache_mode is _ONLY:
        message = (
            "nothing is cached for this request, and x-slipstream-cache: only asks for nothing else"
        )
        raise CacheOnlyMiss(message)
    return False, looked


def _look_first(key: bytes | None, request: ChatRequest, gateway: Gateway, turn: Turn) -> bool:
    """Whether what other workers keep is looked for before anything may be claimed."""
    if key is None or turn.cache_mode is _REFRESH:
        return False
    meaning = gateway.meaning
    return turn.cache_mode is _ONLY or (
        meaning is not None and meaning.open(key, request, gateway, turn)
    )


def _route(view: PromptView, request: ChatRequest, gateway: Gateway, turn: Turn) -> list[Model]:
    """Choose the tier, then the order in which its deployments are tried."""
    with turn.timeline.stage("classifier"):
        classification = turn.classification or gateway.classifier.classify(view, turn.tenant)
        if view.tool_names:
            classification = as_allowed(classification, request.body)
    turn.classification = classification
    with turn.timeline.stage("router"):
        warm = warm_of(view, request, gateway, turn)
        decision = gateway.router.decide(
            classification, view, turn.tenant, turn.tier, None if warm is None else stays(warm)
        )
        turn.answered_tier, turn.reason, turn.band = (
            _WORDS[decision.tier],
            decision.reason,
            decision.band,
        )
        turn.score, turn.threshold, turn.routed = (
            decision.score,
            decision.threshold,
            not decision.forced,
        )
        if not decision.forced:
            gateway.teacher.routed(turn.tenant, turn.request_id, view, decision.tier)
            if gateway.shadow is not None and not turn.once:
                gateway.shadow.consider(request, view, decision.score, turn.tenant)
        chosen = choose(decision, view, request.dialect, gateway, turn)
        return chosen if warm is None else keep_warm(chosen, warm, gateway)


def _plain_question(view: PromptView, turn: Turn) -> bool:
    """Whether a lane may answer: a plain question, nothing forced."""
    return view.is_plain_question and turn.tier is None and turn.cache_mode in (_DEFAULT, _ONLY)


def _may_be_filled(draft: Draft, request: ChatRequest) -> bool:
    """Whether the draft with its slots filled, as long as they may be, is all that is asked."""
    longest = draft.render({slot.name: "x" * slot.max_chars for slot in draft.open_slots})
    return request.terms is None and is_all_that_is_asked(request.body, longest)


def _look_up(
    request: ChatRequest, gateway: Gateway, turn: Turn
) -> tuple[bytes | None, CachedAnswer | None]:
    """The key of the request, None where it has none, and the answer that is kept under it."""
    exact, mode = gateway.exact, turn.cache_mode
    if exact is None or mode is _BYPASS:
        turn.cache = CacheOutcome.BYPASS
        turn.cache_reason = "disabled" if exact is None else turn.cache_reason or "asked"
        return None, None
    tier = "" if turn.tier is None else _WORDS[turn.tier]
    user = turn.user if gateway.sharing is None else gateway.sharing.scope_of(turn.user)
    key = exact_key((turn.tenant, user, request.model, tier, 0), request)
    if mode is _REFRESH:
        turn.cache_reason = "refresh"
        return key, None
    if gateway.shared is not None and not gateway.shared.trusted():
        turn.cache_reason = "distrusted"
        return key, None
    entry = exact.get(key)
    if entry is None:
        turn.cache_reason = "absent"
        return key, None
    return key, entry if may_serve(entry, key, request, gateway, turn) else None


def _may_join(
    flight: Flight, key: bytes, request: ChatRequest, gateway: Gateway, turn: Turn
) -> bool:
    if not gateway.coalesce or turn.cache_mode is _REFRESH:
        return False
    sharing = gateway.sharing
    return joinable(flight, request) and (sharing is None or sharing.admits(key, turn.user))


def _unknown_model(name: str, gateway: Gateway) -> str:
    agents = [AGENT + agent for agent in sorted(gateway.agents)]
    known = ", ".join([AUTO, *sorted(gateway.models), *agents][:12])
    return f"the model {name[:80]!r} is not configured: use one of {known}"
