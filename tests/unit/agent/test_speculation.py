"""What is predicted, how sure, and when it pays."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.speculation import (
    Patterns,
    WasteBudget,
    is_worth_starting,
    template_of,
    text_pattern,
)
from app.domain.tools import Effects, ToolSpec
from app.pipeline.speculation import Speculation, SpeculationPolicy


def known():
    """A prediction that a few right outcomes stand behind."""
    patterns = Patterns()
    for _ in range(6):
        predicted = patterns.predict("see A-1", ["get"])
        patterns.learn("see A-1", predicted, [("get", {"id": "A-1"})])
    (prediction,) = patterns.predict("see A-1", ["get"])
    return prediction


def test_a_guess_without_evidence_is_not_fired() -> None:
    speculation = Speculation()
    speculation.decision_times_s["desk"] = speculation.tool_statistics("get").mean_s = 9.0
    spec = ToolSpec("get", effects=Effects(read_only=True, repeatable=True, disclosable=True))
    patterns = Patterns()
    patterns.learn("see A-1", [], [("get", {"id": "A-1"})])
    for _ in range(2):  # seen once, then right once: that may have been luck
        predicted = patterns.predict("see A-1", ["get"])
        assert not speculation.may_start(spec, predicted[0], SpeculationPolicy(), "desk")
        patterns.learn("see A-1", predicted, [("get", {"id": "A-1"})])
    assert speculation.may_start(spec, known(), SpeculationPolicy(), "desk")


def test_a_pattern_learned_from_one_ticket_predicts_another() -> None:
    patterns = Patterns()
    for number in range(100, 110):
        text = f"What about INC-{number}, please?"
        predicted = patterns.predict(text, ["get", "other"])
        patterns.learn(text, predicted, [("get", {"id": f"INC-{number}", "limit": 3})])
    (found,) = patterns.predict("And INC-4821?", ["get"])
    assert (found.tool, found.arguments) == ("get", {"id": "INC-4821", "limit": 3})
    assert found.p > 0.8
    two = patterns.predict("INC-1 or INC-2?", ["get"])
    assert [each.arguments["id"] for each in two] == ["INC-1", "INC-2"]
    assert patterns.predict("And OPS-4821?", ["get"]) == []
    assert patterns.predict("And INC-4821?", ["other"]) == []


def test_kept_results_do_not_make_a_slow_tool_look_fast() -> None:
    statistics = Speculation().tool_statistics("get")
    statistics.record_call(2.0, cached=False)
    for _ in range(100):
        statistics.record_call(0.0, cached=True)
    assert (statistics.mean_s, statistics.calls) == (2.0, 101)


def test_what_was_wrong_is_believed_less() -> None:
    patterns = Patterns()
    patterns.learn("see A-1", [], [("get", {"id": "A-1"})])
    for _ in range(20):
        predicted = patterns.predict("see A-2", ["get"])
        patterns.learn("see A-2", predicted, [])
    assert patterns.predict("see A-2", ["get"])[0].p < 0.1


def test_arguments_that_the_model_made_up_are_never_predicted() -> None:
    assert template_of("search", {"q": "the weather in Rome"}, "how is it there?") is None
    assert template_of("get", {"id": "A-9"}, "no such thing here") is None
    assert text_pattern("ann.lee@example.org") == text_pattern("bob@example.com")


@pytest.mark.parametrize(("cost", "least"), [(1e-5, 0.01), (1e-4, 0.09), (1e-3, 0.5), (5e-3, 0.83)])
def test_the_break_even_of_half_a_second_at_two_tenths_of_a_cent(cost, least) -> None:
    assert is_worth_starting(least + 0.01, cost, 0.002, 0.5)
    assert not is_worth_starting(least - 0.01, cost, 0.002, 0.5)
    assert not is_worth_starting(1.0, cost, 0.002, 0.0)


@given(st.lists(st.booleans(), min_size=5, max_size=5))
def test_nothing_fires_without_its_flags(flags) -> None:
    read_only, repeatable, disclosable, own, halted = flags
    speculation = Speculation(halted=halted)
    speculation.decision_times_s["desk"] = 9.0
    speculation.tool_statistics("get").mean_s = 9.0
    spec = ToolSpec("get", effects=Effects(read_only, repeatable, disclosable), own_host=own)
    prediction = known()
    fires = speculation.may_start(spec, prediction, SpeculationPolicy(), "desk")
    assert fires == (read_only and repeatable and (disclosable or own) and not halted)
    assert not speculation.may_start(spec, prediction, SpeculationPolicy(enabled=False), "desk")


def test_the_waste_budget_holds() -> None:
    speculation = Speculation()
    speculation.decision_times_s["desk"] = speculation.tool_statistics("get").mean_s = 9.0
    prediction = known()
    spec = ToolSpec("get", effects=Effects(True, True, True))  # noqa: FBT003 - the three flags
    budget = speculation.budget("desk")
    budget.left = 0.0
    assert not speculation.may_start(spec, prediction, SpeculationPolicy(), "desk")
    for _ in range(5):
        budget.add_call(0.1)
    assert speculation.may_start(spec, prediction, SpeculationPolicy(), "desk")
    assert speculation.budget("other").left > 0


@given(st.lists(st.sampled_from(["call", "fire", "right", "wrong"])), st.floats(0, 0.5))
def test_waste_stays_within_its_share_in_every_stretch(steps, share) -> None:
    """In any stretch of calls, not only since the start: what was saved long ago is not spent at once."""
    budget, under_way, calls, wasted = WasteBudget(), 0, 0, 0
    history = [(0, 0)]
    for what in steps:
        if what == "call":
            budget.add_call(share)
            calls += 1
        elif what == "fire" and budget.allows(0.0):
            budget.reserve(0.0)
            under_way += 1
        elif under_way and what in {"right", "wrong"}:
            budget.settle(0.0, right=what == "right")
            under_way -= 1
            wasted += what == "wrong"
        history.append((calls, wasted))
    for at, (calls_then, wasted_then) in enumerate(history):
        for calls_now, wasted_now in history[at:]:
            # The hoard, and what drafts had taken out of it before the stretch began.
            assert wasted_now - wasted_then <= 16 + 16 + share * (calls_now - calls_then) + 1e-6


def test_true_odds_waste_their_share_and_no_more() -> None:
    draw, budget, wasted = random.Random(7), WasteBudget(), 0
    for call in range(1, 3001):
        p = draw.random()
        if budget.allows(p):
            budget.reserve(p)
            right = draw.random() < p
            budget.settle(p, right=right)
            wasted += not right
        budget.add_call(0.1)
        if call % 500 == 0:
            assert wasted <= 16 + 0.1 * 500
            wasted = 0
