"""Where one request's time went, kept as it happens.

Goals: a stage costs half a microsecond, so that timing everything is free beside a request of 130;
spans may overlap and nest, because tools and speculation do. Plan: one small object per span is
both the record and the context manager; nothing is formatted until a header or a trace asks.
Invariant: times are nanoseconds of the one clock that was handed in (``time.perf_counter_ns``,
which on Linux is ``time.monotonic_ns``), so marks made by a provider's ``CallTiming`` fit beside
ours.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from types import TracebackType
from typing import Self

from app.domain.turn_record import STAGES, Span, StageName

Clock = Callable[[], int]
"""Nanoseconds of a monotonic clock."""

DETAIL_CHARS = 120
"""Longer details are cut: a span is a label, and content has no place in it."""

MAX_SPANS = 256
"""A run of an agent may have hundreds of steps; later spans are dropped and counted, memory stays
bounded.
"""

_OPEN = -1
"""The end of a span that has none yet; clocks start at 0."""

_ENTRIES: dict[StageName, bytes] = {stage: b", %s;dur=" % stage.encode() for stage in STAGES}
_HUNDREDTHS = tuple(b"%d.%02d" % divmod(hundredths, 100) for hundredths in range(2048))
"""The first 20 ms in the header's steps: to look a number up costs a tenth of printing it."""
_TABLED = len(_HUNDREDTHS)


class OpenSpan:
    """A span under way; leaving the ``with`` block ends it, by an exception too. ``Timeline`` makes them."""

    __slots__ = ("_clock", "detail", "end_ns", "parent", "stage", "start_ns")

    _clock: Clock
    stage: StageName
    detail: str
    parent: OpenSpan | None
    start_ns: int
    end_ns: int

    def end(self) -> None:
        """End the span now; idempotent."""
        if self.end_ns == _OPEN:
            self.end_ns = self._clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.end_ns == _OPEN:
            self.end_ns = self._clock()


class Timeline:
    """The spans of one turn. Made when the request arrives; used by one event loop."""

    __slots__ = ("_clock", "_settled", "_spans", "dropped", "started_ns")

    def __init__(self, clock: Clock = perf_counter_ns, started_ns: int | None = None) -> None:
        self._clock = clock
        self.started_ns = clock() if started_ns is None else started_ns
        self.dropped = 0
        """Spans that were not kept because there were ``MAX_SPANS`` already."""
        self._spans: list[OpenSpan] = []
        self._settled: dict[StageName, int] | None = None
        """The stages' times, counted once for all who read a settled turn."""

    def now_ns(self) -> int:
        """The instant on this timeline's clock."""
        return self._clock()

    def elapsed_s(self) -> float:
        """Seconds since the request arrived."""
        return (self._clock() - self.started_ns) / 1e9

    def stage(self, stage: StageName, detail: str = "", parent: OpenSpan | None = None) -> OpenSpan:
        """Begin a span now. Use it in ``with``, or call ``end()``; ``detail`` may be set until the
        turn settles.
        """
        clock = self._clock
        # Without __init__: a stage is begun several times a request, and a call costs as much as the rest.
        span = OpenSpan()
        span._clock = clock  # noqa: SLF001 - this is its constructor
        span.stage, span.detail, span.parent = stage, detail, parent
        span.start_ns, span.end_ns = clock(), _OPEN
        self._settled = None
        spans = self._spans
        if len(spans) < MAX_SPANS:
            spans.append(span)
        else:
            self.dropped += 1
        return span

    def mark(
        self,
        stage: StageName,
        start_ns: int,
        end_ns: int,
        detail: str = "",
        parent: OpenSpan | None = None,
    ) -> OpenSpan:
        """Put down a span that others timed on the same clock; an end before its start counts as no
        time.
        """
        span = self.stage(stage, detail, parent)
        span.start_ns = start_ns
        span.end_ns = max(start_ns, end_ns)
        return span

    def settle(self) -> None:
        """End the spans that a failure or a cancellation left open; the timeline may then be kept
        and read.
        """
        if self._settled is not None:
            return  # counted when every span had ended
        passed: dict[StageName, int] = {}
        for span in self._spans:
            ended_ns = span.end_ns
            if ended_ns == _OPEN:
                span.end_ns = ended_ns = self._clock()
            passed[span.stage] = ended_ns - span.start_ns
        # Fewer stages than spans: some stage ran more than once.
        self._settled = passed if len(passed) == len(self._spans) else self._overlapping_times_ns()

    def spans(self) -> tuple[Span, ...]:
        """Every span so far, by start, relative to the turn's; one still open counts up to now."""
        now_ns, zero_ns = self._clock(), self.started_ns
        ordered = sorted(self._spans, key=_start_ns)
        places = {id(span): place for place, span in enumerate(ordered)}
        return tuple(
            Span(
                span.stage,
                span.start_ns - zero_ns,
                (now_ns if span.end_ns == _OPEN else span.end_ns) - span.start_ns,
                span.detail[:DETAIL_CHARS],
                -1 if span.parent is None else places.get(id(span.parent), -1),
            )
            for span in ordered
        )

    def stage_times_ns(self) -> dict[StageName, int]:
        """The time that passed in each stage up to now; overlapping spans of one stage count once.

        One pass in order of creation, which is the order of starts but for spans that others timed:
        where those overlap an earlier one of their stage, the time between is not counted twice.
        """
        if self._settled is not None:
            return self._settled
        passed: dict[StageName, int] = {}
        settled = True
        for span in self._spans:
            stage, ended_ns = span.stage, span.end_ns
            if stage in passed:
                return self._overlapping_times_ns()
            if ended_ns == _OPEN:
                settled = False
                ended_ns = self._clock()
            passed[stage] = ended_ns - span.start_ns
        if settled:
            self._settled = passed  # until another span begins
        return passed

    def _overlapping_times_ns(self) -> dict[StageName, int]:
        """As ``stage_times_ns``, where a stage has several spans."""
        now_ns = _OPEN
        passed: dict[StageName, int] = {}
        ends: dict[StageName, int] = {}
        for span in self._spans:
            stage, start_ns, end_ns = span.stage, span.start_ns, span.end_ns
            if end_ns == _OPEN:
                if now_ns == _OPEN:
                    now_ns = self._clock()
                end_ns = now_ns
            last_ns = ends.get(stage)
            if last_ns is None:
                passed[stage] = end_ns - start_ns
                ends[stage] = end_ns
            elif end_ns > last_ns:
                passed[stage] += end_ns - max(start_ns, last_ns)
                ends[stage] = end_ns
        return passed

    def server_timing(self) -> bytes:
        """The ``server-timing`` header's value: each stage that has run, and ``total``, in
        milliseconds up to now.
        """
        now_ns = self._clock()
        pieces: list[bytes] = []
        for span in self._spans:
            entry, ended_ns = _ENTRIES[span.stage], span.end_ns
            if entry in pieces:  # a stage that ran more than once
                return self._server_timing()
            hundredths = (
                (now_ns if ended_ns == _OPEN else ended_ns) - span.start_ns + 5_000
            ) // 10_000
            pieces += (
                entry,
                _HUNDREDTHS[hundredths] if hundredths < _TABLED else _printed(hundredths),
            )
        hundredths = (now_ns - self.started_ns + 5_000) // 10_000
        pieces += (
            b", total;dur=",
            _HUNDREDTHS[hundredths] if hundredths < _TABLED else _printed(hundredths),
        )
        return b"".join(pieces)[2:]

    def _server_timing(self) -> bytes:
        """As ``server_timing``, where a stage has several spans."""
        pieces = [
            _ENTRIES[stage] + _printed((passed_ns + 5_000) // 10_000)
            for stage, passed_ns in self.stage_times_ns().items()
        ]
        total_ns = self._clock() - self.started_ns
        pieces.append(b", total;dur=" + _printed((total_ns + 5_000) // 10_000))
        return b"".join(pieces)[2:]


def after_cache(cache_ns: int, total_ns: int) -> bytes:
    """As ``server_timing`` says it of a look into the cache alone: the rest of one header line, and the whole
    of the next.
    """
    cache, total = (cache_ns + 5_000) // 10_000, (total_ns + 5_000) // 10_000
    return b"\r\nserver-timing: cache;dur=%b, total;dur=%b\r\n" % (
        _HUNDREDTHS[cache] if cache < _TABLED else _printed(cache),
        _HUNDREDTHS[total] if total < _TABLED else _printed(total),
    )


def after_upstream(cache_ns: int, upstream_ns: int, total_ns: int) -> tuple[bytes, ...]:
    """As ``after_cache``, with a call upstream behind the look; in pieces, to be joined with others."""
    cache, upstream = (cache_ns + 5_000) // 10_000, (upstream_ns + 5_000) // 10_000
    total = (total_ns + 5_000) // 10_000
    return (
        b"\r\nserver-timing: cache;dur=",
        _HUNDREDTHS[cache] if cache < _TABLED else _printed(cache),
        b", upstream;dur=",
        _HUNDREDTHS[upstream] if upstream < _TABLED else _printed(upstream),
        b", total;dur=",
        _HUNDREDTHS[total] if total < _TABLED else _printed(total),
        b"\r\n",
    )


def _printed(hundredths: int) -> bytes:
    return b"%d.%02d" % divmod(hundredths, 100)


def _start_ns(span: OpenSpan) -> int:
    return span.start_ns
