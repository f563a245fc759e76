"""Answers of which nearly all stands ready: one short call of the fast model fills what is open.

A skeleton (``app.lanes.templates``) is matched whole, as a lane is. What its pattern's groups fill is an
answer at once. For the rest the fast tier is asked once, for all open slots together, as one JSON object and
in no more tokens than the slots may take: some dozens in place of a whole answer. What it says is shown only
when every slot came as it was asked for. Where it did not, or the call failed, nothing has been shown, and
the request is answered as any other.
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
    """The skeleton for a plain question: one with slots for the model to fill, or one without."""
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
    """Answer by ``draft``, or by ``otherwise``, which routes at once, where its slots could not be filled."""
    try:
        with turn.timeline.stage("lanes"):
            said = await _slots(draft, question, gateway, turn)
    except (Unsupported, Overloaded, UpstreamError):  # counted where it failed
        said = None
    text = None if said is None else draft.fill(said.text)
    if said is None or text is None:
        turn.upstream = None  # nothing of that call was shown: another one may be tried in full
        going = otherwise()
        turn.reason += f"; skeleton {draft.skeleton}: its slots could not be filled"
        await going
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
    for event in replay(replace(whole, usage=said.usage or whole.usage)):
        await emit(event)


async def _slots(draft: Draft, question: str, gateway: Gateway, turn: Turn) -> Answer | None:
    """What the fast tier says for the open slots; None where it has no deployment or was cut short."""
    # A character of any script is at most two tokens or so; most are a quarter of one.
    most = _TOKENS_BESIDE + sum(len(slot.name) + slot.max_chars for slot in draft.open_slots)
    conversation = Conversation(
        (
            Message(Role.SYSTEM, (TextPart(draft.instruction()),)),
            Message(Role.USER, (TextPart(question),)),
        ),
        sampling=Sampling(max_tokens=most),
    )
    return await whole_answer(conversation, gateway.tiers[Tier.FAST], gateway, turn)
