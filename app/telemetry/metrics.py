"""Every metric, declared once: the page of ``GET /metrics`` and how a turn is counted.

Goals: the whole account of a turn costs a few microseconds; label sets are bounded whatever clients
send; a scrape yields to the event loop between families. Plan: the label sets of a turn repeat, so
the cells that belong to one combination are found once and kept under one key, and turns are counted
many at a time: what they have in common is looked up once for all of them. ``docs/metrics.md`` lists
the names, and a test holds it against this file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from time import monotonic

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.domain.turn_record import STAGES, StageName, TurnRecord
from app.telemetry.genai_names import GENAI_NAMES, under_genai_name, with_genai_name
from app.telemetry.guard_metrics import GuardMetrics
from app.telemetry.job_metrics import JobMetrics
from app.telemetry.series import OTHER, Cell, Counter, Family, Gauge, Histogram, HistogramCell
from app.telemetry.state_metrics import StateMetrics
from app.telemetry.turn_batch import TurnBatch, batch_of

STAGE_BOUNDS_S = (
    2e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30,
)  # fmt: skip
"""From a lane (20 us) to a long answer; 3 and 5 s are the bounds of the promise."""
WAIT_BOUNDS_S = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 20, 30,
    60,
)  # fmt: skip
TOKEN_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1,
    2.5,
)  # fmt: skip
OVERHEAD_BOUNDS_S = (
    5e-5, 1e-4, 1.5e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.5, 2,
)  # fmt: skip
LAG_BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1)

_PAUSE_EVERY_CHARS = 32_000
"""A render lets the event loop go on after so much text."""

_MAX_BOUND_TURNS = 4096
"""Combinations of labels whose cells are kept at hand; cleared when full, the cells themselves
stay.
"""


@dataclass(slots=True)
class _Bound:
    """The cells that one combination of labels counts into."""

    once: tuple[Cell, ...]
    """Counted once a turn: the request, and what it was besides."""
    seconds: HistogramCell
    first_token: HistogramCell
    per_token: HistogramCell
    cost: Cell
    tokens: tuple[Cell, Cell, Cell, Cell]


class Metrics:
    """The process's metrics and their registry. One event loop writes; no locks, no globals."""

    def __init__(  # noqa: PLR0915 - a statement a family
        self, models: Iterable[str] = (), tools: Iterable[str] = ()
    ) -> None:
        """``models`` and ``tools`` are the configured names; any other is counted as ``other``."""
        self.registry = CollectorRegistry(auto_describe=False)
        self._families: list[Family[Cell] | Family[HistogramCell]] = []
        self._models = {name: name for name in models} | {"": "none"}
        self._tools = {name: name for name in tools}
        self._bound: dict[tuple[object, ...], _Bound] = {}
        self._running: Callable[[], int] = int  # nobody to ask yet: int() is 0
        self._body_bytes: Callable[[], int] = int
        self._redis_in_use: Callable[[], int] = int

        self.requests = self.counter(
            "slipstream_requests_total",
            "Turns, by dialect, HTTP status (499: the client left), cache outcome and tier.",
            ("dialect", "code", "cache", "tier"),
        )
        self.request_seconds = self.histogram(
            "slipstream_request_seconds",
            "Time from a request's arrival to the end of its response.",
            ("cache",),
            bounds=WAIT_BOUNDS_S,
        )
        self.stage_seconds = self.histogram(
            "slipstream_stage_seconds",
            "Time spent in a stage of one turn; parallel spans of a stage count once.",
            ("stage",),
            bounds=STAGE_BOUNDS_S,
        )
        self.time_to_first_token = self.histogram(
            "slipstream_time_to_first_token_seconds",
            "Time from a request's arrival to the first token sent to the client; streams only.",
            ("model",),
            bounds=WAIT_BOUNDS_S,
        )
        self.time_per_output_token = self.histogram(
            "slipstream_time_per_output_token_seconds",
            "Time from the first to the last token of a stream, over the tokens after the first.",
            ("model",),
            bounds=TOKEN_BOUNDS_S,
        )
        self.gateway_overhead = self.histogram(
            "slipstream_gateway_overhead_seconds",
            "Total time of a turn minus the time in which an upstream worked for it.",
            bounds=OVERHEAD_BOUNDS_S,
        )
        self.tokens = self.counter(
            "slipstream_tokens_total",
            "Tokens of upstream calls by kind; cached and cache_write refer to the vendor's prompt cache.",
            ("model", "kind"),
        )
        self.cost = self.counter(
            "slipstream_cost_usd_total", "Cost of upstream calls in USD.", ("model",)
        )
        self.cache_lookups = self.counter(
            "slipstream_cache_lookups_total",
            "Results of lanes and cache per turn, with the reason.",
            ("outcome", "reason"),
        )
        self.route_decisions = self.counter(
            "slipstream_route_decisions_total",
            "Routing decisions by tier and distance from the threshold (or forced).",
            ("tier", "band"),
        )
        self.errors = self.counter(
            "slipstream_errors_total",
            "Turns that ended in an error, by error code.",
            ("code",),
        )
        self.upstream_errors = self.counter(
            "slipstream_upstream_errors_total",
            "Failed upstream calls, including those that a retry recovered.",
            ("provider", "code"),
        )
        self.semantic_looks = self.counter(
            "slipstream_semantic_looks_total",
            "Semantic cache look-ups on a request's path, by outcome.",
            ("outcome",),
        )
        self.semantic_races = self.counter(
            "slipstream_semantic_races_total",
            "Requests sent to the model while the semantic look-up ran, by which finished first.",
            ("winner",),
        )
        self.semantic_answers = self.counter(
            "slipstream_semantic_answers_total",
            "Fresh answers offered to the semantic cache, by outcome.",
            ("outcome",),
        )
        self.semantic_faults = self.counter(
            "slipstream_semantic_faults_total",
            "Faults of the semantic cache's store, as named on /readyz.",
            ("kind",),
        )
        self.semantic_moved = self.counter(
            "slipstream_semantic_moved_total",
            "Stored questions that were embedded again after a change of the embedding model.",
        )
        self.vector_losses = self.counter(
            "slipstream_vector_process_losses_total",
            "Times that the vector process died or could not be started.",
        )
        self.spans_lost = self.counter(
            "slipstream_spans_lost_total",
            "Turns whose spans were lost: refused by the collector, or the queue was full.",
        )
        self.ledger_lost = self.counter(
            "slipstream_ledger_turns_lost_total",
            "Turns that could not be written to the ledger's file.",
        )
        self.shared_looks = self.counter(
            "slipstream_shared_answers_total",
            "Redis operations for cached answers and calls in flight, by outcome.",
            ("outcome",),
        )
        self.redis_losses = self.counter(
            "slipstream_redis_losses_total",
            "Times that Redis was unreachable, slow or refusing and was bypassed.",
        )
        self.gauge(
            "slipstream_redis_in_use",
            "1 while Redis is used; 0 while it is bypassed or not configured.",
            read=lambda: float(self._redis_in_use()),
        )
        self.escalations = self.counter(
            "slipstream_escalations_total",
            "Fast answers escalated to the powerful tier, by defect and outcome.",
            ("lack", "outcome"),
        )
        self.guards = GuardMetrics(self.counter, self.gauge)
        self.jobs = JobMetrics(self.counter, self.gauge, self.histogram)
        self.state = StateMetrics(self.counter, self.gauge)
        self.disconnects = self.counter(
            "slipstream_client_disconnects_total",
            "Client disconnects by phase: before_headers, before_first_token, mid_stream, json.",
            ("window",),
        )
        self.discarded_tokens = self.counter(
            "slipstream_discarded_tokens_total",
            "Tokens of hedged or speculative work that were discarded.",
        )
        self.tool_calls = self.counter(
            "slipstream_tool_calls_total", "Tool calls made by the gateway.", ("tool", "outcome")
        )
        self.tool_seconds = self.histogram(
            "slipstream_tool_seconds", "Duration of a tool call.", ("tool",), bounds=WAIT_BOUNDS_S
        )
        self.saved_seconds = self.counter(
            "slipstream_saved_seconds_total",
            "Seconds saved compared to the same turn without the technique (docs/metrics.md).",
            ("technique",),
        )
        self.saved_cost = self.counter(
            "slipstream_saved_cost_usd_total",
            "USD saved compared to the same turn without the technique (docs/metrics.md).",
            ("technique",),
        )
        self.loop_lag = self.histogram(
            "slipstream_event_loop_lag_seconds",
            "Delay of a timer on the event loop.",
            bounds=LAG_BOUNDS_S,
        )
        self._of_the_process()
        self._stage: dict[StageName, HistogramCell] = {
            stage: self.stage_seconds.child(stage) for stage in STAGES
        }
        self._overhead = self.gateway_overhead.child()
        self._discarded = self.discarded_tokens.child()
        self.registry.register(_Families(self._families))
        self._process = CollectorRegistry(auto_describe=False)
        for registry in (self.registry, self._process):
            ProcessCollector(registry=registry)
            GCCollector(registry=registry)

    def _of_the_process(self) -> None:
        self.loop_stalls = self.counter(
            "slipstream_event_loop_stalls_total",
            "Times that the event loop was blocked for over a second (docs/runbook.md).",
        )
        self.gauge("slipstream_in_flight", "Turns in flight.", read=lambda: float(self._running()))
        self.gauge(
            "slipstream_body_bytes",
            "Bytes of server.max_bodies_bytes in use by large request bodies in flight.",
            read=lambda: float(self._body_bytes()),
        )
        self.gauge(
            "slipstream_event_loop_tasks",
            "Unfinished tasks of the event loop.",
            read=_tasks,
        )
        self.gauge(
            "slipstream_metric_labels_refused",
            "Label sets counted under `other` because their family was full.",
            read=lambda: float(sum(family.refused for family in self._families)),
        )

    def counter(self, name: str, documentation: str, labels: tuple[str, ...] = ()) -> Counter:
        """Add a counter; other rooms' metrics are made here too, through their port."""
        made = Counter(name, documentation, labels)
        self._families.append(made)
        return made

    def gauge(
        self,
        name: str,
        documentation: str,
        labels: tuple[str, ...] = (),
        read: Callable[[], float] | None = None,
    ) -> Gauge:
        """Add a gauge; ``read`` is called at each scrape (no labels then) and must not block."""
        made = Gauge(name, documentation, labels, read=read)
        self._families.append(made)
        return made

    def histogram(
        self,
        name: str,
        documentation: str,
        labels: tuple[str, ...] = (),
        *,
        bounds: Iterable[float],
    ) -> Histogram:
        """Add a histogram with these upper bounds."""
        made = Histogram(name, documentation, labels, bounds=bounds)
        self._families.append(made)
        return made

    def names(self) -> tuple[str, ...]:
        """The names of all our metrics, in the order of the page."""
        own = tuple(family.name for family in self._families)
        return (*own, *(GENAI_NAMES[name] for name in own if name in GENAI_NAMES))

    def model_label(self, model: str) -> str:
        """The model's label: itself if it is configured, else ``other``; ``none`` where no model
        was asked.
        """
        return self._models.get(model, OTHER)

    def follow_in_flight(self, now: Callable[[], int], body_bytes: Callable[[], int]) -> None:
        """Set the readers of the number of turns in flight and of their bodies' bytes."""
        self._running, self._body_bytes = now, body_bytes

    def follow_redis(self, in_use: Callable[[], int]) -> None:
        """Set the reader of ``slipstream_redis_in_use``."""
        self._redis_in_use = in_use

    def upstream_failed(self, provider: str, code: str) -> None:
        """Count one failed upstream call, including one that a retry recovered."""
        self.upstream_errors.child(provider, code).value += 1

    def escalated(self, lack: str, outcome: str) -> None:
        """Count one escalation."""
        self.escalations.child(lack, outcome).value += 1

    def shadowed(self, outcome: str, usd: float) -> None:
        """Count one shadow run and its cost."""
        self.guards.shadows.child(outcome).value += 1
        self.guards.shadow_cost.child().value += usd

    def hedged(self, outcome: str, tokens: int, usd: float) -> None:
        """Count one second call, and what the loser had generated and cost."""
        self.guards.hedges.child(outcome).value += 1
        self.guards.hedge_cost.child().value += usd
        self._discarded.value += tokens

    def record(self, turn: TurnRecord) -> None:
        """Count a finished turn."""
        self.record_all((turn,))

    def record_all(self, turns: Sequence[TurnRecord]) -> None:
        """Count finished turns of one ``kind``, once each: their labels are looked up once for all."""
        batch = batch_of(turns)
        first, of = batch[0], batch.columns
        key = (
            first.dialect, first.status, first.code, first.cache, first.cache_reason, first.tier,
            first.band, first.routed, first.model, first.disconnect,
        )  # fmt: skip
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bind(key, first)
        for counted in bound.once:
            counted.value += len(batch)
        bound.seconds.observe_all(of.total_s)
        self._stage["total"].observe_all(of.total_s)
        for stage, passed_ns in of.stages.items():
            self._stage[stage].observe_all([each / 1e9 for each in passed_ns])
        self._overhead.observe_all(of.known(of.overhead_s))
        if first.stream:
            for turn in batch:
                if turn.ttft_s is not None:
                    bound.first_token.observe(turn.ttft_s)
                    self._per_token(turn, turn.ttft_s, bound.per_token)
        if first.attempts:
            self._count_calls(batch, bound)
        if any(of.tools):
            for turn in batch:
                self._count_tools(turn)

    def _count_calls(self, turns: TurnBatch, bound: _Bound) -> None:
        """Tokens and money are counted where they were spent: a hit buys none."""
        of = turns.columns
        bound.cost.value += sum(of.cost_usd)
        for cell, tokens in zip(bound.tokens, of.tokens, strict=True):
            cell.value += sum(tokens)
        self._discarded.value += sum(of.discarded_tokens)

    def _per_token(self, turn: TurnRecord, ttft_s: float, cell: HistogramCell) -> None:
        """The mean gap of one stream from an upstream; a replay has none."""
        if not turn.attempts:
            return
        tokens = turn.usage.output_tokens if turn.usage is not None else turn.output_tokens_seen
        if tokens > 1 and turn.total_s > ttft_s:
            cell.observe((turn.total_s - ttft_s) / (tokens - 1))

    def _count_tools(self, turn: TurnRecord) -> None:
        for use in turn.tools:
            name = self._tools.get(use.name, OTHER)
            self.tool_calls.child(name, use.outcome).value += 1
            self.tool_seconds.child(name).observe(use.duration_ns / 1e9)

    def _bind(self, key: tuple[object, ...], turn: TurnRecord) -> _Bound:
        """Find the cells of a combination of labels that was not seen before, or not lately."""
        model = self.model_label(turn.model)
        cache, tier = turn.cache or "none", turn.tier or "none"
        band = (turn.band or "none") if turn.routed else "forced"
        once = [self.requests.child(turn.dialect, str(turn.status), cache, tier)]
        if turn.cache:
            once.append(self.cache_lookups.child(cache, turn.cache_reason or "none"))
        if turn.tier:
            once.append(self.route_decisions.child(tier, band))
        if turn.code:
            once.append(self.errors.child(turn.code))
        if turn.disconnect:
            once.append(self.disconnects.child(turn.disconnect))
        bound = _Bound(
            once=tuple(once),
            seconds=self.request_seconds.child(cache),
            first_token=self.time_to_first_token.child(model),
            per_token=self.time_per_output_token.child(model),
            cost=self.cost.child(model),
            tokens=(
                self.tokens.child(model, "input"),
                self.tokens.child(model, "cached"),
                self.tokens.child(model, "cache_write"),
                self.tokens.child(model, "output"),
            ),
        )
        if len(self._bound) >= _MAX_BOUND_TURNS:
            self._bound.clear()
        self._bound[key] = bound
        return bound

    async def render(self) -> bytes:
        """The page of ``GET /metrics``. Other tasks run every few dozen series (some 0.1 ms); each
        number is of the moment at which it was read.
        """
        self.guards.refresh()
        self.state.refresh()
        pieces: list[str] = []
        held = 0
        for family in tuple(self._families):
            for piece in chain(family.pieces(), under_genai_name(family)):
                pieces.append(piece)
                held += len(piece)
                if held > _PAUSE_EVERY_CHARS:
                    held = 0
                    await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "".join(pieces).encode() + generate_latest(self._process)


class _Families(Collector):
    """Our families as prometheus-client sees them."""

    def __init__(self, families: list[Family[Cell] | Family[HistogramCell]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Give each family once, and under its GenAI name where it has one."""
        for family in tuple(self._families):
            found = family.collect()
            yield found
            renamed = with_genai_name(found)
            if renamed is not None:
                yield renamed


def _tasks() -> float:
    try:
        return float(len(asyncio.all_tasks()))
    except RuntimeError:  # read outside an event loop
        return 0.0


class LoopLag:
    """Samples how late the event loop runs its timers; a chain of ``call_later``, not a task."""

    INTERVAL_S = 0.25

    def __init__(self, metrics: Metrics) -> None:
        self._cell = metrics.loop_lag.child()
        self._timer: asyncio.TimerHandle | None = None
        self.ran_s = float("inf")
        """When the loop last ran the timer (``time.monotonic``); infinite once nobody waits for it."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to sample on ``loop``."""
        self._again(loop)

    def stop(self) -> None:
        """End; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.ran_s = float("inf")

    def _again(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ran_s = monotonic()
        self._timer = loop.call_later(self.INTERVAL_S, self._tick, loop, loop.time())

    def _tick(self, loop: asyncio.AbstractEventLoop, armed_s: float) -> None:
        self._cell.observe(max(0.0, loop.time() - armed_s - self.INTERVAL_S))
        self._again(loop)
