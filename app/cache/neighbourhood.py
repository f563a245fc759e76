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
    same = (group[:, None] == group).astype(np.float64)
    p = np.minimum(np.maximum(probabilities, _CLIP), 1 - _CLIP)
    logit = np.log(p / (1 - p))
    miss = np.log1p(-_TRUST * p)
    agreeing = same.sum(axis=1)
    p_sum, agreeing_wrong = same @ p, same @ miss
    by_side = np.empty((4, *same.shape))  # of those that agree with each, and of the others
    np.multiply(same, p, out=by_side[0])
    np.subtract(p, by_side[0], out=by_side[1])
    np.multiply(same, cosines, out=by_side[2])
    np.subtract(cosines, by_side[2], out=by_side[3])
    best_agreeing, best_other, best_cosine, other_cosine = by_side.max(axis=2)
    made = np.empty((len(p), len(NEIGHBOUR_FEATURES)))
    made[:, 0], made[:, 1] = p, logit
    made[:, 2], made[:, 3] = agreeing, same[:, :5].sum(axis=1)
    made[:, 4], made[:, 5] = p_sum, p_sum / p.sum()
    made[:, 6], made[:, 7] = agreeing_wrong, miss.sum() - agreeing_wrong
    made[:, 8], made[:, 9] = best_other, best_agreeing - best_other
    made[:, 10], made[:, 11] = best_agreeing, best_cosine - other_cosine
    made[:, 12] = (same @ logit) / agreeing
    made[:, 13] = (by_side[0] + (1.0 - same)).min(axis=1)
    made[:, 14] = len(names)
    return made
