"""Call models: try the candidates in order until one starts to answer; account for time, tokens and money.

Retries and fallbacks happen only before the first event: after it the client has seen a part of the answer,
and nothing shown is silently replaced. A status that a retry cannot change (400, 401) goes to the client at
once.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace

from app.domain.chat import ChatRequest, Conversation
from app.domain.events import Answer, AnswerBuilder, Emit, Event
from app.domain.model_call import ModelCall
from app.domain.models import Model
from app.domain.trace_context import TurnTrace
from app.errors import (
    DeadlineExceeded,
    GatewayError,
    Overloaded,
    Unsupported,
    UpstreamError,
    UpstreamRefused,
    UpstreamStatus,
    UpstreamTimeout,
)
from app.pipeline.contract_enforcement import apply_contract
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.hedged import run_hedged
from app.pipeline.limited import LimitedProvider, release_slot
from app.routing.rate_headers import hold_s
from app.telemetry.timeline import OpenSpan

_RATE_LIMITED = 429
_REFUSED = frozenset({_RATE_LIMITED, 503, 529})
"""The vendor has not started on the call: rate limited, unavailable, overloaded."""
_SERVER_ERROR = 500
_BEFORE_SENDING = frozenset({"queue", "connect", "tls"})
INERT_HEADERS = frozenset({b"anthropic-version", b"tracestate"})
"""Headers that vendors' clients always send, and that request nothing: other dialects can drop them."""


def converse(
    request: ChatRequest, gateway: Gateway, turn: Turn, candidates: Sequence[Model], emit: Emit
) -> Awaitable[None]:
    """Stream the answer of the first candidate that starts to answer; raises the last failure."""
    if request.terms is not None:
        calls = _calls(request, gateway, turn, candidates)
        return ask(calls, gateway, turn, apply_contract(calls, request, gateway, turn, emit))
    if len(candidates) == 1:
        model = candidates[0]
        if request.dialect in gateway.providers[model.provider].dialects():
            call = ModelCall(model, request.stream, turn.deadline, request)
            call.request_id = turn.request_id
            if turn.exchange_started_ns:
                call.started_exchange = turn.started_exchange
                call.exchange_started_ns = turn.exchange_started_ns
                turn.started_exchange, turn.exchange_started_ns = None, 0
            return ask((call,), gateway, turn, emit)
    return ask(_calls(request, gateway, turn, candidates), gateway, turn, emit)


async def ask(calls: Sequence[ModelCall], gateway: Gateway, turn: Turn, emit: Emit) -> None:
    """Stream the answer of the first of ``calls`` that starts to answer; raises the last failure."""
    call = calls[0]
    others = list(calls[1:]) if len(calls) > 1 else []
    retries: _Retries | None = None
    while True:
        span = failure = ok = limiter = None
        try:
            if others and call.stream and gateway.hedging is not None and not turn.single_attempt:
                await run_hedged(call, others, gateway, turn, emit, _run_racing_call)
            else:
                span = _begin(call, gateway, turn)
                provider = gateway.providers[call.model.provider]
                if type(provider) is LimitedProvider:  # its ``stream``, inlined: a coroutine fewer
                    if not call.exchange_started_ns and not provider.limiter.try_acquire():
                        await provider.limiter.acquire(call.tenant, call.deadline)
                        call.admitted_ns = time.monotonic_ns()
                    limiter, provider = provider.limiter, provider.inner
                await provider.stream(call, emit)
            ok = True
        except (Unsupported, Overloaded, UpstreamError) as error:
            failure = error
        finally:
            if span is not None:
                _settle(call, gateway, turn, span, ok, failure)
            if limiter is not None and span is not None:
                entered_ns = call.admitted_ns or span.start_ns
                release_slot(limiter, call, entered_ns, span.end_ns, ok=ok is True, failure=failure)
        if failure is None:
            return
        retries = retries or _Retries(gateway.retries.get(call.model.provider, 1))
        call = retries.next_call(failure, call, others, gateway, turn)


async def whole_answer(
    conversation: Conversation, models: Sequence[Model], gateway: Gateway, turn: Turn
) -> Answer | None:
    """The answer of the best of ``models`` to a prompt of the gateway's own; None where it is incomplete.

    Raises as ``ask``.
    """
    if not models:
        return None
    builder = AnswerBuilder()

    async def collect(event: Event) -> None:
        builder.add(event)

    calls = [
        ModelCall(
            model, stream=False, deadline=turn.deadline, conversation=conversation, neutral=True
        )
        for model in gateway.load.rank(models, lambda _: False)
    ]
    await ask(calls, gateway, turn, collect)
    return builder.answer()


@dataclass(slots=True)
class _Retries:
    """The retries that are left after a first failure."""

    left: int
    failure: UpstreamError | None = None

    def next_call(
        self,
        failure: Unsupported | Overloaded | UpstreamError,
        call: ModelCall,
        others: list[ModelCall],
        gateway: Gateway,
        turn: Turn,
    ) -> ModelCall:
        """The next call to make; raises the failure where none can help."""
        if isinstance(failure, (Unsupported, Overloaded)):
            # Its dialect cannot carry the request, or its limiter is full: nothing was sent, and another
            # deployment may take it.
            if not others:
                raise self.failure or failure from None
            return others.pop(0)
        self.failure = failure
        # The next deployment, or this one again if it failed before its first event.
        candidate = _take_available(others, gateway) or call.copy_for_retry()
        started = turn.upstream is not None and turn.upstream.first_event_ns
        if turn.single_attempt and not _not_acted_upon(failure):
            raise failure
        if started or not self.left or not _worth_another_try(failure, call, candidate, gateway):
            raise failure
        self.left -= 1
        return candidate


def _calls(
    request: ChatRequest, gateway: Gateway, turn: Turn, candidates: Sequence[Model]
) -> list[ModelCall]:
    """A call for each candidate that can carry the request; raises ``Unsupported`` where none can."""
    calls: list[ModelCall] = []
    unsupported: Unsupported | None = None
    conversation = None
    for model in candidates:
        call = ModelCall(model, request.stream, turn.deadline, None, None, False, turn.request_id)  # noqa: FBT003
        if request.dialect in gateway.providers[model.provider].dialects():
            call.native = request
        else:
            try:
                conversation = conversation or _read(request, gateway)
            except Unsupported as error:
                unsupported = unsupported or error
                continue
            call.conversation = conversation
        calls.append(call)
    if not calls and unsupported is not None:
        raise unsupported
    return calls


def _read(request: ChatRequest, gateway: Gateway) -> Conversation:
    """The neutral reading, for a model of another dialect; forwarded headers become dropped hints."""
    conversation = gateway.codecs[request.dialect].read(request.body)
    dropped = [name for name, _ in request.forward_headers if name not in INERT_HEADERS]
    if not dropped:
        return conversation
    return replace(
        conversation, hints=(*conversation.hints, *(name.decode("latin-1") for name in dropped))
    )


def _take_available(others: list[ModelCall], gateway: Gateway) -> ModelCall | None:
    """Pop the first of ``others`` whose breaker is closed; None where there is none."""
    for at, other in enumerate(others):
        if not gateway.load.is_open(other.model.name):
            return others.pop(at)
    return None


def _worth_another_try(
    failure: UpstreamError, failed: ModelCall, candidate: ModelCall, gateway: Gateway
) -> bool:
    """Whether ``candidate`` may succeed where ``failed`` did not, and the retry budget allows it."""
    if isinstance(failure, UpstreamTimeout) and failure.phase == "total":
        return False
    elsewhere = candidate.model.name != failed.model.name
    if isinstance(failure, UpstreamStatus):
        if failure.status == _RATE_LIMITED and not elsewhere:
            return False
        if failure.status < _SERVER_ERROR and failure.status != _RATE_LIMITED:
            return False
    if not elsewhere and gateway.load.deployment(failed.model.name).breaker.tripped:
        return False
    return gateway.retry_budget.try_take()


def _not_acted_upon(failure: UpstreamError) -> bool:
    """Whether the vendor cannot have acted upon the call: it was never sent, or it was refused."""
    match failure:
        case UpstreamRefused():
            return True
        case UpstreamTimeout(phase=phase):
            return phase in _BEFORE_SENDING
        case UpstreamStatus(status=status):
            return status in _REFUSED
        case _:
            return False


async def _run_racing_call(call: ModelCall, gateway: Gateway, turn: Turn, emit: Emit) -> None:
    """Run one call of a hedged race, and always settle its time, tokens and money."""
    span, ok, failure = _begin(call, gateway, turn), None, None
    try:
        await gateway.providers[call.model.provider].stream(call, emit)
        ok = True
    except UpstreamError as error:
        failure = error
        raise
    finally:
        _settle(call, gateway, turn, span, ok, failure)


def _begin(call: ModelCall, gateway: Gateway, turn: Turn) -> OpenSpan:
    """Open a call's span and count it; raises ``DeadlineExceeded`` where the deadline has passed."""
    if turn.deadline.at_s is not None and turn.deadline.passed(gateway.clock()):
        message = (
            "the deadline passed before a model could be asked: "
            "allow more time in x-slipstream-deadline-ms"
        )
        raise DeadlineExceeded(message)
    model = call.model
    turn.model, turn.upstream, turn.call = model, call, call
    call.tenant, call.prompts = turn.tenant, gateway.prompts
    if gateway.tracing or turn.traceparent:
        call.traceparent = _traceparent(turn, gateway)
    if turn.single_attempt:
        call.single_attempt = True
    turn.attempts += 1
    span = turn.timeline.stage("upstream", model.label)
    if call.exchange_started_ns:
        span.start_ns = call.exchange_started_ns
    else:
        gateway.retry_budget.deposit()
        gateway.load.record_start(model.name)
    return span


def _settle(  # noqa: PLR0917 - made by position once a request
    call: ModelCall,
    gateway: Gateway,
    turn: Turn,
    span: OpenSpan,
    ok: bool | None,  # noqa: FBT001
    failure: GatewayError | None,
) -> None:
    """Account for an ended call's time, tokens and money. ``ok`` None: cancelled, or see ``failure``."""
    span.end()
    if call.prompt_shape is not None and call.prompts is not None:
        call.prompts.settle(call)
    start_ns, model, usage = span.start_ns, call.model, call.usage
    took_ns = span.end_ns - start_ns
    first_ns = call.first_event_ns
    if failure is not None and isinstance(failure, UpstreamError):
        ok = _breaker_verdict(failure, model, gateway)
        gateway.on_failure(model.provider, failure.metric_code)
    gateway.load.record_end(
        model.name,
        ok=ok,
        ttft_s=(first_ns - start_ns) / 1e9 if first_ns else None,
        total_s=took_ns / 1e9,
    )
    if turn.call is call:  # not the loser of a race
        turn.upstream_ns += took_ns
        turn.usage, turn.finish, turn.complete = usage, call.finish, call.complete
        turn.tokens_streamed = call.tokens_streamed
    if turn.band:
        _report_to_load(call, gateway, start_ns, span.end_ns, whole=ok is True)
    if usage is not None:
        turn.cost_usd += model.price.cost_usd(usage)


def _traceparent(turn: Turn, gateway: Gateway) -> str:
    """The caller's own where no spans are exported, else that of this call's span."""
    if not gateway.tracing:
        return turn.traceparent
    trace = TurnTrace(turn.request_id, turn.started_unix_s, turn.traceparent)
    return trace.traceparent(turn.attempts)


def _breaker_verdict(error: UpstreamError, model: Model, gateway: Gateway) -> bool | None:
    """A failure as the breaker counts it: False a fault, None neutral. A rate limit sets a hold."""
    if not isinstance(error, UpstreamStatus):
        return False
    limited = error.status == _RATE_LIMITED
    if limited or error.retry_after_s is not None:
        gateway.load.record_rate_limit(model.name, error.retry_after_s)
    return None if limited or not error.transient else False


def _report_to_load(
    call: ModelCall, gateway: Gateway, start_ns: int, end_ns: int, *, whole: bool
) -> None:
    """Report a routed call's timings, and a hold that the vendor's rate-limit headers ask for."""
    name, first_ns = call.model.name, call.first_event_ns
    if whole and call.stream and first_ns:
        tokens = call.usage.output_tokens if call.usage is not None else call.tokens_streamed
        took_s = (end_ns - start_ns) / 1e9
        gateway.load.record_stream(name, (first_ns - start_ns) / 1e9, took_s, tokens)
    if call.response_headers:
        wait_s = hold_s(call.response_headers, time.time())
        if wait_s is not None:
            gateway.load.record_rate_limit(name, wait_s)
