"""One ordinary request in flight: listens to its upstream's answer and completes the turn.

The second half of the fast path (``app.api.fast_path``), in the callbacks of the upstream's socket. An
``FastRequest`` is the request's flight as well, so that others may join it; it lives until its answer is sent
and counted, or until a task takes over.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import perf_counter_ns, time
from typing import TYPE_CHECKING, Final

from app.api.eager_task import EagerTask
from app.api.native import NativeOutlet
from app.api.request_parsing import plain_request, vendor_id_line
from app.api.response import TurnResponse, vendor_lines
from app.domain.chat import ChatRequest, Dialect, PlainRequest
from app.domain.deadline import Deadline
from app.domain.decisions import CacheOutcome
from app.domain.events import COMPLETE_FINISHES, Emit
from app.domain.models import Model
from app.domain.turn_record import DEFAULTS_AFTER_TIMES, Times, TurnRecord
from app.domain.usage import Usage
from app.errors import GatewayError
from app.pipeline.flights import LeadingFlight
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.turn import resume_answer, resume_with_race
from app.providers.wire import BeginExchange, StartedExchange, WireProvider, forwarded_headers
from app.routing.concurrency_limiter import ConcurrencyLimiter
from app.routing.load import Deployment
from app.telemetry.fixed_timelines import CacheUpstreamTimes
from app.telemetry.timeline import Timeline, after_upstream
from app.upstream import Exchange, HeadShape, Timeouts
from app.upstream.http1 import split_head

if TYPE_CHECKING:
    from app.api.fast_path import FastPath  # needs this module

OK: Final = 200
_NO_DEADLINE: Final = Deadline(None)
_MESSAGES: Final = Dialect.MESSAGES
_MISS: Final = CacheOutcome.MISS
NAMED: Final = "model named by the caller"
new = tuple.__new__
_log = logging.getLogger("slipstream.turn")


@dataclass(slots=True)
class RequestPlan:
    """What is known in advance of a tenant's requests for one model. Immutable."""

    tenant: str
    model: Model
    tier: str
    key_start: bytes
    """The common part of their cache keys, see ``plain_key_prefix``."""
    model_fields: tuple[bytes, bytes]
    """The model field's bytes before and after, see ``model_fields``."""
    keeps_body: bool
    """Whether those are equal, so that the body is sent unchanged."""
    gate: ConcurrencyLimiter
    deployment: Deployment
    route: str
    """Their route in the semantic cache, see ``route_name``."""
    head: bytes
    """The beginning of a miss's response, up to the request's id."""
    stream_head: bytes
    """The same, streamed."""
    wire: WireProvider
    send: BeginExchange
    request_start: bytes
    """The beginning of a request to the upstream."""
    timeouts: Timeouts
    prompt_cache_bytes: int
    """From this size on the vendor's prompt cache matters."""
    record_parts: dict[tuple[bool, str], tuple[object, ...]]
    """By streamed or not, and the answer's ending: the middle of its record, see ``TurnRecord.kind``."""


def _vendors(head: bytes) -> bytes:
    """The header lines of a response's head that are forwarded."""
    return vendor_lines(forwarded_headers(split_head(head)), limited=False)


class FastRequest(LeadingFlight):
    """One request in flight: its ``Flight``, and the listener of its upstream's answer."""

    parsed: PlainRequest | None = None
    """The parsed body; None where a template spared the parsing."""
    instants: tuple[int, int, int]
    """Arrival, start and end of the cache look-up; nanoseconds."""
    _exchange: Exchange
    _handed_over = _races = False
    _response: TurnResponse | None = None
    """The task that took over."""
    _leader: object = None
    streamed = usage_shown = False

    def prepare(
        self, way: FastPath, plan: RequestPlan, outlet: NativeOutlet, key: bytes, request_id: str
    ) -> None:
        """Set all fields of a new request, its flight's included."""
        self.dialect = way.dialect
        self._events = []
        self.key, self._gateway = key, way.gateway
        self._way, self._plan = way, plan
        self._outlet, self._request_id = outlet, request_id
        self._started_unix_s = time()

    @property
    def leader(self) -> object:
        """The turn, as followers see it; created on first access."""
        if self._leader is None:
            self._leader = turn = self._make_turn()
            turn.model, turn.answered_tier = self._plan.model, self._plan.tier
        return self._leader

    @leader.setter
    def leader(self, turn: object) -> None:
        self._leader = turn

    def on_sent(self, exchange: Exchange) -> None:
        """The request was sent."""
        self._exchange = exchange
        gateway = self._gateway
        self._way.edge.in_flight.now += 1
        gateway.retry_budget.deposit()
        deployment = self._plan.deployment
        deployment.in_flight += 1
        if deployment.breaker.failures:  # inlined LoadBalancer.record_start
            deployment.breaker.record_start()
        gateway.flights.lead(self.key, self)
        if not self._handed_over:  # as when it fails while it is written
            outlet = self._outlet
            outlet.abort = self._client_left
            outlet.tasks.add(self)

    # ------------------------------------------------------------------ what the exchange tells

    def on_whole_response(self, shape: HeadShape, data: bytes, head_bytes: int) -> None:
        """The whole answer has arrived."""
        try:
            if not (self._handed_over or self.followers) and self._send_answer(
                shape, data, head_bytes
            ):
                return
        except Exception as raised:  # noqa: BLE001 - the socket's callback is the process's edge
            _log.error("turn_failed", exc_info=raised, extra={"request_id": self._request_id})
            if self._outlet.response_complete:
                return
        # Whoever takes over finds the answer.
        self._exchange.whole_received(shape, data, head_bytes)
        self._hand_over()

    def on_other_event(self) -> None:
        """Anything but a whole answer has arrived."""
        self._hand_over()

    def _send_answer(self, shape: HeadShape, data: bytes, head_bytes: int) -> bool:
        """Send the answer and account for it; returns False, and does nothing, for other ones."""
        exchange, plan, outlet = self._exchange, self._plan, self._outlet
        told = plan.wire.head_facts.get(shape)
        if told is None or shape.status != OK or not told[1]:
            return False
        body = data[head_bytes:]
        try:
            usage, finish = self._way.codec.read_outcome(body)
        except GatewayError:
            return False
        started_ns, cache_ns, looked_ns = self.instants
        sent_ns, cache_took_ns = exchange.queued_ns, looked_ns - cache_ns
        took_ns = exchange.ended_ns - sent_ns
        first_ns = perf_counter_ns()
        passed_ns = first_ns - started_ns
        passed = after_upstream(cache_took_ns, took_ns, passed_ns)
        theirs = _vendors(data[: head_bytes - 4]) if told[0] else b""
        if self.dialect is _MESSAGES:
            theirs += vendor_id_line(_MESSAGES, self._request_id, theirs)
        outlet.abort = None
        outlet.send_whole((plan.head, self._request_id.encode(), *passed, theirs), body)
        times = new(
            CacheUpstreamTimes,
            (started_ns, cache_ns, cache_took_ns, sent_ns, took_ns, plan.model.label),
        )
        upstream_s = took_ns / 1e9
        self._release(upstream_s, upstream_s)
        cost_usd = self._keep(body, usage, finish, upstream_s)
        total_s = (perf_counter_ns() - started_ns) / 1e9
        tokens = usage.output_tokens
        self._count(finish, total_s, passed_ns / 1e9, upstream_s, usage, tokens, cost_usd, times)
        return True

    def _release(self, first_s: float, upstream_s: float) -> None:
        """Everything is sent: release the upstream slot. ``first_s`` runs from the call's start to
        its first event.
        """
        plan, gateway, way = self._plan, self._gateway, self._way
        self._outlet.tasks.discard(self)
        way.edge.in_flight.now -= 1
        gateway.load.record_success(plan.deployment, first_s, upstream_s)
        plan.gate.release_succeeded(first_s if self.streamed else None, upstream_s)
        if self.followers:
            gateway.flights.land(self.key, self, None)
        else:  # as land, without a call of it
            self.done = True
            if gateway.flights.running(self.key) is self:
                gateway.flights.drop(self.key)

    def _keep(self, said: bytes, usage: Usage | None, finish: str, upstream_s: float) -> float:
        """Store the answer; returns its cost in USD."""
        plan, gateway = self._plan, self._gateway
        model, streamed = plan.model, self.streamed
        cost_usd = 0.0 if usage is None else model.price.cost_usd(usage)
        began_ns, exact = self.instants[0], gateway.exact
        if (not finish or finish in COMPLETE_FINISHES) and (
            began_ns > exact.blocked_ns  # type: ignore[union-attr]
            or not exact.blocks(began_ns, self.key, plan.tenant, model.name, ())  # type: ignore[union-attr]
        ):
            exact.put_fresh(  # type: ignore[union-attr]
                self.key, self.dialect, streamed, self.usage_shown, said, model.name, plan.tier,
                plan.tenant, self._request_id, usage, cost_usd, upstream_s,
            )  # fmt: skip
        return cost_usd

    def _count(  # noqa: PLR0917 - by position once a request
        self,
        finish: str,
        total_s: float,
        first_s: float,
        upstream_s: float,
        usage: Usage | None,
        tokens: int,
        cost_usd: float,
        times: Times,
    ) -> None:
        """Record the turn, and pass it on to learners."""
        plan, way, model = self._plan, self._way, self._plan.model
        kind = plan.record_parts.get((self.streamed, finish))
        if kind is None:
            kind = plan.record_parts[self.streamed, finish] = (
                way.dialect, OK, "", self.streamed, plan.tenant, model.name, model.name,
                model.provider, plan.tier, False, "", _MISS, "absent", finish, "", 1, NAMED, None, "",
            )  # fmt: skip
        told = (
            self._request_id, total_s, self._started_unix_s, *kind, first_s, upstream_s,
            total_s - upstream_s, usage, tokens, cost_usd, None, 0, (), times, *DEFAULTS_AFTER_TIMES,
        )  # fmt: skip
        way.edge.recorder.settle(new(TurnRecord, told))
        semantic = self._gateway.semantic
        if semantic is not None and not semantic.sheds(complete=True):
            turn = self._make_turn()
            turn.complete, turn.finish, turn.usage = True, finish, usage
            semantic.learn_later(self.key, self._chat_request(), self._gateway, turn, None)

    # ------------------------------------------------------------------ to the general path

    def _client_left(self) -> None:
        """The client has disconnected: the general path accounts for that."""
        self._hand_over()
        self._outlet.loop.call_soon(self._abort_response)

    def _abort_response(self) -> None:
        """The task that took over has started; tell it, unless it has ended already."""
        if self._outlet.abort is not None:
            self._outlet.abort()

    def race(self) -> None:
        """Race the semantic look-up with the upstream, which has the request already."""
        self._races = True
        self._hand_over()

    def cancel(self, msg: object = None) -> None:
        """Cancel, as a task's ``cancel``: the server shuts down, for example."""
        # Not now: whoever cancels may be walking through the set that this stands in.
        self._outlet.loop.call_soon(self._cancel, msg)

    def _cancel(self, msg: object) -> None:
        if not self._outlet.response_complete:
            self._hand_over()
            task = self._outlet.task
            if task is not None:
                self._outlet.loop.call_soon(task.cancel, msg)

    def _hand_over(self) -> None:
        """Let a task continue the request from the loop's next turn on; once."""
        if self._handed_over:
            return
        self._handed_over = True
        outlet = self._outlet
        outlet.tasks.discard(self)
        outlet.task = task = EagerTask(outlet.loop, self._run_general(), outlet.ended)
        outlet.tasks.add(task)
        task.start_soon()

    async def _run_general(self) -> None:
        edge, exchange = self._way.edge, self._exchange
        edge.deferred.drain()  # turns are told of in the order in which they ended
        exchange.listener = None
        turn = self._make_turn()
        turn.started_exchange, turn.exchange_started_ns = self._begun_call(), exchange.queued_ns
        self._response = response = TurnResponse(
            self._chat_request(),
            self._gateway,
            turn,
            self._outlet,
            edge.heartbeat,
            edge.recorder,
            self._finish_turn,
        )
        self._set_progress(response)
        try:
            await response.run()
        finally:
            edge.in_flight.now -= 1

    def _begun_call(self) -> StartedExchange:
        """The running exchange, for the provider."""
        return StartedExchange(self._exchange)

    def _set_progress(self, response: TurnResponse) -> None:
        """Tell the task what was sent already: nothing."""

    async def _finish_turn(
        self, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
    ) -> None:
        await (resume_with_race if self._races else resume_answer)(
            self, request, gateway, turn, emit
        )

    def _chat_request(self) -> ChatRequest:
        raw: bytes = self._outlet.body  # type: ignore[assignment]
        return plain_request(self.dialect, self.plain, raw, self._way.forwarded)

    @property
    def plain(self) -> PlainRequest:
        """The parsed request; parses the body if that was spared."""
        if self.parsed is None:
            self.parsed = self._way.codec.read_plain(self._outlet.body)  # type: ignore[arg-type]
        return self.parsed  # type: ignore[return-value]  # the same as the body that was learned from

    def _make_turn(self) -> Turn:
        """The turn as it would be on the general path at this point."""
        started_ns, cache_ns, looked_ns = self.instants
        timeline = Timeline(started_ns=started_ns)
        timeline.mark("cache", cache_ns, looked_ns)
        tenant = self._plan.tenant
        return Turn(self._request_id, tenant, timeline, _NO_DEADLINE, self._started_unix_s)
