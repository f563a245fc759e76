"""Apply an output contract to the upstream calls, and to the answer that comes back.

Each call, a fallback's too, is written for its own model. The answer is edited where it must not show the
model's reasoning, or lacks the beginning that the gateway prefilled. Not reached without a contract.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.answer_edit import AnswerEdit, AnswerEditor
from app.domain.chat import AnswerTerms, ChatRequest
from app.domain.events import (
    AnswerStarted,
    Emit,
    Event,
    Finished,
    Frames,
    RedactedThinking,
    TextDelta,
    ThinkingDelta,
    ThinkingSealed,
    WholeBody,
)
from app.domain.model_call import ModelCall
from app.domain.reasoning_stripper import ReasoningStripper
from app.pipeline.gateway import Gateway, Turn


def apply_contract(
    calls: Sequence[ModelCall], request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> Emit:
    """Rewrite ``calls`` by the terms of ``request``; returns the ``Emit`` that edits the answer by them."""
    terms = request.terms
    if terms is None:
        return emit
    for call in calls:
        if call.native is not None:
            call.native, call.prefill = terms.native(call.native, call.model)
        elif call.conversation is not None:
            call.conversation, call.prefill = terms.neutral(call.conversation, call.model)
    if not terms.hides_reasoning and not any(call.prefill for call in calls):
        return emit
    return _ContractEmit(terms, request, gateway, turn, emit)


class _ContractEmit:
    """An ``Emit`` that edits the answer, whichever call gives it."""

    def __init__(
        self, terms: AnswerTerms, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
    ) -> None:
        self._terms, self._request, self._turn, self._emit = terms, request, turn, emit
        self._codec = gateway.codecs[request.dialect]
        self._edit: AnswerEdit | None = None
        self._editor: AnswerEditor | None = None
        self._text = ReasoningStripper()

    async def __call__(self, event: Event) -> None:
        """Forward ``event`` as edited."""
        edit = self._edit or self._begin()
        if isinstance(event, Frames):
            self._editor = self._editor or self._codec.editor(edit)
            data = self._editor.edit_frames(event.data)
            if data:
                await self._emit(Frames(data, event.count))
        elif isinstance(event, WholeBody):
            await self._emit(WholeBody(self._codec.editor(edit).edit_answer(event.body)))
        else:
            for each in self._neutral(event, edit):
                await self._emit(each)

    def _begin(self) -> AnswerEdit:
        """The edit for the call that answers, made at its first event."""
        call, body = self._turn.call, self._request.body
        edit = self._edit = AnswerEdit(
            self._terms.hides_reasoning,
            bool(body.get("tools") or body.get("include")),
            "" if call is None else call.prefill,
        )
        self._text.answer_begun = not edit.hides_reasoning
        return edit

    def _neutral(self, event: Event, edit: AnswerEdit) -> Sequence[Event]:
        """The edited form of a neutral event."""
        match event:
            case AnswerStarted() if edit.prefill:
                return (event, TextDelta(edit.prefill))
            case TextDelta(text):
                shown = self._text.feed(text)
                return (TextDelta(shown),) if shown else ()
            case Finished():
                shown = self._text.flush()
                return (TextDelta(shown), event) if shown else (event,)
            case ThinkingDelta() if edit.hides_reasoning:
                return ()
            case ThinkingSealed() | RedactedThinking() if edit.hides_reasoning:
                return (event,) if edit.keeps_signatures else ()
            case _:
                return (event,)
