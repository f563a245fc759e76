"""The bound: what evidence certifies, and what raises the alarm."""

from random import Random

import numpy as np
import pytest

from app.cache.bound import (
    ALARM_EVIDENCE,
    DriftDetector,
    EntryRecord,
    Limits,
    PseudoCounts,
    certify,
    pseudo_counts_of,
    wilson_upper,
)
from app.cache.verifier import OutOfFoldScores

LIMITS = Limits.of(0.01)


def outcomes(
    scores: list[float], agreed: list[float], weights: list[float] | None = None
) -> OutOfFoldScores:
    counted = np.ones(len(scores)) if weights is None else np.array(weights)
    return OutOfFoldScores(np.array(scores), np.array(agreed), counted)


def test_one_rate_stands_for_both_limits():
    assert Limits(0.01, 0.05) == LIMITS
    assert pytest.approx(0.8) == LIMITS.min_probability


def test_no_labels_certify_nothing():
    assert certify(outcomes([], []), LIMITS) is None


def test_few_right_hits_certify_nothing():
    assert certify(outcomes([0.99] * 10, [1.0] * 10), LIMITS) is None


def test_many_right_hits_certify_the_lowest_score_that_keeps_both_limits():
    scores = [0.99] * 200 + [0.9] * 100 + [0.1] * 700
    agreed = [1.0] * 200 + [1.0] * 50 + [0.0] * 50 + [0.0] * 700
    threshold = certify(outcomes(scores, agreed), LIMITS)
    assert threshold is not None
    assert threshold.score == 0.99
    assert (threshold.hits, threshold.wrong, threshold.labels) == (200, 0, 1000)


def test_equal_scores_are_served_together():
    scores, agreed = [0.95] * 200, [1.0] * 150 + [0.0] * 50
    assert certify(outcomes(scores, agreed), LIMITS) is None


def test_labels_that_were_chosen_by_their_score_do_not_count():
    scores, agreed = [0.95] * 400, [1.0] * 400
    assert certify(outcomes(scores, agreed, [0.0] * 400), LIMITS) is None


def test_nothing_is_certified_below_the_floor():
    assert certify(outcomes([0.7] * 500, [1.0] * 500), LIMITS) is None


@pytest.mark.parametrize("true_share", [0.01, 0.05, 0.2])
def test_the_upper_bound_covers_the_true_share_nine_times_in_ten(true_share: float):
    rng = np.random.default_rng(3)
    wrong = rng.binomial(300, true_share, size=2_000)
    covered = np.mean([wilson_upper(float(w), 300) >= true_share for w in wrong])
    assert covered >= 0.87


def test_routes_that_agree_lend_labels_and_few_routes_lend_none():
    alike = pseudo_counts_of([(200.0, 4.0), (300.0, 6.0), (250.0, 5.0)])
    apart = pseudo_counts_of([(200.0, 0.0), (300.0, 90.0), (250.0, 10.0)])
    assert pseudo_counts_of([(200.0, 4.0), (300.0, 6.0)]) == PseudoCounts()
    assert alike.hits > apart.hits
    assert pytest.approx(0.02) == alike.wrong / alike.hits


def test_honest_probabilities_hardly_ever_raise_the_alarm():
    """`ALARM` labels on average is what is proven; 40,000 honest ones raise it less than once."""
    rng, drift = Random(5), DriftDetector()
    alarms = 0
    for n in range(40_000):
        p = rng.random()
        if drift.observe(p, agreed=rng.random() < p, at_s=n):
            alarms += 1
            drift.reset()
    assert alarms <= 1


@pytest.mark.parametrize(("share", "most"), [(0.3, 100), (0.5, 50), (1.0, 15)])
def test_a_share_of_answers_that_ceased_to_be_right_is_found_and_dated(share: float, most: int):
    needed, dated = [], []
    for seed in range(40):
        rng, drift = Random(seed), DriftDetector()
        for n in range(200):
            p = rng.random()
            drift.observe(p, agreed=rng.random() < p, at_s=n)
        for n in range(200, 1_000):
            p = rng.random()
            if drift.observe(p, agreed=rng.random() < p * (1 - share), at_s=n):
                break
        needed.append(n - 199)
        dated.append(drift.since_s)
    assert np.median(needed) <= most
    assert np.median(np.abs(np.array(dated) - 199)) <= 12


def test_overconfidence_raises_the_alarm_within_a_few_labels():
    drift = DriftDetector()
    labels = next(n for n in range(1, 100) if drift.observe(0.9, agreed=False))
    assert labels <= 20
    assert drift.evidence >= ALARM_EVIDENCE
    drift.reset()
    assert drift.evidence == 1.0


def test_where_nothing_was_expected_nothing_is_learned():
    drift = DriftDetector()
    for _ in range(100):
        drift.observe(0.01, agreed=False)
    assert drift.evidence == 1.0


def test_one_report_is_no_proof_and_many_are():
    drift = DriftDetector()
    drift.observe_report()
    assert drift.evidence < 2
    assert next(n for n in range(2, 30) if drift.observe_report()) > 10


def test_an_entry_found_wrong_falls_below_the_floor_and_recovers_on_evidence():
    record = EntryRecord(wrong=1)
    assert record.posterior_mean(0.97) < LIMITS.min_probability
    record.right = 10
    assert record.posterior_mean(0.97) > LIMITS.min_probability
