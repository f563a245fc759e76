"""A hand-written scorer, set before any answer was compared: the baseline of "learned online".

DECISIONS.md measures what few labels win from such a scorer upwards (mix .511, Haiku .544), of which it
gives the kind, fixed weights on counted wording, but not the numbers. So this is one written anew from
the features that it lists: long, numeric, coded, mathematical, constrained, reasoned and professional
prompts count as hard, looking up and rewording as easy, all in one sum with round weights. They were set
once, unseen any gain, and are not to be tuned: nothing here knows of kinds of prompt, or of the public pairs.

It is a yardstick of the benchmark alone. What is shipped (`app.classify.complexity.prior_margin`) is
written by hand too, but after public pairs had been looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from app.classify.features import DENSE_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_WEIGHTS = {
    "log_words": 0.5,
    "numbers": 0.25,
    "operators": 0.25,
    "looks_like_code": 0.5,
    "looks_like_latex": 0.5,
    "log_total_chars": 0.1,
    "turns": 0.1,
    "tools": 0.25,
    "code_share": 2.0,
    "maths_share": 2.0,
    "constraint_share": 2.0,
    "reasoning_share": 2.0,
    "hard_share": 4.0,
    "expert_share": 2.0,
    "lookup_share": -2.0,
    "transform_share": -2.0,
}
_ROW = np.array([_WEIGHTS.get(name, 0.0) for name in DENSE_NAMES])


def plain_score(dense: Floats) -> float:
    """The score of one dense row; higher is harder, on no particular scale."""
    return float(dense @ _ROW)
