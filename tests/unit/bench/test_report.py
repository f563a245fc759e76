"""What the report shows: every target, every bar, and what was wrong."""

from __future__ import annotations

import json

from bench import bars, report, summary
from bench.slices import Quantiles, Slice


def one_slice(target: str, scenario: str, p50: float, errors: int = 0) -> Slice:
    times = Quantiles(n=1, mean=p50, p50=p50, p90=p50, p99=p50, max=p50)
    return Slice(
        target=target,
        scenario=scenario,
        round=0,
        rps=1e6 / p50,
        tokens_per_s=0.0,
        ok=10,
        errors=errors,
        unfinished=0,
        trouble="3 truncated" if errors else "",
        total_us=times,
        ttft_us=None,
        gap_us=None,
        transit_us=None,
        cpu_us_per_request=p50 / 2,
        cpu_us_per_token=None,
        cpu_share=0.5,
        others_share=0.0,
    )


def run_of(*slices: Slice, unavailable: dict[str, str] | None = None) -> report.Run:
    return report.Run(
        date="2026-01-01 00:00 UTC",
        commit="abc1234",
        command="python -m bench.run",
        cpu="a processor, 2 CPUs",
        system="Linux",
        rounds=1,
        slice_s=1.0,
        versions={"nginx": "1.22.1"},
        pss_mib={"nginx": 5.0},
        unavailable=unavailable or {},
        slices=list(slices),
        upstream_stats={},
    )


def test_a_row_shows_what_a_target_adds_to_the_direct_way():
    run = run_of(one_slice("direct", "json_c1", 15.0), one_slice("nginx", "json_c1", 136.0))
    text = report.markdown(run, [])
    row = next(line for line in text.splitlines() if line.startswith("| nginx (1 worker) | 121 |"))
    assert "7,353" in row


def test_a_target_that_could_not_run_is_named_with_its_reason():
    text = report.markdown(run_of(unavailable={"litellm": "not installed"}), [])
    assert "LiteLLM proxy | not measured: not installed" in text


def test_errors_are_shown_beside_the_figures_they_taint():
    text = report.markdown(run_of(one_slice("nginx", "json_c1", 100.0, errors=3)), [])
    assert "3 errors of 13: 3 truncated" in text


def test_every_bar_has_a_line():
    run = run_of(one_slice("direct", "json_c1", 15.0))
    verdicts = bars.judge(summary.by_target(run.slices))
    text = report.markdown(run, verdicts)
    for bar in bars.bars():
        assert bar.name in text


def test_the_json_holds_every_slice_with_its_noise_and_every_bar():
    run = run_of(one_slice("direct", "json_c1", 15.0))
    document = json.loads(report.as_json(run, bars.judge(summary.by_target(run.slices))))
    assert document["slices"][0]["quiet"] is True
    assert document["slices"][0]["total_us"]["p50"] == 15.0
    assert len(document["bars"]) == len(bars.bars())
    assert all(bar["passed"] is None for bar in document["bars"])
