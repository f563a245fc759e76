"""The newest turns for ``GET /v1/traces``, converted to JSON only on request.

A trace says where the time went and why, never what was said: a ``TurnRecord`` holds no prompt and no answer,
so there is nothing to redact. ``docs/metrics.md`` describes the JSON.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from app.domain.turn_record import Span, ToolUse, TurnRecord
from app.domain.usage import Usage

KEPT_TRACES = 1000


def _nothing(_request_id: str, _tenant: str) -> None:
    """No further information."""


class TraceRing:
    """A ring of the newest turns; an older one with the same request id is hidden by the newer."""

    def __init__(self, capacity: int = KEPT_TRACES) -> None:
        if capacity < 1:
            raise ValueError(f"a trace ring keeps at least one turn, not {capacity}")
        self._ring: deque[TurnRecord] = deque(maxlen=capacity)
        self.beside: Callable[[str, str], Mapping[str, object] | None] = _nothing
        """What the vendor's prompt cache did for a request, by its id and tenant; None = nothing is known."""

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, record: TurnRecord) -> None:
        """Keep a finished turn; the oldest goes when the ring is full."""
        self._ring.append(record)

    def extend(self, records: Iterable[TurnRecord]) -> None:
        """Keep finished turns, in the order in which they ended."""
        self._ring.extend(records)

    def latest(self, limit: int = 50, tenant: str | None = None) -> list[dict[str, object]]:
        """The newest turns first, at most ``limit``; of ``tenant`` alone where one is named."""
        found: list[dict[str, object]] = []
        for record in reversed(self._ring):
            if len(found) >= limit:
                break
            if tenant is None or record.tenant == tenant:
                found.append(self._trace(record))
        return found

    def get(self, request_id: str, tenant: str | None = None) -> dict[str, object] | None:
        """One turn by its ``x-request-id``; None when it is unknown, forgotten, or another
        tenant's.
        """
        for record in reversed(self._ring):  # seldom asked: an index would cost every turn
            if record.request_id == request_id:
                return self._trace(record) if tenant is None or record.tenant == tenant else None
        return None

    def _trace(self, record: TurnRecord) -> dict[str, object]:
        return {**trace_json(record), "prompt": self.beside(record.request_id, record.tenant)}


def trace_json(record: TurnRecord) -> dict[str, object]:
    """A turn as JSON values; times in milliseconds, rounded to the microsecond."""
    return {
        "request_id": record.request_id,
        "started_unix_s": round(record.started_unix_s, 3),
        "dialect": record.dialect,
        "stream": record.stream,
        "tenant": record.tenant,
        "status": record.status,
        "code": record.code or None,
        "requested_model": record.requested_model,
        "model": record.model or None,
        "provider": record.provider or None,
        "tier": record.tier or None,
        "routed": record.routed,
        "band": record.band or None,
        "complexity": None if record.complexity is None else round(record.complexity, 4),
        "threshold": None if record.threshold is None else round(record.threshold, 4),
        "lane": record.reason.removeprefix("lane ") if record.cache == "lane" else None,
        "cache": {
            "outcome": record.cache or None,
            "reason": record.cache_reason or None,
            "entry": record.cache_entry or None,
        },
        "reason": record.reason,
        "finish": record.finish or None,
        "total_ms": _ms(record.total_s),
        "ttft_ms": None if record.ttft_s is None else _ms(record.ttft_s),
        "upstream_ms": _ms(record.upstream_s),
        "overhead_ms": None if record.overhead_s is None else _ms(record.overhead_s),
        "usage": None if record.usage is None else _usage_json(record.usage),
        "cost_usd": record.cost_usd,
        "avoided_cost_usd": record.avoided_cost_usd,
        "attempts": record.attempts,
        "discarded_tokens": record.discarded_tokens,
        "disconnect": record.disconnect or None,
        "tools": [_tool_json(use) for use in record.tools],
        "spans": [] if record.times is None else [_span_json(s) for s in record.times.spans()],
    }


def _usage_json(usage: Usage) -> dict[str, object]:
    return {
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def _span_json(span: Span) -> dict[str, object]:
    return {
        "stage": span.stage,
        "start_ms": round(span.start_ns / 1e6, 3),
        "duration_ms": round(span.duration_ns / 1e6, 3),
        "detail": span.detail,
        "parent": None if span.parent < 0 else span.parent,
    }


def _tool_json(use: ToolUse) -> dict[str, object]:
    return {
        "name": use.name,
        "start_ms": round(use.start_ns / 1e6, 3),
        "duration_ms": round(use.duration_ns / 1e6, 3),
        "outcome": use.outcome,
        "speculative": use.speculative,
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
