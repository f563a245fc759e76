from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.decisions import Cacheability, Classification, PromptView, Tier
from app.routing.score import RoutePolicy, route

JUDGED = Classification(0.5, Cacheability.UNKNOWN, None, semantic_ok=False)
VIEW = PromptView(text="why?", total_chars=4)
POLICY = RoutePolicy()


def test_the_score_decides_and_the_reason_says_so():
    low = route(JUDGED, VIEW, POLICY, 0.7)
    high = route(JUDGED, VIEW, POLICY, 0.3)
    assert (low.tier, low.band, low.forced) == (Tier.FAST, "fast", False)
    assert (high.tier, high.band) == (Tier.POWERFUL, "powerful")
    assert "0.500 <= 0.700" in low.reason
    assert "0.500 > 0.300" in high.reason


@pytest.mark.parametrize("threshold", [0.5 - 1e-9, 0.5, 0.5 + 1e-9])
def test_a_reason_never_calls_a_number_greater_than_itself(threshold: float):
    decision = route(JUDGED, VIEW, POLICY, threshold)
    assert "score 0.500 at 0.500 (grey)" in decision.reason
    assert decision.tier is (Tier.FAST if threshold >= 0.5 else Tier.POWERFUL)


def test_close_to_the_threshold_is_the_grey_band():
    assert route(JUDGED, VIEW, POLICY, 0.52).band == "grey"
    assert route(JUDGED, VIEW, POLICY, 0.48).band == "grey"


@pytest.mark.parametrize("tier", list(Tier))
def test_the_callers_word_is_final(tier: Tier):
    hard = PromptView(text="x", total_chars=10**9, has_images=True, tool_names=("a", "b"))
    policy = RoutePolicy(forced=tier, fast_context_tokens=10, fast_sees_images=False)
    decision = route(JUDGED, hard, policy, 0.0)
    assert (decision.tier, decision.forced) == (tier, True)
    assert "caller" in decision.reason


@pytest.mark.parametrize(
    ("view", "policy", "word"),
    [
        (replace(VIEW, has_images=True), RoutePolicy(fast_sees_images=False), "images"),
        (replace(VIEW, total_chars=400_000), RoutePolicy(fast_context_tokens=8_000), "tokens"),
        (replace(VIEW, max_tokens=9_000), RoutePolicy(fast_context_tokens=8_000), "tokens"),
    ],
)
def test_what_the_fast_tier_cannot_do_goes_to_the_powerful(
    view: PromptView, policy: RoutePolicy, word: str
):
    decision = route(JUDGED, view, policy, 1.0)
    assert (decision.tier, decision.forced) == (Tier.POWERFUL, True)
    assert word in decision.reason


def test_several_foreseen_calls_go_to_the_powerful_tier_only_when_tools_are_offered():
    several = JUDGED._replace(several_calls=0.9)
    assert route(several, replace(VIEW, tool_names=("a",)), POLICY, 1.0).tier is Tier.POWERFUL
    assert route(several, VIEW, POLICY, 1.0).tier is Tier.FAST
    never = RoutePolicy(several_calls_limit=None)
    assert route(several, replace(VIEW, tool_names=("a",)), never, 1.0).tier is Tier.FAST


def test_a_tool_loop_stays_on_the_tier_that_it_began_on():
    view = replace(VIEW, after_tool_result=True)
    assert route(JUDGED, view, RoutePolicy(warm=Tier.POWERFUL), 1.0).tier is Tier.POWERFUL
    assert route(JUDGED, view, POLICY, 0.0).tier is Tier.FAST


def test_a_warm_session_is_left_only_for_a_clear_score():
    near = 0.47
    assert route(JUDGED, VIEW, POLICY, near).tier is Tier.POWERFUL
    assert route(JUDGED, VIEW, RoutePolicy(warm=Tier.FAST), near).tier is Tier.FAST
    assert route(JUDGED, VIEW, RoutePolicy(warm=Tier.FAST), 0.3).tier is Tier.POWERFUL
