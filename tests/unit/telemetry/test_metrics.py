"""The metrics page: right, bounded, and rendered without holding up the event loop."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from app.domain.turn_record import ToolUse
from app.domain.usage import Usage
from app.telemetry.metrics import LoopLag, Metrics
from app.telemetry.series import Counter, Histogram
from app.telemetry.timeline import Timeline
from tests.support.turns import turns_of_others
from tests.unit.telemetry.records import a_hit, a_turn

if TYPE_CHECKING:
    from collections.abc import Callable

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(page: bytes) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if not sample.name.startswith(("process_", "python_gc"))
        and not sample.name.endswith("_created")
    }


async def value(metrics: Metrics, name: str, **labels: str) -> float:
    return parsed(await metrics.render())[name, tuple(sorted(labels.items()))]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(models=["small", "large"], tools=["get_ticket"])


async def test_a_turn_is_counted_under_its_dialect_status_cache_and_tier(metrics: Metrics) -> None:
    metrics.record(a_turn())
    metrics.record(a_turn())
    metrics.record(a_hit())
    common = {"dialect": "openai_chat", "code": "200", "tier": "fast"}
    assert await value(metrics, "slipstream_requests_total", cache="miss", **common) == 2
    assert await value(metrics, "slipstream_requests_total", cache="exact", **common) == 1


async def test_tokens_and_money_are_counted_where_they_were_bought(metrics: Metrics) -> None:
    usage = Usage(input_tokens=7, cached_tokens=5, cache_write_tokens=3, output_tokens=11)
    metrics.record(a_turn(usage=usage, cost_usd=0.25))
    metrics.record(a_hit(usage=usage))
    for kind, tokens in (("input", 7), ("cached", 5), ("cache_write", 3), ("output", 11)):
        assert await value(metrics, "slipstream_tokens_total", model="small", kind=kind) == tokens
    assert await value(metrics, "slipstream_cost_usd_total", model="small") == 0.25


async def test_each_stage_of_the_timeline_is_observed_once_a_turn(metrics: Metrics) -> None:
    timeline = Timeline(lambda: 0)
    timeline.mark("tools", 0, 2_000_000_000)
    timeline.mark("tools", 1_000_000_000, 3_000_000_000)
    metrics.record(a_turn(times=timeline))
    assert await value(metrics, "slipstream_stage_seconds_sum", stage="tools") == 3.0
    assert await value(metrics, "slipstream_stage_seconds_count", stage="tools") == 1
    assert await value(metrics, "slipstream_stage_seconds_sum", stage="total") == 0.8


async def test_the_gap_between_tokens_is_of_upstream_streams_only(metrics: Metrics) -> None:
    metrics.record(a_turn(ttft_s=0.5, total_s=0.8, usage=Usage(output_tokens=31)))
    metrics.record(a_turn(stream=False))
    metrics.record(a_hit())
    name = "slipstream_time_per_output_token_seconds"
    assert await value(metrics, f"{name}_sum", model="small") == pytest.approx(0.01)
    assert await value(metrics, f"{name}_count", model="small") == 1
    first = "slipstream_time_to_first_token_seconds_count"
    assert await value(metrics, first, model="small") == 2, "the JSON answer has no first token"


async def test_failures_and_leavers_are_counted_by_code_and_moment(metrics: Metrics) -> None:
    metrics.record(a_turn(status=504, code="upstream_timeout", ttft_s=None))
    metrics.record(a_turn(status=499, disconnect="mid_stream"))
    metrics.upstream_failed("local", "upstream_timeout")
    assert await value(metrics, "slipstream_errors_total", code="upstream_timeout") == 1
    assert await value(metrics, "slipstream_client_disconnects_total", window="mid_stream") == 1
    assert (
        await value(
            metrics, "slipstream_upstream_errors_total", provider="local", code="upstream_timeout"
        )
        == 1
    )


async def test_tools_are_counted_by_name_and_outcome(metrics: Metrics) -> None:
    uses = (ToolUse("get_ticket", 0, 2_000_000_000, "ok"), ToolUse("rm -rf", 0, 1, "error"))
    metrics.record(a_turn(tools=uses))
    assert await value(metrics, "slipstream_tool_seconds_sum", tool="get_ticket") == 2.0
    assert await value(metrics, "slipstream_tool_calls_total", tool="other", outcome="error") == 1


async def test_in_flight_follows_the_turns(metrics: Metrics) -> None:
    assert await value(metrics, "slipstream_in_flight") == 0
    running = [1, 2]
    metrics.follow_in_flight(lambda: len(running), int)
    assert await value(metrics, "slipstream_in_flight") == 2
    running.clear()
    assert await value(metrics, "slipstream_in_flight") == 0


async def test_the_page_says_what_prometheus_own_renderer_says(metrics: Metrics) -> None:
    """Our text and ``generate_latest`` over the same families parse to the same samples."""
    metrics.record(a_turn(times=Timeline()))
    metrics.record(a_hit(cache_reason='odd "quotes" \\ and\nlines'))
    assert parsed(await metrics.render()) == parsed(generate_latest(metrics.registry))


@given(st.text())
def test_any_text_as_a_label_comes_back_from_the_parser(text: str) -> None:
    counter = Counter("x_total", "An odd\nhelp \\ text.", ("label",))
    counter.child(text).inc()
    page = "".join(counter.pieces())
    ((family,),) = ([*text_string_to_metric_families(page)],)
    expected = text.encode("utf-8", "replace").decode()
    assert [sample.labels["label"] for sample in family.samples] == [expected]


@given(st.lists(st.floats(0, 100), max_size=50))
def test_buckets_are_cumulative_and_end_in_the_count(values: list[float]) -> None:
    histogram = Histogram("x_seconds", "X.", bounds=(0.1, 1, 10))
    for observed in values:
        histogram.child().observe(observed)
    expected = [sum(v <= bound for v in values) for bound in (0.1, 1, 10)] + [len(values)]
    assert histogram.child().cumulative() == expected


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 9.0]) | st.floats(0, 10), max_size=60))
def test_many_observations_at_once_are_counted_as_one_by_one(values: list[float]) -> None:
    bounds = (0.5, 1.0, 2.0, 8.0)
    one, many = (Histogram("h", "A test.", bounds=bounds).child() for _ in range(2))
    for value in values:
        one.observe(value)
    many.observe_all(values)
    assert many.counts == one.counts
    assert many.sum == pytest.approx(one.sum)


async def test_hostile_labels_cannot_grow_the_page(metrics: Metrics) -> None:
    """20,000 invented models, reasons and codes make few series, and all of it is counted."""
    before = len(parsed(await metrics.render()))
    turns = 20_000
    for n in range(turns):
        metrics.record(a_turn(model=f"m{n}", cache_reason=f"r{n}", code=f"c{n}", tier=f"t{n}"))
        metrics.upstream_failed(f"p{n}", f"c{n}")
    after = parsed(await metrics.render())
    assert len(after) < before + 6 * 260
    for name in ("slipstream_requests_total", "slipstream_upstream_errors_total"):
        assert sum(v for (sample, _), v in after.items() if sample == name) == turns
    assert after["slipstream_metric_labels_refused", ()] > 0
    models = {dict(labels).get("model") for _, labels in after}
    assert models <= {None, "small", "large", "other", "none"}


async def test_a_scrape_lets_other_tasks_run_between_its_parts(metrics: Metrics) -> None:
    for n in range(250):
        metrics.tool_seconds.child(f"tool-{n}").observe(0.1)
    async with turns_of_others() as turns:
        page = await metrics.render()
    assert len(page) / 40_000 < turns.taken


def test_the_loop_lag_sampler_observes_lateness_and_stops(metrics: Metrics) -> None:
    class Loop:
        now = 0.0
        calls: list[tuple[Callable[..., None], tuple[object, ...]]]
        cancelled = 0

        def time(self) -> float:
            return self.now

        def call_later(self, _: float, call: Callable[..., None], *args: object) -> Loop:
            self.calls = [(call, args)]
            return self

        def cancel(self) -> None:
            self.cancelled += 1

    loop = Loop()
    lag = LoopLag(metrics)
    lag.start(loop)  # type: ignore[arg-type]
    loop.now = LoopLag.INTERVAL_S + 0.02
    ((call, args),) = loop.calls
    call(*args)
    assert metrics.loop_lag.child().sum == pytest.approx(0.02)
    lag.stop()
    lag.stop()
    assert loop.cancelled == 1


async def test_every_name_is_documented_and_nothing_else_is(metrics: Metrics, root: Path) -> None:
    text = (root / "docs" / "metrics.md").read_text()
    cells = re.findall(r"^\| (`(?:slipstream|gen_ai)_[^|]+)\|", text, re.MULTILINE)
    documented = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert documented == set(metrics.names())


async def test_what_the_genai_conventions_name_is_there_under_that_name_too(
    metrics: Metrics,
) -> None:
    child = metrics.time_to_first_token.child('odd{model="x"}')
    child.observe(0.3)
    page = (await metrics.render()).decode()
    ours = [line for line in page.splitlines() if "slipstream_time_to_first_token" in line]
    theirs = [line for line in page.splitlines() if "gen_ai_server_time_to_first_token" in line]
    renamed = [
        line.replace("slipstream_", "gen_ai_server_").replace(
            '{model="', '{gen_ai_response_model="'
        )
        for line in ours
    ]
    assert theirs == renamed
    assert any(
        line.startswith("gen_ai_server_time_to_first_token_seconds_count{") for line in theirs
    )
