"""The share that is aimed at brings the mean of what requests cost, or take, to the target."""

from __future__ import annotations

import random

import pytest

from app.domain.decisions import Tier
from app.routing.mean_target import MeanTargetController
from app.routing.threshold import FastShareTracker

FAST, POWERFUL = (0.001, 0.5), (0.01, 2.5)


def served(aim: MeanTargetController, requests: int = 6_000) -> tuple[float, float]:
    """Mean cost and time of the last half, with scores drawn at random and the tracker's threshold."""
    rng, tracker, spent = random.Random(3), FastShareTracker(0.7), []
    for _ in range(requests):
        score = rng.random()
        tier = Tier.FAST if score <= tracker.threshold("t") else Tier.POWERFUL
        tracker.observe("t", score, tier)
        noise = rng.lognormvariate(0, 0.3)
        usd, seconds = FAST if tier is Tier.FAST else POWERFUL
        spent.append((usd * noise, seconds * noise))
        tracker.target = aim.observe(tier, usd * noise, seconds * noise)
    last = spent[requests // 2 :]
    return sum(usd for usd, _ in last) / len(last), sum(s for _, s in last) / len(last)


@pytest.mark.parametrize("target", [0.002, 0.005, 0.009])
def test_the_mean_cost_comes_to_the_target(target: float):
    usd, _ = served(MeanTargetController(0.7, mean_usd=target))
    assert usd == pytest.approx(target, rel=0.08)


@pytest.mark.parametrize("target", [0.8, 1.1, 2.0])
def test_the_mean_time_comes_to_the_target(target: float):
    _, seconds = served(MeanTargetController(0.7, mean_s=target))
    assert seconds == pytest.approx(target, rel=0.08)


def test_of_two_targets_the_stricter_holds():
    usd, seconds = served(MeanTargetController(0.7, mean_usd=0.009, mean_s=0.8))
    assert seconds == pytest.approx(0.8, rel=0.08)
    assert usd < 0.009


def test_the_configured_share_holds_until_both_tiers_are_known():
    aim = MeanTargetController(0.7, mean_usd=0.005)
    assert {aim.observe(Tier.FAST, 0.001, 0.5) for _ in range(50)} == {0.7}
    for _ in range(10):
        share = aim.observe(Tier.POWERFUL, 0.01, 2.5)
    assert share == pytest.approx(5 / 9)


@pytest.mark.parametrize(("target", "share"), [(0.0001, 1.0), (1.0, 0.0)])
def test_what_no_share_reaches_is_come_as_near_as_can_be(target: float, share: float):
    aim = MeanTargetController(0.7, mean_usd=target)
    for _ in range(10):
        aim.observe(Tier.FAST, 0.001, 0.5)
        said = aim.observe(Tier.POWERFUL, 0.01, 2.5)
    assert said == share


def test_a_fast_tier_that_costs_more_moves_nothing_and_rubbish_is_not_counted():
    aim = MeanTargetController(0.7, mean_usd=0.005)
    for _ in range(20):
        aim.observe(Tier.FAST, 0.01, float("nan"))
        aim.observe(Tier.FAST, 0.01, 1.0)
        assert aim.observe(Tier.POWERFUL, 0.001, 1.0) == 0.7
