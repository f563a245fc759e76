"""Relay an upstream's answer, complete or streamed: shared by both kinds of provider."""

from __future__ import annotations

import time

from app.domain.events import Emit, Event, Frames, TextDelta, ThinkingDelta, WholeBody
from app.domain.model_call import Headers, ModelCall
from app.domain.replay import replay
from app.errors import UpstreamClosed
from app.ports import Codec, StreamReader
from app.providers.redaction import redact_failure
from app.providers.upstream_request import UpstreamRequest


async def relay_answer(body: bytes, call: ModelCall, request: UpstreamRequest, emit: Emit) -> None:
    """Record the answer in ``body`` on ``call`` and emit it: unchanged in its own dialect, else as events.

    Raises ``UpstreamProtocol`` for a body that is not an answer, before anything is emitted.
    """
    if request.passthrough:
        await emit(untouched_answer(body, call, request.codec))
        return
    answer = request.codec.read_answer(body)
    call.usage, call.finish, call.complete = answer.usage, answer.finish, True
    call.tokens_streamed = answer.usage.output_tokens
    call.first_event_ns = call.ended_ns = time.monotonic_ns()
    for event in replay(answer):
        await emit(event)


def untouched_answer(body: bytes, call: ModelCall, codec: Codec) -> WholeBody:
    """Record an answer that is passed through unchanged. Raises as ``relay_answer``."""
    call.usage, call.finish = usage, _ = codec.read_outcome(body)
    call.complete = True
    call.tokens_streamed = usage.output_tokens
    call.first_event_ns = call.ended_ns = call.ended_ns or time.monotonic_ns()
    return WholeBody(body)


def make_reader(request: UpstreamRequest) -> StreamReader:
    """The stream reader: frames for a client of the same dialect, else neutral events."""
    if request.passthrough:
        return request.codec.passthrough(hide_usage=request.hide_usage)
    return request.codec.reader()


async def relay_chunk(
    data: bytes, reader: StreamReader, call: ModelCall, emit: Emit, sent: Headers
) -> None:
    """Emit what ``data`` completes. Raises the upstream's in-stream error if nothing was emitted before it.

    ``sent`` are the request headers, whose secrets are redacted from errors.
    """
    events = reader.feed(data)
    if reader.failure is not None:
        events = redact_failure(reader.failure, events, sent)
    for event in events:
        if not call.first_event_ns:
            if reader.failure is not None:
                raise reader.failure
            call.first_event_ns = time.monotonic_ns()
        call.tokens_streamed += event.count if type(event) is Frames else _is_token(event)
        await emit(event)


async def relay_end(reader: StreamReader, call: ModelCall, emit: Emit, sent: Headers) -> None:
    """The upstream closed: emit what is left in its last bytes; ``sent`` as above."""
    events = reader.end()
    if reader.failure is not None:
        events = redact_failure(reader.failure, events, sent)
    for event in events:
        call.first_event_ns = call.first_event_ns or time.monotonic_ns()
        await emit(event)


def record_outcome(reader: StreamReader, call: ModelCall) -> None:
    """Record usage, finish reason and completeness on ``call``, however the stream ended."""
    call.usage, call.finish = reader.usage, reader.finish
    call.complete = reader.complete and reader.failure is None


def raise_for_outcome(
    reader: StreamReader, call: ModelCall, request: UpstreamRequest, name: str
) -> None:
    """Raise the upstream's in-stream error, or ``UpstreamClosed`` for a truncated stream."""
    if reader.failure is not None:
        if request.passthrough and call.first_event_ns:
            reader.failure.already_reported = True  # its own frame was passed through to the client
        raise reader.failure
    if not reader.complete:
        message = f"{name} ended the stream before the answer was whole"
        raise UpstreamClosed(message, code="upstream_truncated")


def _is_token(event: Event) -> bool:
    return isinstance(event, TextDelta | ThinkingDelta)
