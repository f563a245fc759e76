"""Escalate: ask the powerful tier where the fast answer is refused, empty, broken or in the wrong language.

Only where the router chose the fast tier. A non-streamed answer is checked whole before it is sent. Of a
stream only the first tokens are checked, while they are held (``app.pipeline.stream_hold``): what was shown
is never taken back. The client sees one answer: the powerful model's, or the fast one's where the powerful
one fails. All calls are paid for and counted.

An answer that fails a schema or an operator's check first goes back to the fast model, once, with the fault:
that costs a fast call and corrects most of them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Awaitable, Sequence

from app.domain.chat import ChatRequest
from app.domain.decisions import Tier
from app.domain.events import (
    COMPLETE_FINISHES,
    REFUSED_FINISHES,
    Answer,
    Emit,
    Event,
    WholeBody,
)
from app.domain.models import Model
from app.errors import GatewayError
from app.pipeline.answer_checks import operator_check_fault, retry_request, schema_fault
from app.pipeline.converse import converse
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.replay import answer_from_events
from app.pipeline.stream_hold import (
    Ask,
    HoldingEmit,
    InadequateAnswer,
    opening_of,
    race_grey_band,
    run_held,
)
from app.routing.escalation import ends_in_loop, is_other_language, is_refusal

_ALL_BUT_CERTAIN = 0.95


def converse_or_escalate(
    request: ChatRequest, gateway: Gateway, turn: Turn, candidates: Sequence[Model], emit: Emit
) -> Awaitable[None]:
    """Answer as ``converse`` does, or from the powerful tier where the fast answer is inadequate."""
    if turn.routed and not turn.single_attempt and _may_escalate(gateway, candidates):
        return _escalate_request(request, gateway, turn, candidates, emit)
    return converse(request, gateway, turn, candidates, emit)


async def _escalate_request(
    request: ChatRequest, gateway: Gateway, turn: Turn, candidates: Sequence[Model], emit: Emit
) -> None:
    if request.stream:
        await _escalate_stream(request, gateway, turn, candidates, emit)
        return
    answer: list[Event] = []
    await converse(request, gateway, turn, candidates, _collect_into(answer))
    lack, fault = await _find_lack(answer, request, gateway, turn)
    if lack and fault:
        answer, lack = await _retry_fast(answer, lack, fault, request, gateway, turn, candidates)
    if lack:
        answer = await _ask_powerful(answer, lack, request, gateway, turn)
    for event in answer:
        await emit(event)


def _may_escalate(gateway: Gateway, candidates: Sequence[Model]) -> bool:
    return (
        gateway.escalate and candidates[0].tier is Tier.FAST and bool(gateway.tiers[Tier.POWERFUL])
    )


def _powerful_models(request: ChatRequest, gateway: Gateway) -> list[Model]:
    return gateway.load.rank(
        gateway.tiers[Tier.POWERFUL],
        lambda model: request.dialect in gateway.providers[model.provider].dialects(),
    )


async def _escalate_stream(
    request: ChatRequest, gateway: Gateway, turn: Turn, candidates: Sequence[Model], emit: Emit
) -> None:
    """Stream the fast answer with its first tokens held; the powerful one where they are inadequate."""
    policy = gateway.escalation
    if not policy.hold_s:
        await converse(request, gateway, turn, candidates, emit)
        return
    grey = policy.grey_hedge and turn.band == "grey"

    def holding(to: Emit) -> HoldingEmit:
        beginning = opening_of(request, gateway, policy.lacks)
        return HoldingEmit(to, beginning, policy.hold_s, always=grey)

    async def fast(of: Turn, to: Emit) -> None:
        await converse(request, gateway, of, candidates, to)

    async def powerful(of: Turn, to: Emit) -> None:
        await converse(request, gateway, of, _powerful_models(request, gateway), to)

    try:
        if grey:
            gateway.on_escalation("grey", await race_grey_band(fast, powerful, turn, emit, holding))
        else:
            await run_held(fast, turn, holding(emit))
    except InadequateAnswer as inadequate:
        await _stream_powerful(inadequate.lack, fast, powerful, gateway, turn, emit)


async def _stream_powerful(  # noqa: PLR0917 - why, both ways to ask, and what every call needs
    lack: str, fast: Ask, powerful: Ask, gateway: Gateway, turn: Turn, emit: Emit
) -> None:
    """Stream the powerful answer in place of an inadequate fast one of which nothing was shown."""
    turn.answered_tier = Tier.POWERFUL.value
    turn.reason = f"the fast answer was {_describe(lack)}: asked the powerful tier"
    try:
        await powerful(turn, emit)
    except GatewayError:
        gateway.on_escalation(lack, "failed")
        if turn.upstream is not None and turn.upstream.first_event_ns:
            raise
        turn.answered_tier, turn.reason = Tier.FAST.value, f"{turn.reason}, which failed"
        await fast(turn, emit)  # a poor answer is better than none
        return
    gained = turn.finish not in REFUSED_FINISHES
    gateway.on_escalation(lack, "gained" if gained else "equal")
    gateway.router_trainer.record_verdict(turn.tenant, turn.request_id, good=not gained)


async def _retry_fast(  # noqa: PLR0917 - an answer, its fault, and what every call needs
    answer: list[Event],
    lack: str,
    fault: str,
    request: ChatRequest,
    gateway: Gateway,
    turn: Turn,
    candidates: Sequence[Model],
) -> tuple[list[Event], str]:
    """The fast model's second answer, given the fault; ``answer`` and ``lack`` where it failed too."""
    first = answer_from_events(answer, gateway.codecs[request.dialect])
    if first is None:
        return answer, lack
    again = retry_request(request, first, fault)
    before = copy.copy(turn)
    other: list[Event] = []
    try:
        await converse(again, gateway, turn, candidates, _collect_into(other))
    except GatewayError:  # counted where it failed
        turn.take_answer(before)
        return answer, lack
    still, _ = await _find_lack(other, request, gateway, turn)
    if still:
        return other, lack
    turn.reason += f"; the first answer was {_describe(lack)}, the fast model mended it"
    gateway.on_escalation(lack, "mended")
    return other, ""


async def _ask_powerful(
    answer: list[Event], lack: str, request: ChatRequest, gateway: Gateway, turn: Turn
) -> list[Event]:
    """The powerful tier's answer, or ``answer`` where there is none."""
    before = copy.copy(turn)
    turn.answered_tier = Tier.POWERFUL.value
    turn.reason = f"the fast answer was {_describe(lack)}: asked the powerful tier"
    other: list[Event] = []
    try:
        await converse(
            request, gateway, turn, _powerful_models(request, gateway), _collect_into(other)
        )
    except GatewayError:  # counted where it failed; a poor answer is better than none
        turn.take_answer(before)
        gateway.on_escalation(lack, "failed")
        return answer
    still, _ = await _find_lack(other, request, gateway, turn)
    gateway.on_escalation(lack, "equal" if still else "gained")
    gateway.router_trainer.record_verdict(turn.tenant, turn.request_id, good=bool(still))
    return other


async def _find_lack(
    events: Sequence[Event], request: ChatRequest, gateway: Gateway, turn: Turn
) -> tuple[str, str]:
    """What an answer lacks, and the fault to give the fast model ("": a retry would not help)."""
    policy = gateway.escalation
    if turn.finish in REFUSED_FINISHES and "refused" in policy.lacks:
        return "refused", ""
    answer = answer_from_events(events, gateway.codecs[request.dialect])
    if answer is None:
        return "", ""  # an unreadable answer passes unchanged
    view = gateway.codecs[request.dialect].view(request.body)
    lack = _visible_lack(answer, view.text, turn, limited=view.max_tokens is not None)
    if not lack and policy.min_mean_logprob is not None:
        mean = _mean_logprob(events)
        lack = "unsure" if mean is not None and mean < policy.min_mean_logprob else ""
    if lack in policy.lacks:
        return lack, ""
    if "invalid" in policy.lacks and (fault := schema_fault(request, answer, gateway)):
        return "invalid", fault
    return await operator_check_fault(policy.operator_checks, view.text, answer.text)


def _visible_lack(answer: Answer, question: str, turn: Turn, *, limited: bool) -> str:
    """The lack that the answer's text and finish reason show."""
    text = answer.text
    if not text.strip() and not answer.tool_calls:
        return "empty"
    if not answer.tool_calls:
        if is_refusal(text):
            return "refused"
        needs = turn.classification.tool_need if turn.classification is not None else ()
        if needs and needs[0][1] >= _ALL_BUT_CERTAIN:
            return "no_tool_call"
    if answer.finish not in COMPLETE_FINISHES and not limited:
        return "cut_off"
    if ends_in_loop(text):
        return "repetition"
    expected = None if turn.classification is None else turn.classification.language
    return "language" if is_other_language(question, text, expected) else ""


def _mean_logprob(events: Sequence[Event]) -> float | None:
    """The mean log-probability of a whole Chat answer's tokens, where the vendor gave them."""
    for event in events:
        if isinstance(event, WholeBody) and b'"logprobs"' in event.body:
            try:
                tokens = json.loads(event.body)["choices"][0]["logprobs"]["content"]
                values = [float(token["logprob"]) for token in tokens]
            except (ValueError, KeyError, IndexError, TypeError):
                return None
            return sum(values) / len(values) if values else None
    return None


def _describe(lack: str) -> str:
    return {
        "cut_off": "cut off", "language": "in another language", "repetition": "going in circles",
        "no_tool_call": "without the tool call that was due",
    }.get(lack, lack)  # fmt: skip


def _collect_into(events: list[Event]) -> Emit:
    async def collect(event: Event) -> None:
        events.append(event)

    return collect
