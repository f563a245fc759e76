"""The straight way: an ordinary request served in the callbacks of two sockets, with no task of its own.

Theory of operation. Most requests are alike: a plain JSON body, a model by its name, no wishes, a caller
without limits; a kept answer or a miss, then one upstream's answer in one piece. What such a request does is
decided before it comes, so it is written down once per model and tenant as a ``_Plan``, and one function goes
from the request's bytes to the upstream's socket, and one from the answer's bytes to the client's and to the
account. That costs a third of the general way, whose coroutines, spans and events are for what may happen.

Whatever is not ordinary leaves for the general way, at one of two points:

* Before anything was begun ``take`` says no, and nothing has happened.
* Once the upstream is asked, everything but a sound answer in one piece (an error, a failure, a stale
  connection, a client that leaves, a shutdown, somebody who joins the flight) is *handed over*: a
  ``TurnResponse`` goes on with the very exchange, flight and instants. So there is one place for each of
  those cases, and it is not here.

What this does for an ordinary request is what ``app.pipeline.turn``, ``converse`` and ``remember`` do; a test
holds the two ways together, header by header and field by field of the turn's record.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import perf_counter_ns, time
from typing import TYPE_CHECKING, Final

from app.api.bodies import SMALL_BYTES
from app.api.eager_task import EagerTask
from app.api.native import NativeOutlet
from app.api.reading import plain_request, request_id_of
from app.api.response import JSON_TYPE, TurnResponse, vendor_lines
from app.cache.exact import CachedAnswer
from app.cache.key import Scope, plain_key
from app.domain.chat import ChatRequest, Dialect, PlainRequest
from app.domain.deadline import Deadline
from app.domain.decisions import CacheOutcome
from app.domain.events import COMPLETE_FINISHES, Emit
from app.domain.models import Model
from app.domain.turn_record import TurnRecord
from app.domain.usage import Usage
from app.errors import GatewayError
from app.pipeline.gated import Gated
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.remember import keep
from app.pipeline.turn import go_on, serve
from app.providers.outgoing import model_fields, splice_plain
from app.providers.wire import WireProvider, forwarded
from app.routing.gate import Gate
from app.telemetry.few_spans import CacheAlone, CacheAndUpstream
from app.telemetry.timeline import Timeline, after_cache, after_upstream
from app.upstream import Exchange, Shape
from app.upstream.http1 import split_head

if TYPE_CHECKING:
    from app.api.inference import Edge  # needs this module

_MOST_PLANS: Final = 4_096
_OK: Final = 200
_ENDLESS: Final = 1 << 62
_NO_DEADLINE: Final = Deadline(None)
_MISS, _EXACT = CacheOutcome.MISS, CacheOutcome.EXACT
_NAMED: Final = "model named by the caller"
_ANSWERED_BEFORE: Final = "the same request was answered before"
_new = tuple.__new__
_log = logging.getLogger("slipstream.turn")


@dataclass(slots=True)
class _Plan:
    """What is decided before a request for one model by one tenant comes. Nobody changes one."""

    tenant: str
    model: Model
    tier: str
    scope: Scope
    fields: tuple[bytes, bytes] | None
    """What is spliced in the body, see ``model_fields``; None: nothing."""
    gate: Gate
    wire: WireProvider
    least_bytes: int
    """From here on the prompt's cache is something to think about."""
    kinds: dict[str, tuple[object, ...]]
    """By the answer's ending: the middle of its record, see ``TurnRecord.kind``."""


class StraightWay:
    """The straight way of one endpoint; one event loop owns it."""

    def __init__(self, dialect: Dialect, edge: Edge) -> None:
        """Serve ``dialect`` with what ``edge`` holds."""
        self.dialect, self.edge = dialect, edge
        self.gateway = edge.gateway
        self.codec = edge.gateway.codecs[dialect]
        self._read = self.codec.plain
        self._most_bytes = min(SMALL_BYTES, edge.max_body_bytes)
        self._plans: dict[tuple[str, str], _Plan] = {}
        """By model and tenant."""

    def take(  # noqa: C901, PLR0911 - one question after the other, in one piece
        self, outlet: NativeOutlet, headers: dict[bytes, bytes]
    ) -> bool:
        """Answer the request, now or when its answer comes; no where it is not an ordinary one.

        ``headers`` are those that mean something to the gateway: who calls, and nothing else.
        """
        started_ns = perf_counter_ns()
        edge, gateway = self.edge, self.gateway
        in_flight = edge.in_flight
        raw: bytes = outlet.body  # type: ignore[assignment]
        if in_flight.draining or in_flight.now >= in_flight.most or len(raw) > self._most_bytes:
            return False
        try:
            caller = edge.authenticator.caller(
                headers.get(b"authorization"), headers.get(b"x-api-key")
            )
        except GatewayError:
            return False
        plain = None if caller.guard is not None else self._read(raw)
        if plain is None or plain.stream:
            return False
        plan = self._plans.get((plain.model, caller.tenant))
        if plan is None:
            plan = self._planned(plain.model, caller.tenant)
            if plan is None:
                return False
        cache_ns = perf_counter_ns()
        try:
            key = plain_key(plan.scope, plain)
        except ValueError:  # text that cannot be encoded: the general way names it
            return False
        entry = gateway.exact.get(key)  # type: ignore[union-attr]
        looked_ns = perf_counter_ns()
        request_id = request_id_of(headers.get(b"x-request-id"))
        if entry is not None:
            times = _new(CacheAlone, (started_ns, cache_ns, looked_ns))
            return self._tell(entry, plan, outlet, request_id, times)
        meaning = gateway.meaning
        if (
            meaning is not None and meaning.is_open(plan.tenant, plan.model.name)
        ) or gateway.flights.running(key) is not None:
            return False
        body = raw if plan.fields is None else splice_plain(raw, plan.fields, False)  # noqa: FBT003
        if body is None or len(body) >= plan.least_bytes or not plan.gate.try_enter():
            return False
        asked = _Asked(self, plan, outlet, key, request_id)
        asked.plain, asked.instants = plain, (started_ns, cache_ns, looked_ns)
        exchange = plan.wire.send(self.dialect, body, asked)
        if exchange is None:
            plan.gate.leave(first_s=None, took_s=0.0, overloaded=False, ok=False)
            return False
        asked.begin(exchange)
        return True

    def _planned(self, name: str, tenant: str) -> _Plan | None:
        """What is to be done for ``name``; None where the general way decides that. Remembered."""
        plan = self._plan(name, tenant)
        if plan is not None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[name, tenant] = plan
        return plan

    def _plan(self, name: str, tenant: str) -> _Plan | None:
        gateway = self.gateway
        model = gateway.models.get(name)
        if model is None or self.edge.answering is not serve or not _is_ordinary(gateway):
            return None
        rules = (gateway.contracts, gateway.layouts, gateway.batching)
        if any(each is not None and each.concerns(name, tenant) for each in rules):
            return None
        provider = gateway.providers[model.provider]
        wire = provider.behind if type(provider) is Gated else None
        if (
            type(provider) is not Gated
            or type(wire) is not WireProvider
            or self.dialect not in wire.dialects()
            or self.dialect is Dialect.RESPONSES  # which may turn out not to be spoken after all
        ):
            return None
        return _Plan(
            tenant,
            model,
            model.tier.value,
            (tenant, "", name, "", 0),
            None if name == model.upstream_model else model_fields(name, model.upstream_model),
            provider.gate,
            wire,
            _ENDLESS if gateway.prompts is None else gateway.prompts.least_bytes,
            {},
        )

    def _tell(
        self,
        entry: CachedAnswer,
        plan: _Plan,
        outlet: NativeOutlet,
        request_id: str,
        times: CacheAlone,
    ) -> bool:
        """Tell a kept answer as ``remember.tell`` does; no where it was never told before in this form."""
        rendered = entry.rendered
        body = None if rendered is None else rendered.get((self.dialect, False, False))
        if body is None or not entry.judged or not entry.readable:
            return False
        entry.hits += 1
        model = self.gateway.models.get(entry.model)
        lines = self.edge.pulse.lines(JSON_TYPE, _EXACT, model, entry.tier, _ANSWERED_BEFORE)
        started_ns, cache_ns, looked_ns = times
        first_ns = perf_counter_ns()
        passed = after_cache(looked_ns - cache_ns, first_ns - started_ns)
        outlet.try_respond(_OK, b"".join((lines, request_id.encode(), passed)), body)
        total_s = (perf_counter_ns() - started_ns) / 1e9
        told = (
            request_id, total_s, time() - total_s,
            self.dialect, _OK, "", False, plan.tenant, plan.model.name,
            "" if model is None else model.name, "" if model is None else model.provider,
            entry.tier, False, "", _EXACT, "exact", "", "", 0,
            _ANSWERED_BEFORE, None, entry.id, (first_ns - started_ns) / 1e9, 0.0, None,
            entry.usage, 0, 0.0, entry.cost_usd, 0, (), times, "", None,
        )  # fmt: skip
        self.edge.recorder.settle(_new(TurnRecord, told))
        return True


def _is_ordinary(gateway: Gateway) -> bool:
    """Whether nothing is configured that looks at every request."""
    return (
        gateway.exact is not None
        and gateway.shared is None
        and gateway.sharing is None
        and not gateway.tracing
    )


def _vendors(head: bytes) -> bytes:
    """The header lines of a response's head that are forwarded."""
    return vendor_lines(forwarded(split_head(head)), limited=False)


class _Asked(keep):
    """One request whose upstream is being asked: its flight, and what hears of the answer."""

    plain: PlainRequest
    instants: tuple[int, int, int]
    """When it came, and when the look into the cache began and ended; nanoseconds."""
    _exchange: Exchange
    _handed_over = False
    leader = None

    def __init__(
        self, way: StraightWay, plan: _Plan, outlet: NativeOutlet, key: bytes, request_id: str
    ) -> None:
        # As a flight's own, without a call of it.
        self.dialect, self.streamed, self.usage_shown = way.dialect, False, False
        self._events = []
        self.key, self._gateway = key, way.gateway
        self._way, self._plan, self._outlet, self._request_id = way, plan, outlet, request_id
        self._started_unix_s = time()

    def begin(self, exchange: Exchange) -> None:
        """The request is on its way."""
        self._exchange = exchange
        gateway = self._gateway
        self._way.edge.in_flight.now += 1
        gateway.retry_budget.deposit()
        gateway.load.begin(self._plan.model.name)
        gateway.flights.lead(self.key, self)
        if not self._handed_over:  # as when it fails while it is written
            outlet = self._outlet
            outlet.abort = self._left
            outlet.tasks.add(self)

    # ------------------------------------------------------------------ what the exchange tells

    def answered(self, shape: Shape, data: bytes, head_bytes: int) -> None:
        """The answer has come whole."""
        try:
            if (
                not self._handed_over
                and not self.followers
                and self._answer(shape, data, head_bytes)
            ):
                return
        except Exception as raised:  # noqa: BLE001 - the socket's callback is the process's edge
            _log.error("turn_failed", exc_info=raised, extra={"request_id": self._request_id})
            if self._outlet.response_complete:
                return
        # Whoever takes over finds the answer.
        self._exchange.whole(shape, data, head_bytes)
        self._hand_over()

    def unusual(self) -> None:
        """Something else has come."""
        self._hand_over()

    def _answer(self, shape: Shape, data: bytes, head_bytes: int) -> bool:
        """Hand the answer on and account for it; no, and nothing done, where it is not an ordinary one."""
        exchange, plan, outlet = self._exchange, self._plan, self._outlet
        told = plan.wire.told.get(shape)
        if told is None or shape.status != _OK or not told[1]:
            return False
        body = data[head_bytes:]
        try:
            usage, finish = self._way.codec.glance(body)
        except GatewayError:
            return False
        started_ns, cache_ns, looked_ns = self.instants
        sent_ns, ended_ns = exchange.queued_ns, exchange.ended_ns
        model = plan.model
        lines = self._way.edge.pulse.lines(JSON_TYPE, _MISS, model, plan.tier, _NAMED)
        first_ns = perf_counter_ns()
        passed = after_upstream(looked_ns - cache_ns, ended_ns - sent_ns, first_ns - started_ns)
        theirs = _vendors(data[: head_bytes - 4]) if told[0] else b""
        head = b"".join((lines, self._request_id.encode(), passed, theirs))
        outlet.abort = None
        outlet.try_respond(_OK, head, body)
        outlet.tasks.discard(self)
        self._way.edge.in_flight.now -= 1
        times = _new(
            CacheAndUpstream, (started_ns, cache_ns, looked_ns, sent_ns, ended_ns, model.label)
        )
        self._settle(body, usage, finish, (ended_ns - sent_ns) / 1e9, first_ns, times)
        return True

    def _settle(  # noqa: PLR0917 - by position once a request
        self,
        body: bytes,
        usage: Usage,
        finish: str,
        upstream_s: float,
        first_ns: int,
        times: CacheAndUpstream,
    ) -> None:
        """Give back the place, keep the answer, and have the turn counted."""
        plan, gateway = self._plan, self._gateway
        model, way = plan.model, self._way
        gateway.load.end(model.name, ok=True, ttft_s=upstream_s, total_s=upstream_s)
        plan.gate.leave(first_s=None, took_s=upstream_s, overloaded=False, ok=True)
        cost_usd = model.price.cost_usd(usage)
        gateway.flights.land(self.key, self, None)
        if finish in COMPLETE_FINISHES:
            entry = CachedAnswer(
                self.key, self.dialect, False, False, (body,), model.name, plan.tier, plan.tenant,  # noqa: FBT003
                0.0, 0.0, self._request_id, (), usage, cost_usd, upstream_s,
            )  # fmt: skip
            gateway.exact.put(self.key, entry)  # type: ignore[union-attr]
        total_s = (perf_counter_ns() - times.started_ns) / 1e9
        kind = plan.kinds.get(finish)
        if kind is None:
            kind = plan.kinds[finish] = (
                way.dialect, _OK, "", False, plan.tenant, model.name, model.name, model.provider,
                plan.tier, False, "", _MISS, "absent", finish, "", 1, _NAMED, None, "",
            )  # fmt: skip
        told = (
            self._request_id, total_s, self._started_unix_s, *kind,
            (first_ns - times.started_ns) / 1e9, upstream_s, total_s - upstream_s,
            usage, usage.output_tokens, cost_usd, None, 0, (), times, "", None,
        )  # fmt: skip
        way.edge.recorder.settle(_new(TurnRecord, told))
        meaning = gateway.meaning
        if meaning is not None and not meaning.sated(complete=True):
            turn = self._turn_now()
            turn.complete, turn.finish, turn.usage = True, finish, usage
            meaning.remember(self.key, self._asked(), gateway, turn, None)

    # ------------------------------------------------------------------ to the general way

    def _left(self) -> None:
        """The client's connection has ended: that is for the general way, which has a word for it."""
        self._hand_over()
        self._outlet.loop.call_soon(self._tell_of_leaving)

    def _tell_of_leaving(self) -> None:
        """The task that took over has begun, and hears of it if it has not ended already."""
        if self._outlet.abort is not None:
            self._outlet.abort()

    def cancel(self, msg: object = None) -> None:
        """Stop: the server ends, say. As a task's."""
        # Not now: whoever cancels may be walking through the set that this stands in.
        self._outlet.loop.call_soon(self._cancel, msg)

    def _cancel(self, msg: object) -> None:
        if not self._outlet.response_complete:
            self._hand_over()
            task = self._outlet.task
            if task is not None:
                self._outlet.loop.call_soon(task.cancel, msg)

    def _hand_over(self) -> None:
        """Let a task go on with what is under way, from the loop's next turn on; once."""
        if self._handed_over:
            return
        self._handed_over = True
        outlet = self._outlet
        outlet.tasks.discard(self)
        outlet.task = task = EagerTask(outlet.loop, self._go_on(), outlet.ended)
        outlet.tasks.add(task)
        task.start_soon()

    async def _go_on(self) -> None:
        edge, exchange = self._way.edge, self._exchange
        exchange.listener = None
        turn = self._turn_now()
        turn.begun, turn.begun_ns = exchange, exchange.queued_ns
        response = TurnResponse(
            self._asked(),
            self._gateway,
            turn,
            self._outlet,
            edge.pulse,
            edge.recorder,
            self._rest,
        )
        try:
            await response.run()
        finally:
            edge.in_flight.now -= 1

    async def _rest(self, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit) -> None:
        await go_on(self, request, gateway, turn, emit)

    def _asked(self) -> ChatRequest:
        raw: bytes = self._outlet.body  # type: ignore[assignment]
        return plain_request(self.dialect, self.plain, raw, ())

    def _turn_now(self) -> Turn:
        """The turn as the general way would have it at this point."""
        started_ns, cache_ns, looked_ns = self.instants
        timeline = Timeline(started_ns=started_ns)
        timeline.mark("cache", cache_ns, looked_ns)
        tenant = self._plan.tenant
        return Turn(self._request_id, tenant, timeline, _NO_DEADLINE, self._started_unix_s)
