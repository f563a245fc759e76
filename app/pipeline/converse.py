"""Ask a model: try the candidates in order until one begins to answer, and account for what it cost.

Retries and fallbacks happen only before the first event: from then on the client has seen a part of the
answer, and nothing shown is silently replaced. A provider's refusal that another try cannot change (a
400, a 401) is the client's to see at once.
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
from app.pipeline.contracted import under_terms
from app.pipeline.gated import Gated, leave
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.hedged import hedged
from app.routing.rate_headers import hold_s
from app.telemetry.timeline import OpenSpan

_RATE_LIMITED = 429
_REFUSED = frozenset({_RATE_LIMITED, 503, 529})
"""The vendor has not begun: too many calls, unavailable, overloaded."""
_SERVER_ERROR = 500
_BEFORE_SENDING = frozenset({"queue", "connect", "tls"})
OF_THE_FORM = frozenset({b"anthropic-version", b"tracestate"})
"""Headers of a vendor's clients that ask for nothing by themselves."""


def converse(
    request: ChatRequest, gateway: Gateway, turn: Turn, candidates: Sequence[Model], emit: Emit
) -> Awaitable[None]:
    """Stream the answer of the first candidate that begins to answer; raises the last failure."""
    if request.terms is not None:
        calls = _calls(request, gateway, turn, candidates)
        return ask(calls, gateway, turn, under_terms(calls, request, gateway, turn, emit))
    if len(candidates) == 1:
        model = candidates[0]
        if request.dialect in gateway.providers[model.provider].dialects():
            call = ModelCall(model, request.stream, turn.deadline, request)
            call.request_id = turn.request_id
            if turn.begun_ns:
                call.begun, call.begun_ns = turn.begun, turn.begun_ns
                turn.begun, turn.begun_ns = None, 0
            return ask((call,), gateway, turn, emit)
    return ask(_calls(request, gateway, turn, candidates), gateway, turn, emit)


async def ask(calls: Sequence[ModelCall], gateway: Gateway, turn: Turn, emit: Emit) -> None:
    """Stream the answer of the first of ``calls`` that begins to answer; raises the last failure."""
    call = calls[0]
    others = list(calls[1:]) if len(calls) > 1 else []
    tried: _Tried | None = None
    while True:
        span = failure = ok = gate = None
        try:
            if others and call.stream and gateway.hedging is not None and not turn.single_attempt:
                await hedged(call, others, gateway, turn, emit, _run)
            else:
                span = _begin(call, gateway, turn)
                provider = gateway.providers[call.model.provider]
                if type(provider) is Gated:  # as its own stream, without a coroutine of its own
                    if not call.begun_ns and not provider.gate.try_enter():
                        await provider.gate.enter(call.tenant, call.deadline)
                        call.entered_ns = time.monotonic_ns()
                    gate, provider = provider.gate, provider.behind
                await provider.stream(call, emit)
            ok = True
        except (Unsupported, Overloaded, UpstreamError) as error:
            failure = error
        finally:
            if span is not None:
                _settle(call, gateway, turn, span, ok, failure)
            if gate is not None and span is not None:
                entered_ns = call.entered_ns or span.start_ns
                leave(gate, call, entered_ns, span.end_ns, ok=ok is True, failure=failure)
        if failure is None:
            return
        tried = tried or _Tried(gateway.retries.get(call.model.provider, 1))
        call = tried.after(failure, call, others, gateway, turn)


async def whole_answer(
    conversation: Conversation, models: Sequence[Model], gateway: Gateway, turn: Turn
) -> Answer | None:
    """What the best of ``models`` says to a question of the gateway's own; None where it is not whole.

    Raises as ``ask``.
    """
    if not models:
        return None
    builder = AnswerBuilder()

    async def take(event: Event) -> None:
        builder.add(event)

    calls = [
        ModelCall(
            model, stream=False, deadline=turn.deadline, conversation=conversation, neutral=True
        )
        for model in gateway.load.order(models, lambda _: False)
    ]
    await ask(calls, gateway, turn, take)
    return builder.answer()


@dataclass(slots=True)
class _Tried:
    """What is left to try, after a first failure."""

    retries: int
    failure: UpstreamError | None = None

    def after(
        self,
        failure: Unsupported | Overloaded | UpstreamError,
        call: ModelCall,
        others: list[ModelCall],
        gateway: Gateway,
        turn: Turn,
    ) -> ModelCall:
        """The call to make next; raises the failure where none may end better."""
        if isinstance(failure, (Unsupported, Overloaded)):
            # Its dialect cannot carry the request, or there is no place at it. Nobody was asked; another
            # deployment may take it.
            if not others:
                raise self.failure or failure from None
            return others.pop(0)
        self.failure = failure
        # The next deployment, or the same one once more, if this one failed before a word was said.
        candidate = _next(others, gateway) or call.again()
        said = turn.upstream is not None and turn.upstream.first_event_ns
        if turn.single_attempt and not _surely_unheard(failure):
            raise failure
        if said or not self.retries or not _worth_another_try(failure, call, candidate, gateway):
            raise failure
        self.retries -= 1
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
    """The request for a model of another API, which has no use for a vendor's headers: they are named too."""
    conversation = gateway.codecs[request.dialect].read(request.body)
    asked = [name for name, _ in request.forward_headers if name not in OF_THE_FORM]
    if not asked:
        return conversation
    return replace(
        conversation, hints=(*conversation.hints, *(name.decode("latin-1") for name in asked))
    )


def _next(others: list[ModelCall], gateway: Gateway) -> ModelCall | None:
    """Take the first of ``others`` that is not known to be out of order; None where there is none."""
    for at, other in enumerate(others):
        if not gateway.load.is_open(other.model.name):
            return others.pop(at)
    return None


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


def _surely_unheard(failure: UpstreamError) -> bool:
    """Whether the vendor cannot have acted upon the call: it was never sent, or refused."""
    match failure:
        case UpstreamRefused():
            return True
        case UpstreamTimeout(phase=phase):
            return phase in _BEFORE_SENDING
        case UpstreamStatus(status=status):
            return status in _REFUSED
        case _:
            return False


async def _run(call: ModelCall, gateway: Gateway, turn: Turn, emit: Emit) -> None:
    """Run one call of a race; settle its time, tokens and money whatever happens."""
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
    """A call is about to be made; raises ``DeadlineExceeded`` where there is no time left for it."""
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
        call.once = True
    turn.attempts += 1
    span = turn.timeline.stage("upstream", model.label)
    if call.begun_ns:
        span.start_ns = call.begun_ns
    else:
        gateway.retry_budget.deposit()
        gateway.load.begin(model.name)
    return span


def _settle(  # noqa: PLR0917 - made by position once a request
    call: ModelCall,
    gateway: Gateway,
    turn: Turn,
    span: OpenSpan,
    ok: bool | None,  # noqa: FBT001
    failure: GatewayError | None,
) -> None:
    """A call is over: account for its time, tokens and money. ``ok`` None: it was cancelled, or failed."""
    span.end()
    if call.shaped is not None and call.prompts is not None:
        call.prompts.settle(call)
    start_ns, model, usage = span.start_ns, call.model, call.usage
    took_ns = span.end_ns - start_ns
    first_ns = call.first_event_ns
    if failure is not None and isinstance(failure, UpstreamError):
        ok = _blame(failure, model, gateway)
        gateway.on_failure(model.provider, failure.counted_as)
    gateway.load.end(
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
        _learn(call, gateway, start_ns, span.end_ns, whole=ok is True)
    if usage is not None:
        turn.cost_usd += model.price.cost_usd(usage)


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
    name, first_ns = call.model.name, call.first_event_ns
    if whole and call.stream and first_ns:
        tokens = call.usage.output_tokens if call.usage is not None else call.tokens_streamed
        took_s = (end_ns - start_ns) / 1e9
        gateway.load.streamed(name, (first_ns - start_ns) / 1e9, took_s, tokens)
    if call.response_headers:
        wait_s = hold_s(call.response_headers, time.time())
        if wait_s is not None:
            gateway.load.limited(name, wait_s)
