"""Features of a candidate from the other candidates' answers, for the agreement model.

If the three nearest stored questions share one answer, a fourth question beside them probably has
it too; if they disagree, small differences matter here. For each candidate the evidence of those
whose stored answer agrees with its own is set against the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, log1p
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from app.cache.decision import CandidateView

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
_NEAREST: Final = 5
_MAX_TRUST: Final = 0.95  # no single neighbour is taken for certain


@dataclass(slots=True)
class _AnswerGroup:
    """The candidates of one answer group, aggregated."""

    count: int = 0
    of_5: int = 0
    p_sum: float = 0.0
    miss: float = 0.0
    logit: float = 0.0
    best: float = 0.0
    least: float = 1.0
    cosine: float = -2.0


def neighbour_features(
    probabilities: NDArray[np.float64], cosines: Sequence[float], answers: Sequence[str]
) -> NDArray[np.float64]:
    """Return float64[k, len(NEIGHBOUR_FEATURES)] for k >= 1 candidates, nearest first.

    `probabilities` float[k] are the pair model's; `answers` name groups of agreeing answers. Plain
    arithmetic: for the handful of candidates there are, a third of what arrays cost.
    """
    sides: dict[str, _AnswerGroup] = {}
    each = []
    total = misses = 0.0
    for place, (chance, cosine, answer) in enumerate(
        zip(probabilities.tolist(), cosines, answers, strict=True)
    ):
        p = min(max(chance, _CLIP), 1 - _CLIP)
        logit, miss = log(p / (1 - p)), log1p(-_MAX_TRUST * p)
        side = sides.get(answer)
        if side is None:
            side = sides[answer] = _AnswerGroup()
        side.count += 1
        side.of_5 += place < _NEAREST
        side.p_sum += p
        side.miss += miss
        side.logit += logit
        side.best, side.least = max(side.best, p), min(side.least, p)
        side.cosine = max(side.cosine, cosine)
        total += p
        misses += miss
        each.append((p, logit, answer))
    tails = {
        name: _group_features(side, sides, total, misses, len(each)) for name, side in sides.items()
    }
    return np.array([(p, logit, *tails[answer]) for p, logit, answer in each])


def _group_features(
    side: _AnswerGroup, sides: dict[str, _AnswerGroup], total: float, misses: float, count: int
) -> tuple[float, ...]:
    """The features that all candidates of one group share."""
    other = other_cosine = 0.0
    for each in sides.values():
        if each is not side:
            other, other_cosine = max(other, each.best), max(other_cosine, each.cosine)
    cosine = side.cosine if side.count == count else max(side.cosine, 0.0)
    return (
        side.count,
        side.of_5,
        side.p_sum,
        side.p_sum / total,
        side.miss,
        misses - side.miss,
        other,
        side.best - other,
        side.best,
        cosine - other_cosine,
        side.logit / side.count,
        side.least,
        len(sides),
    )


def earlier_groups(
    candidate: CandidateView | None,
    trusted: Sequence[CandidateView],
    confirmed_at_s: Mapping[str, float],
) -> tuple[str, ...]:
    """Return the other groups among ``trusted`` that were stored before the candidate's was last given.

    ``confirmed_at_s``: when a model last gave each group. A later one may have replaced the candidate's.
    """
    if candidate is None:
        return ()
    own = candidate.answer_group
    kept = [c.kept_s for c in (candidate, *trusted) if c.answer_group == own]
    given_s = max(*kept, confirmed_at_s.get(own, candidate.kept_s))
    return tuple(c.answer_group for c in trusted if c.answer_group != own and c.kept_s <= given_s)
