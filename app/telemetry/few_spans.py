"""The times of a turn that took the straight way: known in number and order, so kept as one tuple.

A ``Timeline`` is made for whatever may come: spans that nest, overlap and repeat. A turn of which it is
certain what it did needs none of that; this says the same to whoever reads, and many at once by column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from app.domain.turn_record import Span, StageName
from app.telemetry.timeline import DETAIL_CHARS


class CacheAndUpstream(NamedTuple):
    """A look into the cache, then one call upstream; instants in nanoseconds of the timeline's clock.

    How long each took stands here rather than when it ended: whoever makes one has just reckoned it, and to
    reckon it again for every turn of a batch costs as much as to count the turn.
    """

    started_ns: int
    cache_ns: int
    cache_took_ns: int
    sent_ns: int
    upstream_took_ns: int
    label: str
    """Of the model that was asked."""

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


class CacheUpstreamStream(NamedTuple):
    """A look into the cache, a call upstream, and its answer streamed from its first word on."""

    started_ns: int
    cache_ns: int
    cache_took_ns: int
    sent_ns: int
    upstream_took_ns: int
    first_ns: int
    stream_took_ns: int
    label: str
    """Of the model that was asked."""

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


class CacheAlone(NamedTuple):
    """A look into the cache that found the answer."""

    started_ns: int
    cache_ns: int
    cache_took_ns: int

    def spans(self) -> tuple[Span, ...]:
        """The one span."""
        return (Span("cache", self.cache_ns - self.started_ns, self.cache_took_ns),)

    def stage_times_ns(self) -> dict[StageName, int]:
        """The time that the look took."""
        return {"cache": self.cache_took_ns}

    @staticmethod
    def by_stage(times: Sequence[tuple[int, ...]]) -> dict[StageName, Sequence[int]]:
        """The time that each look took, in the order of ``times``."""
        _, _, cache_took_ns = zip(*times, strict=True)
        return {"cache": cache_took_ns}


BY_COLUMN = (CacheAndUpstream, CacheUpstreamStream, CacheAlone)
"""Those that say the times of many of their kind."""
