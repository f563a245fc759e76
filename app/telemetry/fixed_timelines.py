"""Timelines of ordinary turns, whose stages are known in advance, as plain tuples.

A ``Timeline`` allows spans that nest, overlap and repeat. A turn with a fixed sequence of stages needs none
of that: these tuples offer the same reading interface, and the stage times of many at once by column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from app.domain.turn_record import Span, StageName
from app.telemetry.timeline import DETAIL_CHARS


class CacheUpstreamTimes(NamedTuple):
    """A cache look-up, then one upstream call; instants in nanoseconds of the timeline's clock.

    It holds durations rather than end times: the caller has just computed them, and computing them again for
    every turn of a batch would cost as much as counting the turn.
    """

    started_ns: int
    cache_ns: int
    cache_took_ns: int
    sent_ns: int
    upstream_took_ns: int
    label: str
    """The label of the model that was called."""

    def spans(self) -> tuple[Span, ...]:
        """Every span, by start."""
        zero_ns = self.started_ns
        return (
            Span("cache", self.cache_ns - zero_ns, self.cache_took_ns),
            Span(
                "upstream",
                self.sent_ns - zero_ns,
                self.upstream_took_ns,
                self.label[:DETAIL_CHARS],
            ),
        )

    def stage_times_ns(self) -> dict[StageName, int]:
        """The time that passed in each stage."""
        return {"cache": self.cache_took_ns, "upstream": self.upstream_took_ns}

    @staticmethod
    def by_stage(times: Sequence[tuple[int, ...]]) -> dict[StageName, Sequence[int]]:
        """The time that passed in each stage, in the order of ``times``."""
        _, _, cache_took_ns, _, upstream_took_ns, _ = zip(*times, strict=True)
        return {"cache": cache_took_ns, "upstream": upstream_took_ns}


class CacheUpstreamStreamTimes(NamedTuple):
    """A cache look-up, an upstream call, and the stream of its answer."""

    started_ns: int
    cache_ns: int
    cache_took_ns: int
    sent_ns: int
    upstream_took_ns: int
    first_ns: int
    stream_took_ns: int
    label: str
    """The label of the model that was called."""

    def spans(self) -> tuple[Span, ...]:
        """Every span, by start."""
        zero_ns, first_ns = self.started_ns, self.first_ns
        label = self.label[:DETAIL_CHARS]
        return (
            Span("cache", self.cache_ns - zero_ns, self.cache_took_ns),
            Span("upstream", self.sent_ns - zero_ns, self.upstream_took_ns, label),
            Span("stream", first_ns - zero_ns, self.stream_took_ns),
        )

    def stage_times_ns(self) -> dict[StageName, int]:
        """The time that passed in each stage."""
        return {
            "cache": self.cache_took_ns,
            "upstream": self.upstream_took_ns,
            "stream": self.stream_took_ns,
        }

    @staticmethod
    def by_stage(times: Sequence[tuple[int, ...]]) -> dict[StageName, Sequence[int]]:
        """The time that passed in each stage, in the order of ``times``."""
        _, _, cache_took_ns, _, upstream_took_ns, _, stream_took_ns, _ = zip(*times, strict=True)
        return {"cache": cache_took_ns, "upstream": upstream_took_ns, "stream": stream_took_ns}


class CacheOnlyTimes(NamedTuple):
    """A cache look-up that was a hit."""

    started_ns: int
    cache_ns: int
    cache_took_ns: int

    def spans(self) -> tuple[Span, ...]:
        """The one span."""
        return (Span("cache", self.cache_ns - self.started_ns, self.cache_took_ns),)

    def stage_times_ns(self) -> dict[StageName, int]:
        """The duration of the look-up."""
        return {"cache": self.cache_took_ns}

    @staticmethod
    def by_stage(times: Sequence[tuple[int, ...]]) -> dict[StageName, Sequence[int]]:
        """The duration of each look-up, in the order of ``times``."""
        _, _, cache_took_ns = zip(*times, strict=True)
        return {"cache": cache_took_ns}


FIXED_TIMELINES = (CacheUpstreamTimes, CacheUpstreamStreamTimes, CacheOnlyTimes)
"""The types with a ``by_stage`` for many of them."""
