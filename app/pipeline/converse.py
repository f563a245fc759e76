"""Ask a model: try the candidates in order until one begins to answer, and account for what it cost.

Retries and fallbacks happen only before the first event: from then on the client has seen a part of the
answer, and nothing shown is silently replaced. A provider's refusal that another try cannot change (a
400, a 401) is the client's to see at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from app.domain.chat import ChatRequest
from app.domain.events import Emit
from app.domain.models import Model
from app.domain.trace_context import TurnTrace
from app.errors import (
    DeadlineExceeded,
    Overloaded,
    Unsupported,
    UpstreamError,
    UpstreamStatus,
    UpstreamTimeout,
)
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.hedged import hedged
from app.ports import CallTiming, ModelCall
from app.routing.rate_headers import hold_s

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
            if others and call.stream and gateway.hedging is not None:
                await hedged(call, others, gateway, turn, emit, _run)
            else:
                await _run(call, gateway, turn, emit)
        except (Unsupported, Overloaded) as refusal:
            # Its dialect cannot carry the request, or there is no place at it. Nobody was asked; another
            # deployment may take it.
            if not others:
                raise failure or refusal from None
            call = others.pop(0)
        except UpstreamError as error:
            failure = error
            # The next deployment, or the same one once more, if this one failed before a word was said.
            candidate = _next(others, gateway) or _again(call)
            said = turn.upstream is not None and turn.upstream.first_event_ns
            if said or not retries or not _worth_another_try(error, call, candidate, gateway):
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


def _next(others: list[ModelCall], gateway: Gateway) -> ModelCall | None:
    """Take the first of ``others`` that is not known to be out of order; None where there is none."""
    for at, other in enumerate(others):
        if not gateway.load.is_open(other.model.name):
            return others.pop(at)
    return None


def _again(call: ModelCall) -> ModelCall:
    return replace(call, timing=CallTiming(), dropped=(), response_headers=(), shaped=None)


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
    if not elsewhere and gateway.load.of(failed.model.name).breaker.tripped:
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
    call.tenant, call.prompts = turn.tenant, gateway.prompts
    if gateway.tracing or turn.traceparent:
        call.traceparent = _traceparent(turn, gateway)
    turn.attempts += 1
    gateway.retry_budget.deposit()
    load.begin(model.name)
    ok: bool | None = None
    span = turn.timeline.stage("upstream", model.label)
    try:
        await gateway.providers[model.provider].stream(call, emit)
        ok = True
    except UpstreamError as error:
        ok = _blame(error, model, gateway)
        gateway.on_failure(model.provider, error.code)
        raise
    finally:
        span.end()
        if call.shaped is not None and call.prompts is not None:
            call.prompts.settle(call)
        took_ns = span.end_ns - span.start_ns
        first_ns = timing.first_event_ns
        load.end(
            model.name,
            ok=ok,
            ttft_s=(first_ns - span.start_ns) / 1e9 if first_ns else None,
            total_s=took_ns / 1e9,
        )
        if turn.call is call:  # not the loser of a race
            turn.upstream_ns += took_ns
            turn.usage, turn.finish, turn.complete = call.usage, call.finish, call.complete
            turn.tokens_streamed, turn.vendor_headers = call.tokens_streamed, call.response_headers
        if turn.band:
            _learn(call, gateway, span.start_ns, span.end_ns, whole=ok is True)
        if call.usage is not None:
            turn.cost_usd += model.price.cost_usd(call.usage)


def _traceparent(turn: Turn, gateway: Gateway) -> str:
    """The caller's own where no spans are made here, else that of this call's span."""
    if not gateway.tracing:
        return turn.traceparent
    trace = TurnTrace(turn.request_id, turn.started_unix_s, turn.traceparent)
    return trace.traceparent(turn.attempts)


def _blame(error: UpstreamError, model: Model, gateway: Gateway) -> bool | None:
    """What a failure says of the deployment: False is a fault, None nothing. A limit puts it on hold."""
    if not isinstance(error, UpstreamStatus):
        return False
    limited = error.status == _RATE_LIMITED
    if limited or error.retry_after_s is not None:
        gateway.load.limited(model.name, error.retry_after_s)
    return None if limited or not error.transient else False


def _learn(call: ModelCall, gateway: Gateway, start_ns: int, end_ns: int, *, whole: bool) -> None:
    """Let the router know what a routed call took, and what is left of the vendor's limits."""
    name, first_ns = call.model.name, call.timing.first_event_ns
    if whole and call.stream and first_ns:
        tokens = call.usage.output_tokens if call.usage is not None else call.tokens_streamed
        took_s = (end_ns - start_ns) / 1e9
        gateway.load.streamed(name, (first_ns - start_ns) / 1e9, took_s, tokens)
    if call.response_headers:
        wait_s = hold_s(call.response_headers, time.time())
        if wait_s is not None:
            gateway.load.limited(name, wait_s)
