from __future__ import annotations

import numpy as np
import pytest

from app.domain.decisions import Tier
from app.routing.threshold import FastShareTracker


def serve(tracker: FastShareTracker, scores: np.ndarray, tenant: str = "t") -> np.ndarray:
    out = []
    for score in scores.tolist():
        tier = Tier.FAST if score <= tracker.threshold(tenant) else Tier.POWERFUL
        tracker.observe(tenant, score, tier)
        out.append(tier is Tier.FAST)
    return np.array(out, dtype=float)


@pytest.mark.parametrize("target", [0.3, 0.7, 0.9])
def test_the_share_holds_in_every_window_across_unannounced_shifts(target: float):
    rng = np.random.default_rng(1)
    segments = [(0.2, 0.05), (0.8, 0.02), (0.1, 0.2), (0.5, 0.001), (0.45, 0.3)]
    scores = np.concatenate([rng.normal(mean, sd, 2000) for mean, sd in segments])
    fast = serve(FastShareTracker(target), scores)
    windows = np.convolve(fast, np.ones(500) / 500, "valid")
    assert (np.abs(windows - target) <= 0.03).mean() >= 0.95


def test_even_equal_scores_are_parted_at_the_target():
    fast = serve(FastShareTracker(0.7), np.full(2000, 0.4))
    assert fast[-500:].mean() == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize(("target", "tier"), [(0.0, 0.0), (1.0, 1.0)])
def test_all_or_nothing_is_all_or_nothing(target: float, tier: float):
    fast = serve(FastShareTracker(target), np.random.default_rng(0).random(1000))
    assert fast[100:].mean() == pytest.approx(tier, abs=0.02)


def test_one_tenants_traffic_leaves_anothers_threshold_alone():
    tracker = FastShareTracker(0.7)
    before = tracker.threshold("quiet")
    serve(tracker, np.random.default_rng(0).random(300), "busy")
    assert tracker.threshold("quiet") == before


def test_the_state_is_bounded_however_many_tenants_come():
    tracker = FastShareTracker(0.7)
    for at in range(3000):
        tracker.observe(str(at), 0.5, Tier.FAST)
    assert len(tracker._tenants) == 2000


@pytest.mark.parametrize("target", [-0.1, 1.1])
def test_a_share_outside_its_range_is_refused(target: float):
    with pytest.raises(ValueError, match=r"0\.\.1"):
        FastShareTracker(target)


def test_a_tenants_own_share_holds_beside_that_of_all():
    tracker = FastShareTracker(0.7, tenant_targets={"careful": 0.2})
    scores = np.random.default_rng(1).random(3000)
    fast = {"careful": 0, "other": 0}
    for tenant in fast:
        for score in scores.tolist():
            tier = Tier.FAST if score <= tracker.threshold(tenant) else Tier.POWERFUL
            tracker.observe(tenant, score, tier)
            fast[tenant] += tier is Tier.FAST
    assert fast["careful"] / 3000 == pytest.approx(0.2, abs=0.02)
    assert fast["other"] / 3000 == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize(("target", "tier"), [(0.0, Tier.POWERFUL), (1.0, Tier.FAST)])
def test_all_or_nothing_holds_from_the_first_request_on(target: float, tier: Tier):
    tracker = FastShareTracker(0.7, tenant_targets={"acme": target})
    for score in (0.01, 0.99, 0.5) * 10:
        chosen = Tier.FAST if score <= tracker.threshold("acme") else Tier.POWERFUL
        assert chosen is tier
        tracker.observe("acme", score, chosen)
    assert 0 < tracker.threshold("another") < 1
