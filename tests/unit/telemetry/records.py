"""Turn records for the telemetry tests."""

from __future__ import annotations

from app.domain.turn_record import TurnRecord
from app.domain.usage import Usage


def a_turn(**changes: object) -> TurnRecord:
    """A routed, streamed miss that the fast model answered in 800 ms."""
    fields: dict[str, object] = {
        "request_id": "req-1",
        "dialect": "openai_chat",
        "status": 200,
        "total_s": 0.8,
        "started_unix_s": 1_790_000_000.0,
        "stream": True,
        "tenant": "acme",
        "requested_model": "auto",
        "model": "small",
        "provider": "local",
        "tier": "fast",
        "routed": True,
        "band": "fast",
        "cache": "miss",
        "cache_reason": "absent",
        "reason": "short question",
        "finish": "stop",
        "ttft_s": 0.5,
        "upstream_s": 0.79,
        "overhead_s": 0.01,
        "usage": Usage(input_tokens=20, output_tokens=31),
        "cost_usd": 0.0001,
        "attempts": 1,
    }
    return TurnRecord(**(fields | changes))  # type: ignore[arg-type]


def a_hit(**changes: object) -> TurnRecord:
    """An exact hit: the same answer in a millisecond, for nothing."""
    hit: dict[str, object] = {
        "cache": "exact",
        "cache_reason": "exact",
        "attempts": 0,
        "cost_usd": 0.0,
        "total_s": 0.001,
        "ttft_s": 0.001,
        "upstream_s": 0.0,
        "overhead_s": None,
        "routed": False,
        "band": "",
    }
    return a_turn(**(hit | changes))
