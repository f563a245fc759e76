from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from app.classify.calibration import apgr
from app.routing.learning import (
    DriftDetector,
    Label,
    RouterLearner,
    ShadowSampler,
)


def fit(labels: Sequence[Label[float]]) -> float | None:
    """A head is the slope of the gain over the feature."""
    if len(labels) < 20:
        return None
    x = np.array([label.features for label in labels])
    y = np.array([label.gain for label in labels])
    w = np.array([label.weight for label in labels])
    return float((w * x * y).sum() / (w * x * x).sum())


def rank(head: float | None, x: float) -> float:
    return 0.5 if head is None else 1 / (1 + float(np.exp(-head * x)))


def judge(scores: Sequence[float], gains: Sequence[float], weights: Sequence[float]) -> float:
    return apgr(np.array(scores), np.array(gains), weight=np.array(weights))


def learner() -> RouterLearner[float, float]:
    return RouterLearner(fit, rank, judge)


def labels(n: int, slope: float, seed: int = 0) -> list[Label[float]]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    better = rng.random(n) < 1 / (1 + np.exp(-slope * x))
    return [Label(float(a), float(b)) for a, b in zip(x, better, strict=True)]


def test_it_learns_from_labels_and_then_ranks():
    one = learner()
    due = [one.observe(label) for label in labels(300, 2.0)]
    assert any(due)
    report = one.refit()
    assert report is not None
    assert report.swapped
    assert 0.5 < report.low <= report.challenger <= report.high
    assert one.champion is not None
    assert one.champion > 0.2


def test_a_refit_falls_due_early_at_first_and_at_the_latest_every_250_labels():
    one = learner()
    due = []
    for at, label in enumerate(labels(700, 0.0), 1):
        if one.observe(label):
            due.append(at)
            one._labels_since_refit = 0
    assert due == [50, 63, 79, 99, 124, 155, 194, 243, 304, 380, 475, 594]


def test_too_few_labels_teach_nothing():
    one = learner()
    for label in labels(10, 2.0):
        one.observe(label)
    assert one.refit() is None
    assert one.champion is None


def test_a_clearly_worse_challenger_does_not_take_over():
    one = learner()
    for label in labels(400, 3.0):
        one.observe(label)
    one.refit()
    good = one.champion
    assert good is not None
    one._fit = lambda _: -5.0  # ranks everything upside down
    report = one.refit()
    assert report is not None
    assert not report.swapped
    assert one.champion == good


def test_a_drift_drops_outdated_labels():
    one = learner()
    for label in labels(600, 4.0):
        one.observe(label)
    one.refit()
    assert one.champion is not None
    for label in labels(600, -4.0, seed=1):
        if one.observe(label):
            one.refit()
    assert one.drifts >= 1
    assert one.champion is not None
    assert one.champion < 0


@pytest.mark.parametrize(
    "label",
    [
        Label(0.0, float("nan")),
        Label(0.0, 2.0),
        Label(0.0, 0.5, 0.0),
        Label(0.0, 0.5, 1.5),
    ],
)
def test_a_rubbish_label_is_refused_and_not_kept(label: Label[float]):
    one = learner()
    with pytest.raises(ValueError, match="router"):
        one.observe(label)
    assert not one.labels


def test_saved_labels_restore_what_was_known():
    one, other = learner(), learner()
    for label in labels(300, 2.0):
        one.observe(label)
    one.refit()
    other.restore(one.labels)
    assert other.champion == pytest.approx(one.champion)


def test_the_weight_of_a_rare_look_is_limited():
    assert Label(0.0, 1.0, 0.5).weight == 2.0
    assert Label(0.0, 1.0, 0.0001).weight == 50.0


def test_drift_is_seen_in_a_changed_mean_and_not_in_noise():
    rng = np.random.default_rng(0)
    calm, turned = DriftDetector(), DriftDetector()
    assert sum(calm.add(value) for value in rng.random(1000)) == 0
    stream = np.r_[rng.random(400) * 0.3, 0.6 + rng.random(400) * 0.4]
    assert sum(turned.add(value) for value in stream) > 300


@pytest.mark.parametrize("n", [500, 10_000, 25_000])
def test_shadow_runs_never_exceed_their_share_of_the_horizon(n: int):
    budget = ShadowSampler(0.05, horizon=10_000, seed=1)
    looks = sum(budget.sample(0.4) is not None for _ in range(n))
    assert looks <= 0.05 * max(n, 10_000) * (1 if n <= 10_000 else 1.25)
    assert looks > 0.02 * n


def test_shadow_runs_come_early_and_where_the_outcome_is_open():
    budget = ShadowSampler(0.05, horizon=10_000, seed=2)
    rng = np.random.default_rng(3)
    spread = rng.choice([0.1, 0.5], 10_000)
    looked = [budget.sample(float(one)) for one in spread]
    first = sum(one is not None for one in looked[:5000])
    assert first > 0.7 * sum(one is not None for one in looked)
    open_ = sum(one is not None for one, wide in zip(looked, spread, strict=True) if wide > 0.3)
    assert open_ > 3 * sum(
        one is not None for one, wide in zip(looked, spread, strict=True) if wide < 0.3
    )


def test_no_share_no_looks():
    budget = ShadowSampler(0.0)
    assert all(budget.sample(1.0) is None for _ in range(100))


@pytest.mark.parametrize("share", [-0.01, 0.06])
def test_a_share_outside_its_range_is_refused(share: float):
    with pytest.raises(ValueError, match="shadow"):
        ShadowSampler(share)


def test_a_challenger_from_before_a_drift_is_not_adopted():
    one = learner()
    for label in labels(300, 2.0):
        one.observe(label)
    challenge = one.challenge(one.snapshot())
    assert challenge is not None
    one._drop_outdated(100)
    assert one.adopt(challenge) is None
    assert one.champion is None
