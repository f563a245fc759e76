"""A whole answer handed on, for both ways to a model."""

from __future__ import annotations

import time

from app.domain.events import Emit, Whole
from app.domain.model_call import ModelCall
from app.domain.replay import replay
from app.ports import Codec
from app.providers.outgoing import Outgoing


async def hand_on_whole(body: bytes, call: ModelCall, request: Outgoing, emit: Emit) -> None:
    """Account for the answer in ``body`` and emit it: untouched to its own dialect, else as events.

    Raises ``UpstreamProtocol`` for a body that is no answer, before anything is emitted.
    """
    if request.passthrough:
        await emit(whole(body, call, request.codec))
        return
    answer = request.codec.read_answer(body)
    call.usage, call.finish, call.complete = answer.usage, answer.finish, True
    call.tokens_streamed = answer.usage.output_tokens
    call.first_event_ns = call.ended_ns = time.monotonic_ns()
    for event in replay(answer):
        await emit(event)


def whole(body: bytes, call: ModelCall, codec: Codec) -> Whole:
    """Account for an answer that goes through untouched. Raises as ``hand_on_whole``."""
    call.usage, call.finish = usage, _ = codec.glance(body)
    call.complete = True
    call.tokens_streamed = usage.output_tokens
    call.first_event_ns = call.ended_ns = call.ended_ns or time.monotonic_ns()
    return Whole(body)
