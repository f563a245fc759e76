"""The times of a turn that took the straight way: known in number and order, so kept as one tuple.

A ``Timeline`` is made for whatever may come: spans that nest, overlap and repeat. A turn of which it is
certain what it did needs none of that; this says the same to whoever reads, and many at once by column.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import sub
from typing import NamedTuple

from app.domain.turn_record import Span, StageName
from app.telemetry.timeline import DETAIL_CHARS


class CacheAndUpstream(NamedTuple):
    """A look into the cache, then one call upstream; instants in nanoseconds of the timeline's clock."""

    started_ns: int
    cache_ns: int
    looked_ns: int
    sent_ns: int
    ended_ns: int
    label: str
    """Of the model that was asked."""

    def spans(self) -> tuple[Span, ...]:
        """Every span, by start."""
        zero_ns = self.started_ns
        return (
            Span("cache", self.cache_ns - zero_ns, self.looked_ns - self.cache_ns),
            Span(
                "upstream",
                self.sent_ns - zero_ns,
                self.ended_ns - self.sent_ns,
                self.label[:DETAIL_CHARS],
            ),
        )

    def stage_times_ns(self) -> dict[StageName, int]:
        """The time that passed in each stage."""
        return {
            "cache": self.looked_ns - self.cache_ns,
            "upstream": self.ended_ns - self.sent_ns,
        }

    @staticmethod
    def by_stage(times: Sequence[tuple[int, ...]]) -> dict[StageName, Sequence[int]]:
        """The time that passed in each stage, in the order of ``times``."""
        _, cache_ns, looked_ns, sent_ns, ended_ns, _ = zip(*times, strict=True)
        return {
            "cache": [*map(sub, looked_ns, cache_ns)],
            "upstream": [*map(sub, ended_ns, sent_ns)],
        }


class CacheUpstreamStream(NamedTuple):
    """A look into the cache, a call upstream, and its answer streamed from its first word on."""

    started_ns: int
    cache_ns: int
    looked_ns: int
    sent_ns: int
    ended_ns: int
    first_ns: int
    last_ns: int
    label: str
    """Of the model that was asked."""

    def spans(self) -> tuple[Span, ...]:
        """Every span, by start."""
        zero_ns, first_ns = self.started_ns, self.first_ns
        label = self.label[:DETAIL_CHARS]
        return (
            Span("cache", self.cache_ns - zero_ns, self.looked_ns - self.cache_ns),
            Span("upstream", self.sent_ns - zero_ns, self.ended_ns - self.sent_ns, label),
            Span("stream", first_ns - zero_ns, self.last_ns - first_ns),
        )

    def stage_times_ns(self) -> dict[StageName, int]:
        """The time that passed in each stage."""
        return {
            "cache": self.looked_ns - self.cache_ns,
            "upstream": self.ended_ns - self.sent_ns,
            "stream": self.last_ns - self.first_ns,
        }

    @staticmethod
    def by_stage(times: Sequence[tuple[int, ...]]) -> dict[StageName, Sequence[int]]:
        """The time that passed in each stage, in the order of ``times``."""
        _, cache_ns, looked_ns, sent_ns, ended_ns, first_ns, last_ns, _ = zip(*times, strict=True)
        return {
            "cache": [*map(sub, looked_ns, cache_ns)],
            "upstream": [*map(sub, ended_ns, sent_ns)],
            "stream": [*map(sub, last_ns, first_ns)],
        }


class CacheAlone(NamedTuple):
    """A look into the cache that found the answer."""

    started_ns: int
    cache_ns: int
    looked_ns: int

    def spans(self) -> tuple[Span, ...]:
        """The one span."""
        return (Span("cache", self.cache_ns - self.started_ns, self.looked_ns - self.cache_ns),)

    def stage_times_ns(self) -> dict[StageName, int]:
        """The time that the look took."""
        return {"cache": self.looked_ns - self.cache_ns}

    @staticmethod
    def by_stage(times: Sequence[tuple[int, ...]]) -> dict[StageName, Sequence[int]]:
        """The time that each look took, in the order of ``times``."""
        _, cache_ns, looked_ns = zip(*times, strict=True)
        return {"cache": [*map(sub, looked_ns, cache_ns)]}


BY_COLUMN = (CacheAndUpstream, CacheUpstreamStream, CacheAlone)
"""Those that say the times of many of their kind."""
