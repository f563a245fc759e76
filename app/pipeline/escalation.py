"""Ask the powerful tier when the fast one's answer is none: refused, filtered or empty.

Only where the router chose the fast tier and the client asked for a whole answer: what a stream has
shown cannot be taken back, and to hold it back would cost what streaming is for. A whole answer comes
in one piece anyway, so looking at it first delays nobody. The client sees one answer: the powerful
model's, or the fast one's after all when the powerful one fails. Both calls are paid for and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.chat import ChatRequest
from app.domain.decisions import Tier
from app.domain.events import (
    COMPLETE_FINISHES,
    Answer,
    AnswerBuilder,
    Emit,
    Event,
    FinishReason,
    Whole,
)
from app.domain.models import Model
from app.errors import GatewayError, UpstreamError
from app.pipeline.converse import converse
from app.pipeline.gateway import Gateway, Turn

_REFUSED = frozenset({FinishReason.REFUSAL, FinishReason.CONTENT_FILTER})
_FEW_TOKENS = 8
"""An answer of more tokens than this, that ended by itself, has a text: it is not read for it."""
_OF_THE_ANSWER = (
    "model", "upstream", "call", "usage", "finish", "complete", "tokens_streamed", "vendor_headers",
    "answered_tier", "reason",
)  # fmt: skip


async def converse_or_escalate(
    request: ChatRequest, gateway: Gateway, turn: Turn, candidates: Sequence[Model], emit: Emit
) -> None:
    """Answer as ``converse`` does, or from the powerful tier where the fast one had no answer."""
    if not _may_escalate(request, gateway, turn, candidates):
        await converse(request, gateway, turn, candidates, emit)
        return
    answer: list[Event] = []
    await converse(request, gateway, turn, candidates, _into(answer))
    lack = _lack(answer, request, gateway, turn)
    if lack:
        answer = await _ask_the_powerful(answer, lack, request, gateway, turn)
    for event in answer:
        await emit(event)


def _may_escalate(
    request: ChatRequest, gateway: Gateway, turn: Turn, candidates: Sequence[Model]
) -> bool:
    return (
        gateway.escalate
        and turn.routed
        and not request.stream
        and candidates[0].tier is Tier.FAST
        and bool(gateway.tiers[Tier.POWERFUL])
    )


async def _ask_the_powerful(
    answer: list[Event], lack: str, request: ChatRequest, gateway: Gateway, turn: Turn
) -> list[Event]:
    """The powerful tier's answer, or ``answer`` where there is none."""
    kept = {name: getattr(turn, name) for name in _OF_THE_ANSWER}
    turn.answered_tier = Tier.POWERFUL.value
    turn.reason = f"the fast answer was {lack}: asked the powerful tier"
    candidates = gateway.load.order(
        gateway.tiers[Tier.POWERFUL],
        lambda model: request.dialect in gateway.providers[model.provider].dialects(),
    )
    other: list[Event] = []
    try:
        await converse(request, gateway, turn, candidates, _into(other))
    except GatewayError:  # counted where it failed; an answer that is poor is better than none
        for name, value in kept.items():
            setattr(turn, name, value)
        gateway.on_escalation(lack, "failed")
        return answer
    gained = not _lack(other, request, gateway, turn)
    gateway.on_escalation(lack, "gained" if gained else "equal")
    gateway.teacher.verdict(turn.tenant, turn.request_id, good=not gained)
    return other


def _lack(events: Sequence[Event], request: ChatRequest, gateway: Gateway, turn: Turn) -> str:
    """What an answer lacks: ``refused``, ``empty``, or nothing. Reads it only where that may be."""
    if turn.finish in _REFUSED:
        return "refused"
    long = turn.usage is not None and turn.usage.output_tokens > _FEW_TOKENS
    if long and turn.finish in COMPLETE_FINISHES:
        return ""
    answer = _read(events, request, gateway)
    if answer is None:
        return ""  # what cannot be read is passed on as it is
    return "" if answer.text.strip() or answer.tool_calls else "empty"


def _read(events: Sequence[Event], request: ChatRequest, gateway: Gateway) -> Answer | None:
    builder = AnswerBuilder()
    for event in events:
        if isinstance(event, Whole):
            try:
                return gateway.codecs[request.dialect].read_answer(event.body)
            except UpstreamError:
                return None
        builder.add(event)
    return builder.answer()


def _into(events: list[Event]) -> Emit:
    async def take(event: Event) -> None:
        events.append(event)

    return take
