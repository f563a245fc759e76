"""What a bar says, and what it does not dare to say."""

from __future__ import annotations

from dataclasses import replace

from bench import bars, summary
from bench.scenarios import SCENARIOS
from bench.slices import Quantiles, Slice
from bench.targets import TARGETS


def one_slice(target: str, scenario: str, **changes: object) -> Slice:
    base = Slice(
        target=target,
        scenario=scenario,
        round=0,
        rps=100.0,
        tokens_per_s=0.0,
        ok=10,
        errors=0,
        unfinished=0,
        trouble="",
        total_us=None,
        ttft_us=None,
        gap_us=None,
        transit_us=None,
        cpu_us_per_request=None,
        cpu_us_per_token=None,
        cpu_share=0.5,
        others_share=0.0,
    )
    return replace(base, **changes)


def first_token(p50: float) -> Quantiles:
    return Quantiles(n=1, mean=p50, p50=p50, p90=p50, p99=p50, max=p50)


def verdict_of(name: str, slices: list[Slice]) -> bars.Verdict:
    verdicts = bars.judge(summary.by_target(slices))
    return next(verdict for verdict in verdicts if verdict.bar.name == name)


def test_every_bar_names_targets_and_scenarios_that_exist():
    for bar in bars.bars():
        for target, scenario in bar.series:
            assert target in TARGETS
            assert SCENARIOS[scenario].takes(target)


def test_a_goal_is_never_easier_than_its_limit():
    for bar in bars.bars():
        assert bar.goal <= bar.limit if bar.sense == "<=" else bar.goal >= bar.limit


def test_a_bar_without_its_reference_is_not_judged_and_says_what_it_needs():
    verdict = verdict_of(
        "requests/s at 50 over litellm's", [one_slice("slipstream", "json_c50", rps=1e6)]
    )
    assert verdict.passed is None
    assert verdict.goal_met is None
    assert verdict.line.startswith("NOT MEASURED")
    assert "litellm/json_c50" in verdict.line


def test_a_bar_passes_at_its_limit_and_fails_below_it():
    name = "requests/s at 50 over litellm's"
    other = one_slice("litellm", "json_c50", rps=100.0)
    at = verdict_of(name, [other, one_slice("slipstream", "json_c50", rps=20_000.0)])
    below = verdict_of(name, [other, one_slice("slipstream", "json_c50", rps=19_999.0)])
    assert (at.passed, at.goal_met) == (True, False)
    assert at.line.startswith("PASS")
    assert below.passed is False
    assert below.line.startswith("FAIL")


def test_added_time_is_compared_after_the_direct_way_is_taken_off():
    name = "added p50 to the first token, 50 streams, over nginx's"
    slices = [
        one_slice(target, "stream_c50", ttft_us=first_token(p50))
        for target, p50 in (("direct", 500.0), ("nginx", 900.0), ("slipstream", 1300.0))
    ]
    verdict = verdict_of(name, slices)
    assert verdict.estimate is not None
    assert verdict.estimate.value == 2.0
    assert verdict.passed is True


def test_a_failed_answer_never_helps_to_pass():
    name = "exact hits a second, 50 at a time"
    verdict = verdict_of(name, [one_slice("slipstream", "hit_c50", rps=99_999.0, ok=0)])
    assert verdict.passed is None


def test_a_noisy_machine_is_named_in_the_line():
    verdict = verdict_of(
        "exact hits a second, 50 at a time",
        [one_slice("slipstream", "hit_c50", rps=99_999.0, others_share=0.9)],
    )
    assert "noisy machine" in verdict.line
