"""Finished turns become spans at a collector; nothing of a collector's state reaches a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.trace_context import TurnTrace, read_traceparent
from app.domain.turn_record import ToolUse, TurnRecord
from app.domain.usage import Usage
from app.telemetry.timeline import Timeline
from app.telemetry.tracing import QUEUE_TURNS, SpanSender
from tests.support.otlp import running_collector

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = CALLER[:-2] + "00"


def turn(**more: object) -> TurnRecord:
    """A turn with a cache look-up, a call upstream and a tool."""
    timeline = Timeline()
    with timeline.stage("cache"):
        pass
    with timeline.stage("upstream", "local/sim-fast"):
        pass
    timeline.settle()
    record = TurnRecord(
        request_id="req_1",
        dialect="openai_chat",
        status=200,
        total_s=0.5,
        started_unix_s=1_790_000_000.25,
        requested_model="auto",
        model="small",
        provider="local",
        finish="stop",
        usage=Usage(input_tokens=20, output_tokens=7, cached_tokens=5),
        attempts=1,
        tools=(ToolUse("ticket", 1_000_000, 2_000_000, "ok"),),
        times=timeline,
    )
    return record._replace(**more)  # type: ignore[arg-type]


def sent(*turns: TurnRecord):
    """The spans that a collector was sent of these turns, and how many turns were lost."""
    lost: list[int] = []
    with running_collector() as collector:
        sender = SpanSender(collector.url, "1.0", on_lost=lost.append)
        sender.start()
        sender.extend(turns)
        sender.close()
        return collector, sum(lost)


def attributes(span) -> dict[str, object]:
    """The span's attributes by name."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_a_turn_is_one_trace_with_a_span_for_each_stage_call_and_tool() -> None:
    collector, lost = sent(turn())
    by_name = {span.name: span for span in collector.spans}
    assert set(by_name) == {"chat auto", "cache", "chat small", "execute_tool ticket"}
    assert lost == 0
    assert collector.services == {"slipstream"}
    root = by_name["chat auto"]
    assert {span.trace_id for span in collector.spans} == {root.trace_id}
    assert not root.parent_span_id
    assert {s.parent_span_id for s in collector.spans if s is not root} == {root.span_id}
    assert root.end_time_unix_nano - root.start_time_unix_nano == 500_000_000
    said = attributes(by_name["chat small"])
    assert said["gen_ai.usage.input_tokens"] == 20
    assert said["gen_ai.usage.cache_read.input_tokens"] == 5
    assert said["gen_ai.provider.name"] == "local"
    assert by_name["chat small"].kind == by_name["chat small"].SPAN_KIND_CLIENT


def test_the_caller_s_trace_goes_on_and_the_call_upstream_carries_its_own_span() -> None:
    collector, _ = sent(turn(traceparent=CALLER))
    root = next(span for span in collector.spans if span.name == "chat auto")
    assert root.trace_id.hex() == CALLER[3:35]
    assert root.parent_span_id.hex() == CALLER[36:52]
    upstream = next(span for span in collector.spans if span.name == "chat small")
    header = TurnTrace("req_1", 1_790_000_000.25, CALLER).traceparent(0)
    assert header == f"00-{root.trace_id.hex()}-{upstream.span_id.hex()}-01"


def test_a_trace_that_the_caller_does_not_keep_is_not_sent() -> None:
    collector, lost = sent(turn(traceparent=UNSAMPLED))
    assert collector.spans == []
    assert lost == 0


def test_what_the_client_did_wrong_is_no_failure_of_the_server_s() -> None:
    collector, _ = sent(
        turn(request_id="a", status=400, code="invalid_json"),
        turn(request_id="b", status=502, code="upstream_closed"),
        turn(request_id="c", status=200, code="upstream_truncated"),
        turn(request_id="d", status=499),
    )
    roots = {attributes(s)["slipstream.request_id"]: s for s in collector.spans if "auto" in s.name}
    codes = {name: span.status.code for name, span in roots.items()}
    assert codes == {"a": 1, "b": 2, "c": 2, "d": 0}
    assert attributes(roots["b"])["error.type"] == "upstream_closed"


def test_an_agent_s_run_is_named_as_one() -> None:
    collector, _ = sent(turn(requested_model="agent/desk"))
    root = next(span for span in collector.spans if not span.parent_span_id)
    assert root.name == "invoke_agent desk"
    assert attributes(root)["gen_ai.operation.name"] == "invoke_agent"


def test_a_collector_that_refuses_costs_spans_and_they_are_counted() -> None:
    lost: list[int] = []
    with running_collector(status=400) as collector:
        sender = SpanSender(collector.url, "1.0", on_lost=lost.append)
        sender.start()
        sender.extend([turn()])
        sender.close()
    assert sum(lost) == 1


def test_a_full_queue_loses_what_comes_and_counts_it() -> None:
    lost: list[int] = []
    sender = SpanSender("http://127.0.0.1:9", "1.0", on_lost=lost.append)
    for _ in range(2):
        sender.extend([turn()] * (QUEUE_TURNS // 2 + 1))
    sender.extend([turn()])
    assert sum(lost) == 3


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00-0-0-01",
        CALLER.upper(),
        CALLER + "-more",
        "ff" + CALLER[2:],
        "00-" + "0" * 32 + CALLER[35:],
        CALLER[:36] + "0" * 16 + "-01",
        CALLER.replace("a", "g"),
    ],
)
def test_a_malformed_traceparent_is_ignored(header) -> None:
    assert read_traceparent(header) is None


def test_a_later_version_of_the_header_is_read_as_far_as_it_is_known() -> None:
    assert read_traceparent("01" + CALLER[2:] + "-more") == read_traceparent(CALLER)


@given(st.text(max_size=70), st.text(max_size=20), st.floats(0, 2e9))
def test_whatever_the_caller_sends_what_goes_upstream_is_well_formed(
    header, request_id, at
) -> None:
    trace = TurnTrace(request_id, at, header)
    assert read_traceparent(trace.traceparent(0)) is not None
    assert trace.span_id("upstream", 0) != trace.span_id("upstream", 1)
