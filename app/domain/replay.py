"""Unroll a complete answer into events, in the grammar of ``app.domain.events``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import assert_never

from app.domain.events import (
    Answer,
    AnswerStarted,
    Event,
    Finished,
    FinishReason,
    RedactedThinking,
    RedactedThinkingBlock,
    RefusalBlock,
    RefusalDelta,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ThinkingSealed,
    ToolCallBlock,
    ToolCallDelta,
    ToolCallSealed,
    ToolCallStarted,
)
from app.domain.usage import Usage


def replay(answer: Answer) -> Iterator[Event]:
    """The events that a stream of ``answer`` would have had; ``AnswerBuilder`` rebuilds it from them."""
    started = AnswerStarted(answer.id, answer.model, answer.created_s, answer.usage)
    yield (
        started if answer.diagnostics is None else replace(started, diagnostics=answer.diagnostics)
    )
    call_index = 0
    for block in answer.blocks:
        match block:
            case TextBlock(text):
                yield TextDelta(text)
            case ThinkingBlock(text, signature):
                yield ThinkingDelta(text)
                yield ThinkingSealed(signature)
            case RedactedThinkingBlock(data):
                yield RedactedThinking(data)
            case RefusalBlock(text):
                yield RefusalDelta(text)
            case ToolCallBlock(call_id, name, arguments):
                yield ToolCallStarted(call_index, call_id, name)
                yield ToolCallDelta(call_index, arguments)
                yield ToolCallSealed(call_index, call_id, name, arguments)
                call_index += 1
            case _:
                assert_never(block)
    yield Finished(answer.finish, answer.usage, answer.stop_sequence)


def answer_of_text(text: str, *, answer_id: str, model: str, created_s: int) -> Answer:
    """An answer that no model wrote (a lane's), with zero usage."""
    return Answer(
        id=answer_id,
        model=model,
        blocks=(TextBlock(text),),
        finish=FinishReason.STOP,
        usage=Usage(),
        created_s=created_s,
    )
