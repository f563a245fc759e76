"""One turn, top to bottom as in the picture: lanes, cache, classifier, router, model, stream.

``answer`` is the diagram. It pushes events to ``emit`` and returns when the answer is complete; it raises
a ``GatewayError`` where there is none, or where it broke off. Cancelled at any await, it stops all upstream
work.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING

from app.cache.coalesce import Flight
from app.cache.exact import CachedAnswer
from app.cache.key import exact_key, has_vendor_side_effects, uses_vendor_state
from app.domain.agents import AGENT_MODEL_PREFIX as AGENT
from app.domain.chat import ChatRequest
from app.domain.decisions import CacheMode, CacheOutcome, PromptView, Tier
from app.domain.events import Emit
from app.domain.models import AUTO, Model
from app.domain.replay import answer_of_text, replay
from app.errors import BadRequest, CacheOnlyMiss, NotFound
from app.lanes.rules import LaneAnswer
from app.pipeline.agent_answer import answer_as_agent
from app.pipeline.conversation_affinity import (
    affinity_hint,
    affinity_pending,
    prefer_warm,
    warm_deployment,
)
from app.pipeline.converse import converse
from app.pipeline.deployment_choice import choose_deployments
from app.pipeline.escalation import converse_or_escalate
from app.pipeline.flights import LeadingFlight, join_flight, joinable
from app.pipeline.gateway import Ask, Gateway, Turn
from app.pipeline.replay import may_serve, serve_cached
from app.pipeline.semantic_race import answer_by_race, race_lookup_with_model
from app.pipeline.shared_flight import answer_shared, look_up_shared
from app.pipeline.skeletons import draft_for, fill_or_ask
from app.pipeline.tool_use_learning import apply_tool_choice
from app.wire.answered_by_text import is_answered_by_text

if TYPE_CHECKING:
    from app.lanes.templates import Draft
    from app.pipeline.semantic_answers import (
        SemanticAnswers,
        SemanticLookup,
    )  # loads learners that are not needed without it

# Accessing a member of an enumeration takes 900 instructions, and every request needs these.
_DEFAULT, _BYPASS = CacheMode.DEFAULT, CacheMode.BYPASS
_REFRESH, _ONLY = CacheMode.REFRESH, CacheMode.ONLY
_TIER_NAMES = {tier: tier.value for tier in Tier}


def serve(request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit) -> Awaitable[None]:
    """Answer as ``answer`` does, or by an agent's run where the model is ``agent/<name>``."""
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
        raise _unknown_model(request.model, gateway)
    view = None if named else gateway.codecs[request.dialect].view(request.body)
    _bypass_if_stateful(request, turn)

    if view is not None and await _answer_from_lane(view, request, gateway, turn, emit):
        return

    lookup = None
    with turn.timeline.stage("cache"):
        key, entry = _exact_lookup(request, gateway, turn)
    if entry is not None:
        await serve_cached(entry, request, gateway, turn, emit)
        return
    if _needs_remote_lookup(key, request, gateway, turn):
        ask = partial(_ask_model, (named, view))
        served, lookup = await _answer_from_remote_cache((key, ask), request, gateway, turn, emit)
        if served:
            return

    if key is None:
        await _ask_model((named, view), request, gateway, turn, emit)
        return
    flight = gateway.flights.running(key)
    if flight is not None and _may_join(flight, key, request, gateway, turn):
        await join_flight(flight, request, gateway, turn, emit)
        return
    if gateway.shared is not None and turn.cache_mode is not _REFRESH:
        await answer_shared(key, request, gateway, turn, (emit, partial(_ask_model, (named, view))))
    else:
        with LeadingFlight(key, request, gateway, turn) as flight:
            await _ask_model((named, view), request, gateway, turn, flight.recording(emit))
    if gateway.semantic is not None:
        gateway.semantic.learn_later(key, request, gateway, turn, lookup)


def _bypass_if_stateful(request: ChatRequest, turn: Turn) -> None:
    """Send a request that changes state at its vendor past lanes and cache, and only once."""
    if not has_vendor_side_effects(request):
        return
    turn.single_attempt = True
    if turn.cache_mode is not _ONLY and uses_vendor_state(request):
        turn.cache_mode, turn.cache_reason = _BYPASS, "state"


async def resume_answer(
    flight: LeadingFlight, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> None:
    """The rest of ``answer`` for a request whose upstream call was started by the fast path of the API."""
    turn.cache_reason = "absent"
    flight.attach(request, turn)
    with flight:
        target = gateway.models[request.model], None
        await _ask_model(target, request, gateway, turn, flight.recording(emit))
    if gateway.semantic is not None:
        gateway.semantic.learn_later(flight.key, request, gateway, turn, None)


async def resume_with_race(
    flight: LeadingFlight, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> None:
    """As ``resume_answer``, racing the call with the semantic look-up."""
    turn.cache_reason = "absent"
    flight.attach(request, turn)
    with flight:
        ask = partial(_ask_model, (gateway.models[request.model], None))
        recording = flight.recording(emit)
        lookup = await race_lookup_with_model((flight.key, ask), request, gateway, turn, recording)
    if gateway.semantic is not None:
        gateway.semantic.learn_later(flight.key, request, gateway, turn, lookup)


async def _answer_from_lane(
    view: PromptView, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> bool:
    """Answer by a lane's rule or a complete skeleton; returns whether one matched."""
    if gateway.lanes is None or not _is_plain_question(view, turn):
        return False
    with turn.timeline.stage("lanes"):
        lane = gateway.lanes.match(view.text)
        if lane is None and gateway.skeletons is not None:
            draft = draft_for(view.text, gateway, open_slots=False)
            lane = None if draft is None else LaneAnswer(draft.skeleton, draft.head)
    if lane is None or request.terms is not None:
        return False
    if not is_answered_by_text(request.body, lane.text):
        return False
    turn.cache, turn.reason = CacheOutcome.LANE, f"lane {lane.rule}"
    whole = answer_of_text(
        lane.text,
        answer_id=turn.request_id,
        model=f"lane/{lane.rule}",
        created_s=int(turn.started_unix_s),
    )
    for event in replay(whole):
        await emit(event)
    return True


def _ask_model(
    target: tuple[Model | None, PromptView | None],
    request: ChatRequest,
    gateway: Gateway,
    turn: Turn,
    emit: Emit,
) -> Awaitable[None]:
    """Ask the named model, or without one those that the router chooses; ``target``: model, prompt view."""
    named, view = target
    if named is None:
        view = view or PromptView("")
        if gateway.skeletons is not None and _is_plain_question(view, turn):
            draft = draft_for(view.text, gateway, open_slots=True)
            if draft is not None and _skeleton_fits(draft, request):
                route = partial(_ask_routed, view, request, gateway, turn, emit)
                return fill_or_ask(draft, view.text, gateway, turn, emit, route)
        return _ask_routed(view, request, gateway, turn, emit)
    turn.answered_tier, turn.reason = _TIER_NAMES[named.tier], "model named by the caller"
    if gateway.batching is not None:
        batch = gateway.batching.rule_for(named, request, turn)
        if batch is not None:
            return gateway.batching.answer((batch, named), request, gateway, turn, emit)
    return converse(request, gateway, turn, (named,), emit)


def _ask_routed(
    view: PromptView, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> Awaitable[None]:
    """Ask the models that the router chooses."""
    if affinity_pending(view, request, gateway):
        return _ask_routed_after_drain(view, request, gateway, turn, emit)
    return _ask_routed_now(view, request, gateway, turn, emit)


async def _ask_routed_after_drain(
    view: PromptView, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> None:
    """As ``_ask_routed_now``, once the ended calls that this conversation's affinity depends on are read."""
    assert gateway.prompts is not None  # noqa: S101 - see affinity_pending
    await gateway.prompts.drained()
    await _ask_routed_now(view, request, gateway, turn, emit)


def _ask_routed_now(
    view: PromptView, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> Awaitable[None]:
    candidates = _route(view, request, gateway, turn)
    recorder = None
    if view.tool_names and gateway.tool_use_learner is not None:
        recorder = emit = gateway.tool_use_learner.recorder(request, turn, emit)
    answering = converse_or_escalate(request, gateway, turn, candidates, emit)
    if gateway.router.has_mean_target:
        answering = _report_to_router(answering, candidates[0].tier, gateway, turn)
    if recorder is None or gateway.tool_use_learner is None:
        return answering
    return gateway.tool_use_learner.learn_after(answering, recorder, request, turn)


async def _report_to_router(
    answering: Awaitable[None], tier: Tier, gateway: Gateway, turn: Turn
) -> None:
    """Report a routed request's cost and duration to the router, escalations and hedges included."""
    began_s, spent_usd = gateway.clock(), turn.cost_usd
    routed = turn.routed
    await answering
    if routed:
        gateway.router.record_outcome(tier, turn.cost_usd - spent_usd, gateway.clock() - began_s)


def _needs_remote_lookup(
    key: bytes | None, request: ChatRequest, gateway: Gateway, turn: Turn
) -> bool:
    """Whether the shared or the semantic cache is to be asked, or only a cache may answer."""
    if gateway.shared is not None or turn.cache_mode is _ONLY:
        return True
    semantic = gateway.semantic
    return (
        semantic is not None
        and key is not None
        and semantic.may_look_up(key, request, gateway, turn)
    )


def _may_race(semantic: SemanticAnswers, gateway: Gateway, turn: Turn) -> bool:
    """Whether the model is asked while the semantic look-up runs."""
    alone = gateway.shared is None and turn.cache_mode is _DEFAULT
    return alone and semantic.races_for(turn.tenant)


async def _answer_from_remote_cache(
    how: tuple[bytes | None, Ask], request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> tuple[bool, SemanticLookup | None]:
    """Answer from the shared cache (Redis) or by a semantic hit; ``how``: the exact key, how to ask a model.

    Returns whether it answered, and the semantic look-up if one was made. In a race (``race_for``) the model
    may have answered. Raises ``CacheOnlyMiss`` where only a cache may answer.
    """
    (key, ask), semantic, lookup = how, gateway.semantic, None
    if gateway.shared is not None and _look_up_before_claim(key, request, gateway, turn):
        entry = await look_up_shared(key, request, gateway, turn)
        if entry is not None:
            await serve_cached(entry, request, gateway, turn, emit)
            return True, None
    if (
        semantic is not None
        and key is not None
        and semantic.may_look_up(key, request, gateway, turn)
    ):
        if _may_race(semantic, gateway, turn):
            lookup = await answer_by_race(key, request, gateway, turn, emit, ask)
            semantic.learn_later(key, request, gateway, turn, lookup)
            return True, lookup
        lookup = await semantic.look_up(key, request, turn)
        if lookup is not None and lookup.result.hit is not None:
            await semantic.serve_hit(lookup.result, request, gateway, turn, emit)
            return True, lookup
    if turn.cache_mode is _ONLY:
        message = (
            "nothing is cached for this request, and x-slipstream-cache: only asks for nothing else"
        )
        raise CacheOnlyMiss(message)
    return False, lookup


def _look_up_before_claim(
    key: bytes | None, request: ChatRequest, gateway: Gateway, turn: Turn
) -> bool:
    """Whether the shared cache is read before this request claims the upstream call."""
    if key is None or turn.cache_mode is _REFRESH:
        return False
    semantic = gateway.semantic
    return turn.cache_mode is _ONLY or (
        semantic is not None and semantic.may_look_up(key, request, gateway, turn)
    )


def _route(view: PromptView, request: ChatRequest, gateway: Gateway, turn: Turn) -> list[Model]:
    """Choose the tier, then the order in which its deployments are tried."""
    with turn.timeline.stage("classifier"):
        classification = turn.classification or gateway.classifier.classify(view, turn.tenant)
        if view.tool_names:
            classification = apply_tool_choice(classification, request.body)
    turn.classification = classification
    with turn.timeline.stage("router"):
        warm = warm_deployment(view, request, gateway, turn)
        decision = gateway.router.decide(
            classification,
            view,
            turn.tenant,
            turn.tier,
            None if warm is None else affinity_hint(warm),
        )
        turn.answered_tier, turn.reason, turn.band = (
            _TIER_NAMES[decision.tier],
            decision.reason,
            decision.band,
        )
        turn.score, turn.threshold, turn.routed = (
            decision.score,
            decision.threshold,
            not decision.forced,
        )
        if not decision.forced:
            gateway.router_trainer.record_routed(turn.tenant, turn.request_id, view, decision.tier)
            if gateway.shadow is not None and not turn.single_attempt:
                gateway.shadow.consider(request, view, decision.score, turn.tenant)
        chosen = choose_deployments(decision, view, request.dialect, gateway, turn)
        return chosen if warm is None else prefer_warm(chosen, warm, gateway)


def _is_plain_question(view: PromptView, turn: Turn) -> bool:
    """Whether a lane or a skeleton may answer: a plain question, no tier forced, cache not bypassed."""
    return view.is_plain_question and turn.tier is None and turn.cache_mode in (_DEFAULT, _ONLY)


def _skeleton_fits(draft: Draft, request: ChatRequest) -> bool:
    """Whether ``draft`` meets the request's constraints even with each slot at its maximum length."""
    longest = draft.render({slot.name: "x" * slot.max_chars for slot in draft.open_slots})
    return request.terms is None and is_answered_by_text(request.body, longest)


def _exact_lookup(
    request: ChatRequest, gateway: Gateway, turn: Turn
) -> tuple[bytes | None, CachedAnswer | None]:
    """The request's exact key (None: not cacheable), and the stored answer that may be served for it."""
    exact, mode = gateway.exact, turn.cache_mode
    if exact is None or mode is _BYPASS:
        turn.cache = CacheOutcome.BYPASS
        turn.cache_reason = "disabled" if exact is None else turn.cache_reason or "asked"
        return None, None
    tier = "" if turn.tier is None else _TIER_NAMES[turn.tier]
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


def _unknown_model(name: str, gateway: Gateway) -> NotFound:
    agents = [AGENT + agent for agent in sorted(gateway.agents)]
    known = ", ".join([AUTO, *sorted(gateway.models), *agents][:12])
    message = f"the model {name[:80]!r} is not configured: use one of {known}"
    return NotFound(message, code="model_not_found", param="model")
