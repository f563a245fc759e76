"""The trace ring keeps the newest turns, shows each to its tenant alone, never what was said."""

from __future__ import annotations

import json
from typing import cast

import pytest

from app.domain.turn_record import ToolUse, TurnRecord
from app.telemetry.timeline import Timeline
from app.telemetry.traces import TraceRing, trace_json
from tests.unit.telemetry.records import a_turn


def ids(traces: list[dict[str, object]]) -> list[object]:
    return [trace["request_id"] for trace in traces]


def test_the_newest_come_first_and_the_oldest_are_forgotten() -> None:
    ring = TraceRing(capacity=3)
    for n in range(5):
        ring.add(a_turn(request_id=f"r{n}"))
    assert ids(ring.latest()) == ["r4", "r3", "r2"]
    assert ids(ring.latest(limit=1)) == ["r4"]
    assert ring.latest(limit=0) == []
    assert ring.get("r1") is None
    assert len(ring) == 3


def test_a_request_id_used_twice_shows_the_newer_turn_even_when_the_older_is_forgotten() -> None:
    ring = TraceRing(capacity=2)
    ring.add(a_turn(request_id="same", status=200))
    ring.add(a_turn(request_id="same", status=500))
    ring.add(a_turn(request_id="other"))
    trace = ring.get("same")
    assert trace is not None
    assert trace["status"] == 500


def test_a_tenant_sees_its_own_turns_only() -> None:
    ring = TraceRing()
    ring.add(a_turn(request_id="a", tenant="acme"))
    ring.add(a_turn(request_id="b", tenant="globex"))
    assert ids(ring.latest(tenant="acme")) == ["a"]
    assert ring.get("b", tenant="acme") is None
    assert ring.get("b") is not None


def test_a_ring_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        TraceRing(capacity=0)


def test_the_waterfall_is_in_milliseconds_from_the_arrival() -> None:
    timeline = Timeline(lambda: 0, started_ns=0)
    with timeline.stage("tools", "get_ticket") as outer:
        timeline.mark("upstream", 1_000_000, 3_500_000, "small", parent=outer)
    trace = trace_json(a_turn(times=timeline, tools=(ToolUse("t", 0, 5_000_000, "ok"),)))
    spans = cast("list[dict[str, object]]", trace["spans"])
    assert [tuple(span.values()) for span in spans] == [
        ("tools", 0.0, 0.0, "get_ticket", None),
        ("upstream", 1.0, 2.5, "small", 0),
    ]
    assert set(spans[0]) == {"stage", "start_ms", "duration_ms", "detail", "parent"}
    assert trace["total_ms"] == 800.0
    assert trace["tools"] == [
        {"name": "t", "start_ms": 0.0, "duration_ms": 5.0, "outcome": "ok", "speculative": False}
    ]
    json.dumps(trace, allow_nan=False)


def test_a_record_has_no_place_for_content() -> None:
    names = set(TurnRecord._fields)
    assert not names & {"prompt", "messages", "content", "text", "answer", "body", "api_key"}
