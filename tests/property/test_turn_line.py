"""The quick line of a turn says what the slow one says, whatever the turn was and whatever came before it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.turn_record import STAGES, ToolUse, TurnRecord
from app.domain.usage import Usage
from app.telemetry.log import _iso, json_line, turn_fields
from app.telemetry.timeline import Timeline
from app.telemetry.turn_line import TurnLines

texts = st.sampled_from(
    ["", "small", "100 %", '"quoted"', "back\\slash", "größer", "%s%d%%"]
) | st.text(max_size=12)
seconds = st.floats(0, 4_000)
tokens = st.integers(0, 10**7)
moments = st.floats(1_600_000_000, 2_200_000_000)


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """A settled one; its clock stands still, so every span is a mark."""
    timeline = Timeline(lambda: 0)
    spans = st.tuples(st.sampled_from(STAGES[:-1]), st.integers(0, 10**10), st.integers(0, 10**10))
    for stage, start_ns, took_ns in draw(st.lists(spans, max_size=6)):
        timeline.mark(stage, start_ns, start_ns + took_ns)
    timeline.settle()
    return timeline


tools = st.builds(
    ToolUse,
    st.sampled_from(["get_user", "größe"]),
    tokens,
    tokens,
    st.sampled_from(["ok", "error"]),
)
records = st.builds(
    TurnRecord,
    request_id=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    dialect=st.sampled_from(["openai_chat", "anthropic_messages"]),
    status=st.sampled_from([200, 400, 499, 503]),
    total_s=seconds,
    started_unix_s=moments,
    code=st.sampled_from(["", "upstream_closed"]),
    stream=st.booleans(),
    tenant=texts,
    requested_model=texts,
    model=st.sampled_from(["", "small"]),
    tier=st.sampled_from(["", "fast"]),
    routed=st.booleans(),
    band=st.sampled_from(["", "grey"]),
    cache=st.sampled_from(["", "miss", "exact"]),
    cache_reason=texts,
    reason=texts,
    finish=st.sampled_from(["", "stop"]),
    ttft_s=st.none() | seconds,
    upstream_s=seconds,
    overhead_s=st.none() | seconds,
    usage=st.none() | st.builds(Usage, tokens, tokens, tokens, tokens),
    cost_usd=st.floats(0, 1_000),
    disconnect=st.sampled_from(["", "mid_stream"]),
    attempts=st.integers(0, 3),
    tools=st.lists(tools, max_size=2).map(tuple),
    times=st.none() | timelines(),
)


@given(st.lists(records, min_size=1, max_size=5, unique_by=lambda turn: turn.request_id))
def test_the_quick_line_says_what_the_slow_one_says(turns: list[TurnRecord]) -> None:
    """One writer for all of them: what it remembers of one turn is never said of another."""
    lines = TurnLines(turn_fields, _iso)
    for first in [*turns[:3], *turns[:3]]:
        alike = [turn._replace(**of_its_kind(first)) for turn in turns]
        assert {turn.kind() for turn in alike} == {first.kind()}
        texts = lines_of(lines.lines(alike * 12))  # many are printed by other means than few
        assert len(texts) == 12 * len(alike)
        texts += lines_of(lines.lines(alike))
        by_id = {turn.request_id: turn for turn in alike}
        for text in set(texts):
            assert_the_same(text, by_id[json.loads(text)["request_id"]])


def lines_of(text: str) -> list[str]:
    return [f"{line}\n" for line in text.split("\n")[:-1]]


def of_its_kind(turn: TurnRecord) -> dict[str, Any]:
    start = TurnRecord._fields.index("dialect")
    return dict(zip(TurnRecord._fields[start:], turn.kind(), strict=False))


def assert_the_same(text: str, turn: TurnRecord) -> None:
    """Compare a quick line with the slow one of the same turn."""
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    quick, slow = json.loads(text), json.loads(json_line(turn_fields(turn)))
    ended, told = (datetime.fromisoformat(line.pop("timestamp")) for line in (slow, quick))
    assert abs((ended - told).total_seconds()) < 0.0015
    assert quick.pop("stages_ms", None) == pytest.approx(slow.pop("stages_ms", None), abs=0.0015)
    assert numbers(quick) == pytest.approx(numbers(slow), rel=1e-8, abs=0.0015)
    assert {**quick, **numbers(slow)} == slow


def numbers(line: dict[str, object]) -> dict[str, int | float]:
    return {k: v for k, v in line.items() if isinstance(v, int | float) and not isinstance(v, bool)}
