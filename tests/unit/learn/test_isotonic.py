from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.learn.isotonic import Isotonic

finite = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(finite, st.floats(0, 1), st.floats(0.01, 100)), min_size=1, max_size=60))
def test_the_map_is_monotone_and_stays_within_its_targets(rows):
    score, target, weight = (np.array(part) for part in zip(*rows, strict=True))
    fitted = Isotonic.fit(score, target, weight=weight, prior_weight=1.0)
    at = np.sort(score)
    out = fitted.predict(at)
    assert (np.diff(out) >= -1e-9).all()
    assert out.min() >= target.min() - 1e-9
    assert out.max() <= target.max() + 1e-9
    assert fitted.predict_one(float(at[0])) == pytest.approx(out[0], abs=1e-9)


def test_it_is_the_least_squares_monotone_fit():
    fitted = Isotonic.fit(np.array([1.0, 2, 3, 4]), np.array([0.0, 1, 0, 1]))
    assert fitted.predict(np.array([1.0, 2.5, 4.0])) == pytest.approx([0.0, 0.5, 1.0])


def test_calibration_holds_on_new_rows():
    rng = np.random.default_rng(0)
    score = rng.normal(size=8000)
    truth = 1 / (1 + np.exp(-2 * score))
    label = (rng.uniform(size=8000) < truth).astype(float)
    fitted = Isotonic.fit(score[:4000], label[:4000])
    assert np.abs(fitted.predict(score[4000:]) - truth[4000:]).mean() < 0.03


def test_few_rows_that_agree_are_no_certainty():
    score, label = np.array([0.0, 1.0]), np.array([0.0, 1.0])
    assert Isotonic.fit(score, label, prior_weight=4).predict_one(1.0) == pytest.approx(0.6)


@pytest.mark.parametrize("bad", [np.array([]), np.array([np.nan, 1.0])])
def test_rubbish_is_refused_with_a_reason(bad: np.ndarray):
    with pytest.raises(ValueError, match="isotonic"):
        Isotonic.fit(bad, np.ones(len(bad)))
