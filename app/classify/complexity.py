"""The gain to be had from the powerful model, as a probability: a hand-written prior.

What is scored is not "difficulty" but P(the powerful model's answer is better). Without labels of
one's own traffic no learned router beats a coin (88 of 195 runs on other people's prompts fell below
random), so the start is this small scorer whose weights were set by hand. Learned heads
(`app.routing.learning`) take over as labels come in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from app.classify.features import DENSE_NAMES, Features

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Hand-set, on the scale of log-odds: a question that asks for proof, constraints or several steps is
# likelier to profit from the powerful model; a look-up or a rewriting task is not.
_WEIGHTS: dict[str, float] = {
    "log_words": 0.25,
    "long_word_share": 0.8,
    "numbers": 0.15,
    "operators": 0.15,
    "code_marks": 0.1,
    "latex_marks": 0.25,
    "options": 0.03,
    "bullets": 0.15,
    "code_fence": 0.3,
    "code_share": 1.0,
    "maths_share": 2.0,
    "constraint_share": 2.0,
    "reasoning_share": 4.0,
    "expert_share": 4.0,
    "lookup_share": -1.5,
    "transform_share": -4.0,
    "turns": 0.1,
    "tools": 0.1,
    "wants_json": 0.1,
}
_BIAS = -2.3
_ROW = tuple(_WEIGHTS.get(name, 0.0) for name in DENSE_NAMES)


def prior(features: Features) -> float:
    """P(the powerful model is better) by the hand-written scorer, in (0, 1)."""
    return 1.0 / (1.0 + math.exp(-prior_margin(features.dense)))


def prior_margin(dense: NDArray[np.float64]) -> float:
    """The same as log-odds."""
    return _BIAS + sum(weight * value for weight, value in zip(_ROW, dense.tolist(), strict=True))
