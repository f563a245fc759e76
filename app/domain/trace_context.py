"""W3C trace context without a tracer: the ids of a turn's spans are functions of the turn itself.

A tracer generates a random id when a span starts and passes it along. Here nothing is passed: the trace id
(where the caller sent none) and every span id are hashes of the request's id and start time, so the
``traceparent`` sent upstream and the span exported after the turn agree without shared state, and an untraced
turn costs nothing.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import NamedTuple

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


class TraceParent(NamedTuple):
    """A parsed ``traceparent`` header; ids in lower-case hexadecimal."""

    trace_id: str
    span_id: str
    sampled: bool


def read_traceparent(header: str) -> TraceParent | None:
    """Parse the header; None where it is malformed (and must be ignored).

    Source: W3C Trace Context, section 3.2: a higher version is read as far as version 00 goes.
    """
    found = _FORM.fullmatch(header.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE:
        return None
    if span_id == _NO_SPAN:
        return None
    return TraceParent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


class TurnTrace:
    """The ids of one turn."""

    __slots__ = ("_seed", "parent", "trace_id")

    def __init__(self, request_id: str, started_unix_s: float, traceparent: str = "") -> None:
        """``traceparent`` is the caller's header; a malformed one starts a new trace."""
        self._seed = f"{request_id}\0{started_unix_s!r}\0".encode()
        self.parent = read_traceparent(traceparent) if traceparent else None
        self.trace_id = self._id("trace", 32) if self.parent is None else self.parent.trace_id

    @property
    def sampled(self) -> bool:
        """Whether the trace is sampled: always for our own, else as the caller says."""
        return self.parent is None or self.parent.sampled

    def span_id(self, name: str, number: int = 0) -> str:
        """The id of the turn's span ``name``, 16 hexadecimal digits; ``number`` counts from 0 per name."""
        return self._id(f"{name}/{number}", 16)

    def traceparent(self, attempt: int) -> str:
        """The header for the ``attempt``-th call upstream, counted from 0."""
        span_id = self.span_id("upstream", attempt)
        return f"00-{self.trace_id}-{span_id}-{int(self.sampled):02x}"

    def _id(self, what: str, digits: int) -> str:
        return sha256(self._seed + what.encode()).hexdigest()[:digits]
