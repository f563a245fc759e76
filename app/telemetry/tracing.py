"""OpenTelemetry spans of finished turns, by OTLP over HTTP; not loaded where no endpoint is set.

Theory of operation. A turn is already timed once, by its timeline. So no span is begun while it runs:
when it is over its record goes into a bounded queue (an append), and a thread makes the spans of it and
sends them in batches through OpenTelemetry's own exporter, which retries. A collector that is slow or
away costs spans, which are counted, and never a request. Names and attributes are those of the GenAI
semantic conventions where they exist, and ``slipstream.*`` for what they do not know; like every other
view of a turn they hold no prompt, answer or key.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from app.domain.trace_context import TurnTrace
from app.domain.turn_record import TurnRecord

QUEUE_TURNS = 8_192
_BATCH_TURNS = 64
_INTERVAL_S = 1.0
_PATH = "/v1/traces"
_EXPORT_TIMEOUT_S = 5.0
_CLIENT_LEFT = 499

Attribute = str | bool | int | float | Sequence[str]
Attributes = dict[str, Attribute]

_AGENT = "agent/"


class SpanSender:
    """Sends the spans of turns; ``extend`` never waits and never raises."""

    def __init__(
        self,
        endpoint: str,
        version: str,
        *,
        on_lost: Callable[[int], None],
    ) -> None:
        """``endpoint`` is the collector's base URL; ``on_lost`` is told how many turns' spans were lost."""
        url = endpoint.rstrip("/")
        self._exporter: SpanExporter = OTLPSpanExporter(
            endpoint=url if url.endswith(_PATH) else url + _PATH, timeout=_EXPORT_TIMEOUT_S
        )
        self._resource = Resource.create({SERVICE_NAME: "slipstream", SERVICE_VERSION: version})
        self._scope = InstrumentationScope("slipstream", version)
        self._on_lost = on_lost
        self._queue: deque[TurnRecord] = deque()
        self._news = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="slipstream-spans", daemon=True)

    def start(self) -> None:
        """Begin to send in the background."""
        self._thread.start()

    def extend(self, records: Sequence[TurnRecord]) -> None:
        """Queue finished turns; those for which there is no room are lost, and counted."""
        room = QUEUE_TURNS - len(self._queue)
        if len(records) > room:
            self._on_lost(len(records) - room)
            records = records[:room]
        self._queue.extend(records)
        if len(self._queue) >= _BATCH_TURNS:
            self._news.set()

    def close(self) -> None:
        """Send what is left, within the exporter's own time limit, and end the thread; idempotent."""
        self._stopping = True
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * _EXPORT_TIMEOUT_S)
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._stopping or self._queue:
            self._news.wait(_INTERVAL_S)
            self._news.clear()
            while self._queue:
                self._send(
                    [self._queue.popleft() for _ in range(min(_BATCH_TURNS, len(self._queue)))]
                )

    def _send(self, turns: list[TurnRecord]) -> None:
        spans = [span for turn in turns for span in self.spans(turn)]
        if not spans:
            return
        try:
            result = self._exporter.export(spans)
        # The edge of a thread, and another's exporter: whatever it raises must not end the thread.
        except Exception:  # noqa: BLE001
            result = SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            self._on_lost(len(turns))

    def spans(self, turn: TurnRecord) -> Iterator[ReadableSpan]:
        """The spans of one turn: the request, its stages, its calls upstream and its tools."""
        trace = TurnTrace(turn.request_id, turn.started_unix_s, turn.traceparent)
        if not trace.sampled:
            return
        start_ns = int(turn.started_unix_s * 1e9)
        caller = (
            None
            if trace.parent is None
            else _context(trace.trace_id, trace.parent.span_id, remote=True)
        )
        root = _context(trace.trace_id, trace.span_id("turn"))
        yield self._span(
            _name(turn), root, caller, SpanKind.SERVER, start_ns,
            start_ns + int(turn.total_s * 1e9), _turn_attributes(turn), _status(turn),
        )  # fmt: skip
        yield from self._stages(turn, trace, root, start_ns)
        for number, use in enumerate(turn.tools):
            begun_ns = start_ns + use.start_ns
            yield self._span(
                f"execute_tool {use.name}", _context(trace.trace_id, trace.span_id("tool", number)),
                root, SpanKind.CLIENT, begun_ns, begun_ns + use.duration_ns,
                {
                    "gen_ai.operation.name": "execute_tool",
                    "gen_ai.tool.name": use.name,
                    "slipstream.tool.outcome": use.outcome,
                    "slipstream.tool.speculative": use.speculative,
                },
                Status(StatusCode.OK if use.outcome in {"ok", "cached"} else StatusCode.UNSET),
            )  # fmt: skip

    def _stages(
        self, turn: TurnRecord, trace: TurnTrace, root: SpanContext, start_ns: int
    ) -> Iterator[ReadableSpan]:
        if turn.times is None:
            return
        counted: dict[str, int] = {}
        contexts: list[SpanContext] = []
        for span in turn.times.spans():
            number = counted.get(span.stage, 0)
            counted[span.stage] = number + 1
            context = _context(trace.trace_id, trace.span_id(span.stage, number))
            contexts.append(context)
            parent = contexts[span.parent] if 0 <= span.parent < len(contexts) - 1 else root
            begun_ns = start_ns + span.start_ns
            upstream = span.stage == "upstream"
            attributes: Attributes = {"slipstream.stage": span.stage}
            if span.detail:
                attributes["slipstream.detail"] = span.detail
            if upstream:
                attributes |= _call_attributes(turn)
            yield self._span(
                f"chat {turn.model}" if upstream else span.stage, context, parent,
                SpanKind.CLIENT if upstream else SpanKind.INTERNAL,
                begun_ns, begun_ns + span.duration_ns, attributes, Status(StatusCode.UNSET),
            )  # fmt: skip

    def _span(  # noqa: PLR0917 - a span is what it is made of
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        status: Status,
    ) -> ReadableSpan:
        return ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            kind=kind,
            status=status,
            start_time=start_ns,
            end_time=max(start_ns, end_ns),
            instrumentation_scope=self._scope,
        )


def _context(trace_id: str, span_id: str, *, remote: bool = False) -> SpanContext:
    return SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=remote,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def _name(turn: TurnRecord) -> str:
    asked = turn.requested_model or "unknown"
    if asked.startswith(_AGENT):
        return f"invoke_agent {asked.removeprefix(_AGENT)}"
    return f"chat {asked}"


def _turn_attributes(turn: TurnRecord) -> Attributes:
    asked = turn.requested_model
    agent = asked.startswith(_AGENT)
    attributes: Attributes = {
        "gen_ai.operation.name": "invoke_agent" if agent else "chat",
        "gen_ai.request.model": asked,
        "http.request.method": "POST",
        "http.response.status_code": turn.status,
        "slipstream.request_id": turn.request_id,
        "slipstream.dialect": turn.dialect,
        "slipstream.stream": turn.stream,
        "slipstream.tenant": turn.tenant,
        "slipstream.cost_usd": turn.cost_usd,
        "slipstream.attempts": turn.attempts,
    }
    if agent:
        attributes["gen_ai.agent.name"] = asked.removeprefix(_AGENT)
    said = {
        "slipstream.cache": turn.cache,
        "slipstream.cache.reason": turn.cache_reason,
        "slipstream.tier": turn.tier,
        "slipstream.reason": turn.reason,
        "slipstream.disconnect": turn.disconnect,
        "error.type": turn.code,
    }
    attributes.update({name: value for name, value in said.items() if value})
    if turn.ttft_s is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = turn.ttft_s
    return attributes | _call_attributes(turn)


def _call_attributes(turn: TurnRecord) -> Attributes:
    attributes: Attributes = {}
    if turn.provider:
        attributes["gen_ai.provider.name"] = turn.provider
    if turn.model:
        attributes["gen_ai.response.model"] = turn.model
    if turn.finish:
        attributes["gen_ai.response.finish_reasons"] = (turn.finish,)
    if turn.usage is not None:
        attributes["gen_ai.usage.input_tokens"] = turn.usage.input_tokens
        attributes["gen_ai.usage.output_tokens"] = turn.usage.output_tokens
        attributes["gen_ai.usage.cache_read.input_tokens"] = turn.usage.cached_tokens
        attributes["gen_ai.usage.cache_creation.input_tokens"] = turn.usage.cache_write_tokens
    return attributes


def _status(turn: TurnRecord) -> Status:
    """An error is ours or the upstream's; what the client did wrong is not the server's failure."""
    if turn.status >= HTTPStatus.INTERNAL_SERVER_ERROR or (
        turn.code and turn.status == HTTPStatus.OK
    ):
        return Status(StatusCode.ERROR, turn.code or str(turn.status))
    return Status(StatusCode.UNSET if turn.status == _CLIENT_LEFT else StatusCode.OK)
