"""What the stored neighbours' answers say about each other.

If the three nearest stored questions share one answer, a fourth question beside them probably has
it too; if they disagree, small differences matter here. For each candidate the evidence of those
whose stored answer agrees with its own is set against the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NEIGHBOUR_FEATURES: Final = (
    "p",
    "logit",
    "agreeing",
    "agreeing_of_5",
    "p_sum",
    "p_share",
    "all_agreeing_wrong",
    "all_others_wrong",
    "best_other_p",
    "p_margin",
    "best_agreeing_p",
    "cosine_margin",
    "mean_logit",
    "least_agreeing_p",
    "distinct_answers",
)
_CLIP: Final = 1e-4
_TRUST: Final = 0.95  # no single neighbour is taken for certain


def neighbour_features(
    probabilities: NDArray[np.float64], cosines: NDArray[np.float64], answers: Sequence[str]
) -> NDArray[np.float64]:
    """Return float64[k, len(NEIGHBOUR_FEATURES)] for k >= 1 candidates, nearest first.

    `probabilities` float[k] are the pair model's; `answers` name groups of agreeing answers.
    """
    names = {name: i for i, name in enumerate(dict.fromkeys(answers))}
    group = np.array([names[a] for a in answers])
    same = group[:, None] == group[None, :]
    p = np.clip(probabilities, _CLIP, 1 - _CLIP)
    logit = np.log(p / (1 - p))
    agreeing = same.sum(axis=1)
    p_sum = same @ p
    miss = np.log1p(-_TRUST * p)
    agreeing_wrong = same @ miss
    best_other = np.where(same, 0.0, p[None, :]).max(axis=1)
    best_agreeing = np.where(same, p[None, :], 0.0).max(axis=1)
    best_cosine = np.where(same, cosines[None, :], 0.0).max(axis=1)
    other_cosine = np.where(same, 0.0, cosines[None, :]).max(axis=1)
    return np.stack(
        [
            p,
            logit,
            agreeing,
            same[:, :5].sum(axis=1),
            p_sum,
            p_sum / p.sum(),
            agreeing_wrong,
            miss.sum() - agreeing_wrong,
            best_other,
            best_agreeing - best_other,
            best_agreeing,
            best_cosine - other_cosine,
            (same @ logit) / agreeing,
            np.where(same, p[None, :], 1.0).min(axis=1),
            np.full(len(p), float(len(names))),
        ],
        axis=1,
    )
