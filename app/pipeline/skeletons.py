"""Answer from a prepared skeleton: one short call of the fast tier fills its open slots.

A skeleton (``app.lanes.templates``) is matched against the whole question, as a lane is. Where its pattern's
groups fill every slot it is an answer at once. Otherwise the fast tier is asked once for all open slots, as
one JSON object, in some dozens of tokens instead of a whole answer. Nothing is shown before every slot is
valid; where one is not, or the call fails, the request is routed as any other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from app.domain.chat import Conversation, Message, Role, Sampling, TextPart
from app.domain.decisions import Tier
from app.domain.events import Answer, Emit
from app.domain.replay import answer_of_text, replay
from app.errors import Overloaded, Unsupported, UpstreamError
from app.pipeline.converse import whole_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.lanes.templates import Draft
    from app.pipeline.gateway import Gateway, Turn

_FAST = Tier.FAST.value
_TOKENS_BESIDE = 24
"""For the braces, and for quotes around the names and values."""


def draft_for(question: str, gateway: Gateway, *, open_slots: bool) -> Draft | None:
    """The skeleton that matches a plain question, with open slots or (``open_slots`` False) without."""
    draft = None if gateway.skeletons is None else gateway.skeletons.match(question)
    return None if draft is None or bool(draft.open_slots) is not open_slots else draft


async def fill_or_ask(  # noqa: PLR0917 - a draft, its question, and what every call needs
    draft: Draft,
    question: str,
    gateway: Gateway,
    turn: Turn,
    emit: Emit,
    otherwise: Callable[[], Awaitable[None]],
) -> None:
    """Answer by ``draft``; where its slots cannot be filled, by ``otherwise``, which routes when called."""
    try:
        with turn.timeline.stage("lanes"):
            filled = await _ask_for_slots(draft, question, gateway, turn)
    except (Unsupported, Overloaded, UpstreamError):  # counted where it failed
        filled = None
    text = None if filled is None else draft.fill(filled.text)
    if filled is None or text is None:
        turn.upstream = None  # nothing of that call was shown: another may be made
        routed = otherwise()
        turn.reason += f"; skeleton {draft.skeleton}: its slots could not be filled"
        await routed
        return
    names = ", ".join(slot.name for slot in draft.open_slots)
    turn.answered_tier = _FAST
    turn.reason = f"skeleton {draft.skeleton}: the fast model filled {names}"
    whole = answer_of_text(
        text,
        answer_id=turn.request_id,
        model=f"lane/{draft.skeleton}",
        created_s=int(turn.started_unix_s),
    )
    for event in replay(replace(whole, usage=filled.usage or whole.usage)):
        await emit(event)


async def _ask_for_slots(
    draft: Draft, question: str, gateway: Gateway, turn: Turn
) -> Answer | None:
    """The fast tier's answer for the open slots; None where it has no deployment or was cut off."""
    # One token a character: most take a quarter of one, some scripts up to two.
    most = _TOKENS_BESIDE + sum(len(slot.name) + slot.max_chars for slot in draft.open_slots)
    conversation = Conversation(
        (
            Message(Role.SYSTEM, (TextPart(draft.instruction()),)),
            Message(Role.USER, (TextPart(question),)),
        ),
        sampling=Sampling(max_tokens=most),
    )
    return await whole_answer(conversation, gateway.tiers[Tier.FAST], gateway, turn)
