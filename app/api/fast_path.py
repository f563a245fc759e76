"""The fast path: serves an ordinary request in the callbacks of two sockets, without a task.

Theory of operation. Most requests are alike: a plain JSON body, a model by its name, no gateway options, a
caller without limits; a cached answer, or a miss and one upstream's answer. What such a request needs is
known in advance, so it is computed once per model and tenant as a ``RequestPlan``. One function goes from the
request's bytes to the upstream's socket, another from the answer's bytes to the client's socket and to
accounting. That costs a third of the general path, whose coroutines, spans and events cover every case.

Anything that is not ordinary leaves for the general path, at one of two points:

* ``try_serve`` returns False before anything has started.
* Once the upstream is asked, everything but a sound answer, whole or frame by frame (an error, a failure, a
  stale connection, a client that leaves or reads slowly, a shutdown, a request that joins the flight), is
  *handed over*: a ``TurnResponse`` continues with the same exchange, flight and timestamps. Those cases are
  handled there alone.

For an ordinary request this does what ``app.pipeline.turn``, ``converse`` and ``replay`` do; a test compares
the two paths header by header and field by field of the turn's record.
"""

from __future__ import annotations

from time import perf_counter_ns, time
from typing import TYPE_CHECKING, Final

from app.api.body_memory import SMALL_BYTES
from app.api.body_template import BodyTemplate, learn_body
from app.api.fast_request import NAMED, OK, FastRequest, RequestPlan, new
from app.api.fast_stream import FastStream
from app.api.native import NativeOutlet, status_line
from app.api.request_parsing import request_id_of, vendor_id_line
from app.api.response import JSON_TYPE, STREAM_TYPE
from app.cache.exact import CachedAnswer, RenderedHit
from app.cache.key import plain_key, plain_key_prefix
from app.cache.semantic import route_name
from app.domain.chat import Dialect, PlainRequest
from app.domain.decisions import CacheOutcome
from app.domain.models import Model
from app.domain.turn_record import DEFAULTS_AFTER_TIMES, TurnRecord
from app.errors import GatewayError
from app.pipeline.gateway import Gateway
from app.pipeline.limited import LimitedProvider
from app.pipeline.turn import serve
from app.providers.upstream_request import model_fields, splice_plain
from app.providers.wire import WireProvider
from app.telemetry.fixed_timelines import CacheOnlyTimes
from app.telemetry.timeline import after_cache

if TYPE_CHECKING:
    from app.api.head_template import HeadTemplate
    from app.api.inference import Edge  # needs this module
    from app.domain.model_call import Headers

_MOST_PLANS: Final = 4_096
_MOST_BODIES: Final = 256
_MOST_REPEATED: Final = 2_048
_MOST_REPEATED_BYTES: Final = 4_096
"""Together they bound the memory for repeated requests: 8 MiB."""
_ENDLESS: Final = 1 << 62
_EXACT: Final = CacheOutcome.EXACT
_ANSWERED_BEFORE: Final = "the same request was answered before"
_NOTHING: Final = None, b""
_MESSAGES: Final = Dialect.MESSAGES
_object = object.__new__


class FastPath:
    """The fast path of one endpoint, for clients with the same forwarded headers; one event loop owns it."""

    def __init__(self, dialect: Dialect, edge: Edge, said: Headers = ()) -> None:
        """Serve ``dialect`` with what ``edge`` holds, to clients that say ``said`` to the vendor."""
        self.dialect, self.edge, self.forwarded = dialect, edge, said
        self.gateway = edge.gateway
        self.codec = edge.gateway.codecs[dialect]
        self._read = self.codec.read_plain
        self.may_ask_for_usage = dialect is Dialect.CHAT
        self._max_bytes = min(SMALL_BYTES, edge.max_body_bytes)
        self._plans: dict[tuple[str, str], RequestPlan] = {}
        """By model and tenant."""
        self._bodies: dict[tuple[str, bytes, bytes], BodyTemplate] = {}
        """Body templates of all connections, by tenant and by the bytes around the text."""
        self._repeated: dict[bytes, tuple[RequestPlan, bytes]] = {}
        """Repeated bodies: their plan and cache key."""

    def try_serve(  # noqa: C901, PLR0911, PLR0912, PLR0915 - one question after the other, in one piece
        self, outlet: NativeOutlet, head: HeadTemplate
    ) -> bool:
        """Serve the request, now or when its answer comes; returns False where it is not an ordinary one.

        What ``head`` has found says who calls, and nothing else.
        """
        started_ns, headers = perf_counter_ns(), head.headers
        edge, gateway = self.edge, self.gateway
        in_flight = edge.in_flight
        raw: bytes = outlet.body  # type: ignore[assignment]
        if in_flight.draining or in_flight.now >= in_flight.most or len(raw) > self._max_bytes:
            return False
        try:
            caller = edge.authenticator.caller(
                headers.get(b"authorization"), headers.get(b"x-api-key")
            )
        except GatewayError:
            return False
        if caller.guard is not None:
            return False
        if self._repeated and self._serve_repeated(outlet, headers, caller.tenant, started_ns):
            return True
        known = head.body_template
        text = None if known is None else known.text_of(raw)
        if known is not None and text is not None and known.plan.tenant == caller.tenant:
            plan, plain, stream, wants_usage = known.plan, None, False, False
            cache_ns = perf_counter_ns()
            key = known.key(text)
        else:
            known, plain = None, self._read(raw)
            if plain is None:
                return False
            # Taken apart once: to name a part of it costs as much as ten of these.
            _, _, _, _, _, name, stream, usage_shown = plain
            found = self._plans.get((name, caller.tenant)) or self._find_plan(name, caller.tenant)
            if found is None:
                return False
            plan, wants_usage = found, stream and not usage_shown and self.may_ask_for_usage
            cache_ns = perf_counter_ns()
            try:
                key = plain_key(plan.key_start, plain)
            except ValueError:  # text that cannot be encoded: the general path names it
                return False
        entry = gateway.exact.get(key)  # type: ignore[union-attr]
        looked_ns = perf_counter_ns()
        request_id = request_id_of(headers.get(b"x-request-id"))
        if entry is not None:
            if stream:
                return False
            times = new(CacheOnlyTimes, (started_ns, cache_ns, looked_ns - cache_ns))
            return self._serve_hit(
                entry, plan, outlet, request_id, times
            ) and self._remember_repeated(raw, plan, key)
        semantic = gateway.semantic
        looks = semantic is not None and semantic.looks_up(plan.route)
        if looks and not semantic.races_for(plan.tenant):  # type: ignore[union-attr]
            return False
        if gateway.flights.running(key) is not None:
            return False
        if plan.keeps_body and not wants_usage:
            body: bytes | None = raw
        elif known is not None and text is not None:
            body = b"".join((known.upstream_prefix, text, known.upstream_suffix))
        else:
            body = splice_plain(raw, plan.model_fields, wants_usage)
        gate = plan.gate
        if (
            body is None
            or len(body) >= plan.prompt_cache_bytes
            or gate.waiting
            or gate.in_use >= gate.limit
        ):
            return False
        gate.in_use += 1  # as try_enter, without a call
        asked = _object(FastStream if stream else FastRequest)
        asked.prepare(self, plan, outlet, key, request_id)
        asked.parsed, asked.instants = plain, (started_ns, cache_ns, looked_ns)
        exchange = plan.send(plan.request_start, body, plan.timeouts, b"POST", asked)
        if exchange is None:
            gate.release(first_s=None, took_s=0.0, overloaded=False, ok=False)
            return False
        asked.on_sent(exchange)
        if looks:
            asked.race()
        if plain is not None and not stream and head.lessons_left:
            self._learn_body(head, raw, plain, plan)
        return True

    def _learn_body(
        self, head: HeadTemplate, raw: bytes, plain: PlainRequest, plan: RequestPlan
    ) -> None:
        """Remember the body's template for requests with the same head; equal templates are shared."""
        head.lessons_left -= 1
        known = learn_body(raw, plain, plan, self._read)
        if known is not None:
            if len(self._bodies) >= _MOST_BODIES:
                self._bodies.clear()
            sort = plan.tenant, known.prefix, known.suffix
            head.body_template = self._bodies.setdefault(sort, known)

    def _remember_repeated(self, raw: bytes, plan: RequestPlan, key: bytes) -> bool:
        """Remember a body that was a hit, so that it need not be parsed again; returns True."""
        if len(raw) <= _MOST_REPEATED_BYTES:
            if len(self._repeated) >= _MOST_REPEATED:
                self._repeated.clear()
            self._repeated[raw] = plan, key
        return True

    def _serve_repeated(
        self, outlet: NativeOutlet, headers: dict[bytes, bytes], tenant: str, started_ns: int
    ) -> bool:
        """Serve the cached answer of a remembered body; returns False where there is none."""
        raw: bytes = outlet.body  # type: ignore[assignment]
        plan, key = self._repeated.get(raw, _NOTHING)
        if plan is None or plan.tenant != tenant:
            return False
        cache_ns = perf_counter_ns()
        entry = self.gateway.exact.get(key)  # type: ignore[union-attr]
        if entry is None:
            del self._repeated[raw]
            return False
        times = new(CacheOnlyTimes, (started_ns, cache_ns, perf_counter_ns() - cache_ns))
        return self._serve_hit(
            entry, plan, outlet, request_id_of(headers.get(b"x-request-id")), times
        )

    def _find_plan(self, name: str, tenant: str) -> RequestPlan | None:
        """The plan for ``name``; None where the general path must decide. Memoised."""
        plan = self._make_plan(name, tenant)
        if plan is not None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[name, tenant] = plan
        return plan

    def _make_plan(self, name: str, tenant: str) -> RequestPlan | None:
        gateway = self.gateway
        model = gateway.models.get(name)
        if model is None or self.edge.answer is not serve or not _is_ordinary(gateway):
            return None
        rules = (gateway.contracts, gateway.layouts, gateway.batching)
        if any(each is not None and each.concerns(name, tenant) for each in rules):
            return None
        provider = gateway.providers[model.provider]
        wire = provider.inner if type(provider) is LimitedProvider else None
        if (
            type(provider) is not LimitedProvider
            or type(wire) is not WireProvider
            or self.dialect not in wire.dialects()
            or self.dialect is Dialect.RESPONSES  # which may turn out not to be spoken after all
        ):
            return None
        return RequestPlan(
            tenant,
            model,
            model.tier.value,
            plain_key_prefix((tenant, "", name, "", 0), self.forwarded),
            model_fields(name, model.upstream_model),
            name == model.upstream_model,
            provider.limiter,
            gateway.load.deployment(name),
            route_name(tenant, name),
            self._head(JSON_TYPE, model),
            self._head(STREAM_TYPE, model),
            wire,
            *wire.send_parameters(self.dialect, self.forwarded),
            _ENDLESS if gateway.prompts is None else gateway.prompts.min_bytes,
            {},
        )

    def _head(self, content_type: bytes, model: Model) -> bytes:
        """The beginning of a miss's response, up to the request's id."""
        tier = model.tier.value
        lines = self.edge.heartbeat.head_lines(content_type, CacheOutcome.MISS, model, tier, NAMED)
        return status_line(OK) + lines

    def _serve_hit(
        self,
        entry: CachedAnswer,
        plan: RequestPlan,
        outlet: NativeOutlet,
        request_id: str,
        times: CacheOnlyTimes,
    ) -> bool:
        """Serve a cached answer as ``serve_cached`` does; False where this form was never rendered."""
        ready = entry.ready
        # Known by the plan's kinds, which are its own and hold nothing else alive.
        if ready is None or ready[0] is not plan.record_parts:
            ready = entry.ready = self._ready_hit(entry, plan)
            if ready is None:
                return False
        _, head, body, kind, rest = ready
        entry.hits += 1
        started_ns, _, cache_took_ns = times
        passed_ns = perf_counter_ns() - started_ns
        passed = after_cache(cache_took_ns, passed_ns)
        own_id = vendor_id_line(_MESSAGES, request_id) if self.dialect is _MESSAGES else b""
        outlet.send_whole((head, request_id.encode(), passed, own_id), body)
        total_s = (perf_counter_ns() - started_ns) / 1e9
        told = (
            request_id, total_s, time() - total_s, *kind, passed_ns / 1e9, *rest, times,
            *DEFAULTS_AFTER_TIMES,
        )  # fmt: skip
        self.edge.recorder.settle(new(TurnRecord, told))
        return True

    def _ready_hit(self, entry: CachedAnswer, plan: RequestPlan) -> RenderedHit | None:
        """The parts of serving ``entry`` that are the same each time."""
        rendered = entry.rendered
        body = None if rendered is None else rendered.get((self.dialect, False, False))
        if body is None or not entry.gate_passed or not entry.readable:
            return None
        model = self.gateway.models.get(entry.model)
        lines = self.edge.heartbeat.head_lines(
            JSON_TYPE, _EXACT, model, entry.tier, _ANSWERED_BEFORE
        )
        kind = (
            self.dialect, OK, "", False, plan.tenant, plan.model.name,
            "" if model is None else model.name, "" if model is None else model.provider,
            entry.tier, False, "", _EXACT, "exact", "", "", 0,
            _ANSWERED_BEFORE, None, entry.id,
        )  # fmt: skip
        rest = 0.0, None, entry.usage, 0, 0.0, entry.cost_usd, 0, ()
        return plan.record_parts, status_line(OK) + lines, body, kind, rest


def _is_ordinary(gateway: Gateway) -> bool:
    """Whether nothing is configured that looks at every request."""
    return (
        gateway.exact is not None
        and gateway.shared is None
        and gateway.sharing is None
        and not gateway.tracing
    )
