"""Ask a model: try the candidates in order until one begins to answer, and account for what it cost.

Retries and fallbacks happen only before the first event: from then on the client has seen a part of the
answer, and nothing shown is silently replaced. A provider's refusal that another try cannot change (a
400, a 401) is the client's to see at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from app.domain.chat import ChatRequest
from app.domain.events import Emit
from app.domain.models import Model
from app.errors import (
    DeadlineExceeded,
    Unsupported,
    UpstreamError,
    UpstreamStatus,
    UpstreamTimeout,
)
from app.pipeline.gateway import Gateway, Turn
from app.ports import CallTiming, ModelCall

_RATE_LIMITED = 429
_SERVER_ERROR = 500


async def converse(
    request: ChatRequest, gateway: Gateway, turn: Turn, candidates: Sequence[Model], emit: Emit
) -> None:
    """Stream the answer of the first candidate that begins to answer; raises the last failure."""
    calls, unsupported = _calls(request, gateway, turn, candidates)
    if not calls:
        assert unsupported is not None  # noqa: S101 - no candidate is left out for another reason
        raise unsupported
    await ask(calls, gateway, turn, emit)


async def ask(calls: Sequence[ModelCall], gateway: Gateway, turn: Turn, emit: Emit) -> None:
    """Stream the answer of the first of ``calls`` that begins to answer; raises the last failure."""
    call, others = calls[0], list(calls[1:])
    retries = gateway.retries.get(call.model.provider, 1)
    failure: UpstreamError | None = None
    while True:
        try:
            await _run(call, gateway, turn, emit)
        except Unsupported as refusal:
            # Its dialect cannot carry the request. Nobody was asked; another deployment may take it.
            if not others:
                raise failure or refusal from None
            call = others.pop(0)
        except UpstreamError as error:
            failure = error
            # The next deployment, or the same one once more, if this one failed before a word was said.
            candidate = others.pop(0) if others else _again(call)
            last = call.timing.first_event_ns or not retries
            if last or not _worth_another_try(error, call, candidate, gateway):
                raise
            retries -= 1
            call = candidate
        else:
            return


def _calls(
    request: ChatRequest, gateway: Gateway, turn: Turn, candidates: Sequence[Model]
) -> tuple[list[ModelCall], Unsupported | None]:
    """A call for each candidate that can carry the request, and why one cannot."""
    calls: list[ModelCall] = []
    unsupported: Unsupported | None = None
    conversation = None
    for model in candidates:
        call = ModelCall(model, request.stream, turn.deadline, None, None, False, turn.request_id)  # noqa: FBT003
        if request.dialect in gateway.providers[model.provider].dialects():
            call.native = request
        else:
            try:
                conversation = conversation or gateway.codecs[request.dialect].read(request.body)
            except Unsupported as error:
                unsupported = unsupported or error
                continue
            call.conversation = conversation
        calls.append(call)
    return calls, unsupported


def _again(call: ModelCall) -> ModelCall:
    return replace(call, timing=CallTiming(), dropped=(), response_headers=())


def _worth_another_try(
    failure: UpstreamError, failed: ModelCall, candidate: ModelCall, gateway: Gateway
) -> bool:
    """Whether asking ``candidate`` may end better, and the retry budget allows it."""
    if isinstance(failure, UpstreamTimeout) and failure.phase == "total":
        return False
    elsewhere = candidate.model.name != failed.model.name
    if isinstance(failure, UpstreamStatus):
        if failure.status == _RATE_LIMITED and not elsewhere:
            return False
        if failure.status < _SERVER_ERROR and failure.status != _RATE_LIMITED:
            return False
    return gateway.retry_budget.take()


async def _run(call: ModelCall, gateway: Gateway, turn: Turn, emit: Emit) -> None:
    """Run one call; settle its time, tokens and money whatever happens."""
    model, timing, load = call.model, call.timing, gateway.load
    if turn.deadline.at_s is not None and turn.deadline.passed(gateway.clock()):
        message = (
            "the deadline passed before a model could be asked: "
            "allow more time in x-slipstream-deadline-ms"
        )
        raise DeadlineExceeded(message)
    turn.model, turn.upstream, turn.call = model, timing, call
    turn.attempts += 1
    gateway.retry_budget.deposit()
    load.begin(model.name)
    ok: bool | None = None
    span = turn.timeline.stage("upstream", model.label)
    try:
        await gateway.providers[model.provider].stream(call, emit)
        ok = True
    except UpstreamError as error:
        ok = None if isinstance(error, UpstreamStatus) and not error.transient else False
        gateway.on_failure(model.provider, error.code)
        raise
    finally:
        span.end()
        took_ns = span.end_ns - span.start_ns
        turn.upstream_ns += took_ns
        first_ns = timing.first_event_ns
        load.end(
            model.name,
            ok=ok,
            ttft_s=(first_ns - span.start_ns) / 1e9 if first_ns else None,
            total_s=took_ns / 1e9,
        )
        turn.usage, turn.finish, turn.complete = call.usage, call.finish, call.complete
        turn.tokens_streamed, turn.vendor_headers = call.tokens_streamed, call.response_headers
        if call.usage is not None:
            turn.cost_usd += model.price.cost_usd(call.usage)
