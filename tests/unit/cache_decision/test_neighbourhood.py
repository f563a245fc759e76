"""What neighbours' answers say about each other: the plain arithmetic is what the arrays define."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.cache.neighbourhood import NEIGHBOUR_FEATURES, neighbour_features

CANDIDATE = st.tuples(st.floats(0, 1), st.floats(-1, 1), st.sampled_from("abcd"))


def defined(p: np.ndarray, cosines: np.ndarray, answers: list[str]) -> np.ndarray:
    """Each feature over all pairs of candidates."""
    group = np.array(answers)
    same = group[:, None] == group
    p = np.clip(p, 1e-4, 1 - 1e-4)
    logit, miss = np.log(p / (1 - p)), np.log1p(-0.95 * p)

    def most(of: np.ndarray, which: np.ndarray) -> np.ndarray:
        return np.where(which, of[None, :], 0.0).max(axis=1)

    return np.stack(
        [
            p, logit, same.sum(axis=1), same[:, :5].sum(axis=1), same @ p, same @ p / p.sum(),
            same @ miss, miss.sum() - same @ miss, most(p, ~same), most(p, same) - most(p, ~same),
            most(p, same), most(cosines, same) - most(cosines, ~same),
            (same @ logit) / same.sum(axis=1), np.where(same, p[None, :], 1.0).min(axis=1),
            np.full(len(p), float(len(set(answers)))),
        ],
        axis=1,
    )  # fmt: skip


@given(st.lists(CANDIDATE, min_size=1, max_size=8))
def test_every_feature_is_as_defined(candidates):
    p, cosines, answers = (list(column) for column in zip(*candidates, strict=True))
    made = neighbour_features(np.array(p), cosines, answers)
    assert made.shape == (len(candidates), len(NEIGHBOUR_FEATURES))
    assert np.allclose(made, defined(np.array(p), np.array(cosines), answers), atol=1e-9)
