"""The expected gain of the powerful model: a hand-written prior, and heads that learn it.

The target is not "difficulty" but the gain: the quality of the powerful model's answer minus the fast
model's. Models trained on other traffic do not predict it (88 of 195 such runs fell below random), so a
gateway starts from `prior_margin`, and a head per (fast, powerful) pair takes over as labels of its own
traffic come in.

The prior ranks kinds of prompt, and does not rank within a kind where nothing is known: length is
informative among exam questions and word problems, not among open requests or code. A scorer that ranks
by it everywhere is worse than random on some traffic.

A head is the sum of three: the prior times a fixed slope; ridge regression of the residual on topic
probabilities and hashed words (`app.learn.hashed_linear`: with 100 labels the penalty keeps it near zero);
and, from 1,000 labels, gradient boosted trees on the dense features. Its score is calibrated (isotonic
regression, blended with a line) on out-of-fold predictions, and it is used only if its APGR there is better
than random. Measured: bench/router.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from zlib import crc32

import numpy as np

from app.classify.calibration import apgr_lower_bound
from app.classify.features import DENSE_NAMES, Features
from app.classify.topics import Topics
from app.learn.gbdt import Gbdt, GbdtParams
from app.learn.hashed_linear import HashedLinear, HashedRows, fit_hashed
from app.learn.isotonic import Isotonic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

A = TypeVar("A", float, "Floats")

_COLUMN_OF = {name: at for at, name in enumerate(DENSE_NAMES)}
_PRIOR_COLUMNS = np.array(
    [
        _COLUMN_OF[name]
        for name in (
            *("options", "looks_like_code", "looks_like_latex"),
            *("log_chars", "log_words", "numbers", "hard_share"),
        )
    ]
)

_EXAM_OPTIONS: Final = 3
_PROBLEM_WORDS: Final = math.log1p(12)
_PROBLEM_NUMBERS: Final = math.log1p(2)
_MEDIAN_LOG_CHARS: Final = 5.6  # 270 characters, about the median exam question
_LENGTH_SLOPE, _CODE_LEVEL, _LATEX_LEVEL, _HARD_LEVEL = 0.6, 0.8, 1.4, 0.8

# A margin m means P(gain > 0) = sigmoid(_LOGIT_BIAS + _LOGIT_SLOPE * m). The base rate of the public pairs is
# 0.15-0.30.
_LOGIT_BIAS, _LOGIT_SLOPE = -1.4, 0.7

_DOUBLE = struct.Struct("d").pack
_HASH_MULTIPLIER, _TIE_BREAK_WIDTH = 2_654_435_761, 0.02

GAIN_PER_MARGIN: Final = 0.16
"""Expected gain per unit of the prior's margin, until labels say otherwise."""
PRIOR_LABELS: Final = 60.0
"""Pseudo-count of the prior: the head's weight is lambda = n / (n + 60)."""
_TREES_PRIOR_LABELS = 500.0
_LINEAR_SCALE = 0.015  # prior variance of the weights of words and topics
_MARGIN_SCALE = math.sqrt(0.008 / _LINEAR_SCALE)
_TREES = GbdtParams(
    trees=40,
    depth=3,
    learning_rate=0.08,
    l2=5.0,
    min_leaf_weight=20.0,
    row_share=0.7,
    feature_share=0.5,
)
_CHANCE = 0.5
_ISOTONIC_WEIGHT = 0.75  # of the calibration; least error on the build half of the public pairs
_FOLDS = 3
_TREES_MIN_LABELS = 1_000
_HOLDOUT_MIN_LABELS = 3_000
_HOLDOUT_SHARE = 0.25
MIN_LABELS: Final = 40


def prior_margin(dense: Floats) -> float:
    """The hand-written score of one dense row, about -1.5 to 2; 0 where nothing is known."""
    options, code, latex, chars, words, numbers, hard = dense.take(_PRIOR_COLUMNS).tolist()
    length = _LENGTH_SLOPE * (float(chars) - _MEDIAN_LOG_CHARS)
    if options >= _EXAM_OPTIONS:
        return length
    if code:
        return _CODE_LEVEL
    if latex:
        return _LATEX_LEVEL
    if numbers >= _PROBLEM_NUMBERS and words >= _PROBLEM_WORDS:
        return length
    return _HARD_LEVEL if hard > 0 else 0.0


class GainFeatures(NamedTuple):
    """A prompt's features for gain prediction: dense row, hashed columns and topic probabilities; no text."""

    dense: Floats
    hashed: NDArray[np.intp]
    topics: Floats


def prior(dense: Floats, hashed: NDArray[np.intp]) -> float:
    """P(the powerful model's answer is better) by the hand-written scorer, in (0, 1).

    Ties are broken by a hash of the words, the same way for the same words, so that a threshold can
    split prompts that the scorer does not rank.
    """
    return _prior(prior_margin(dense), hashed)


def _prior(margin: float, hashed: NDArray[np.intp]) -> float:
    tie_break = (crc32(hashed.data) * _HASH_MULTIPLIER & 0xFFFFFFFF) / 2**32 - 0.5
    return (
        1.0 / (1.0 + math.exp(-(_LOGIT_BIAS + _LOGIT_SLOPE * margin)))
        + _TIE_BREAK_WIDTH * tie_break
    )


@dataclass(frozen=True, slots=True)
class GainHead:
    """A fitted head of one (fast, powerful) pair; immutraining.

    `labels`: how many it was fitted on, which sets its weight against the prior. `lower_bound`: one-sided
    bound of its out-of-fold APGR; below 0.5 it has not been shown to rank better than random, and
    `probability` is the prior's.
    """

    labels: int
    lower_bound: float
    linear: HashedLinear
    trees: Gbdt | None
    trees_weight: float
    isotonic_calibration: Isotonic
    linear_calibration: LinearCalibration
    topic_weights: Floats = field(init=False, repr=False, compare=False)
    margin_weight: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Split the linear model's dense weights as `_gain` needs them."""
        dense = self.linear.first_dense
        object.__setattr__(self, "topic_weights", dense[:-1])
        object.__setattr__(self, "margin_weight", _MARGIN_SCALE * float(dense[-1]))

    def gain(self, features: GainFeatures) -> float:
        """The expected gain of the powerful model, blended with the prior's by n / (n + 60)."""
        margin = prior_margin(features.dense)
        return _blend(self._gain(features, margin), margin, self.labels)

    def _gain(self, features: GainFeatures, margin: float) -> float:
        out = self.linear.one(features.hashed)
        out += float(np.sqrt(features.topics).dot(self.topic_weights)) + margin * self.margin_weight
        if self.trees is not None:
            row = np.frombuffer(features.dense.tobytes() + _DOUBLE(margin))
            out += self.trees_weight * (self.trees.predict_one(row) - out)
        return out + GAIN_PER_MARGIN * margin

    def probability(self, features: GainFeatures) -> float:
        """P(the powerful model's answer is better), blended with the prior by n / (n + 60)."""
        margin = prior_margin(features.dense)
        prior_probability = _prior(margin, features.hashed)
        if self.lower_bound < _CHANCE:
            return prior_probability
        gain = _blend(self._gain(features, margin), margin, self.labels)
        linear = self.linear_calibration.predict(gain)
        isotonic = self.isotonic_calibration.predict_one(gain)
        calibrated = linear + _ISOTONIC_WEIGHT * (isotonic - linear)
        return _blend(calibrated, prior_probability, self.labels, 1.0)


@dataclass(frozen=True, slots=True)
class LinearCalibration:
    """P(gain > 0) as a linear function of the score.

    Isotonic regression pools adjacent scores, and within a pool only the prior would rank prompts; blending
    in a quarter of a line keeps the head's ranking.
    """

    intercept: float
    slope: float

    def predict(self, score: float) -> float:
        """The probability at a score, clipped to 0..1."""
        return min(1.0, max(0.0, self.intercept + self.slope * score))

    @classmethod
    def fit(cls, score: Floats, better: Floats, weight: Floats) -> LinearCalibration:
        """Least squares; monotonic, as the slope is at least 0."""
        share = weight / weight.sum()
        mean_score, mean_better = float(share @ score), float(share @ better)
        variance = float(share @ (score - mean_score) ** 2)
        slope = max(0.0, float(share @ ((score - mean_score) * better))) / max(variance, 1e-9)
        return cls(mean_better - slope * mean_score, slope)


def _blend(learned: A, prior: A, labels: int, scale: float = GAIN_PER_MARGIN) -> A:
    share = labels / (labels + PRIOR_LABELS)
    return share * learned + (1 - share) * scale * prior


class Complexity:
    """The complexity score: P(the powerful model's answer is better) of a prompt.

    The learner swaps `head`; None means the hand-written prior. Reading it is atomic.
    """

    __slots__ = ("head", "topics")

    def __init__(self, head: GainHead | None = None) -> None:
        """Load the shipped topic classifier."""
        self.topics = Topics.shipped()
        self.head = head

    def features_of(self, features: Features) -> GainFeatures:
        """The features that a label of the prompt must keep."""
        return GainFeatures(
            features.dense, features.hashed, self.topics.probabilities(features.hashed)
        )

    def __call__(self, features: Features) -> float:
        """Score a prompt; about 0.1 ms with a head."""
        head = self.head
        if head is None:
            return prior(features.dense, features.hashed)
        return head.probability(self.features_of(features))


def score(head: GainHead | None, features: GainFeatures) -> float:
    """P(the powerful model's answer is better), by a head or by the prior where there is none."""
    return prior(features.dense, features.hashed) if head is None else head.probability(features)


def fit_head(
    examples: Sequence[GainFeatures],
    gains: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    seed: int = 0,
) -> GainHead | None:
    """Fit a head; None below 40 labels, or when all gains are equal. Under a second for 10,000.

    `gains`: quality of the powerful minus the fast answer, -1..1. `weights`: inverse propensities.
    """
    training = _TrainingSet.of(examples, gains, weights)
    if training is None:
        return None
    out_of_fold, ensemble = _out_of_fold(training, seed)
    gain = training.gain
    everything = np.arange(len(gain))
    if ensemble is None:
        parts = _fit(training, everything, seed, len(gain))
    else:
        parts = replace(
            _fit_linear(training, everything),
            trees=ensemble.trees,
            trees_weight=ensemble.trees_weight,
        )
    seen = np.isfinite(out_of_fold)
    scores = _blend(out_of_fold[seen], training.margin[seen], len(gain))
    seen_gain, weight = gain[seen], training.weight[seen]
    better = (seen_gain > 0).astype(np.float64)
    return GainHead(
        labels=len(gain),
        lower_bound=apgr_lower_bound(scores, seen_gain, weight=weight, seed=seed),
        linear=parts.linear,
        trees=parts.trees,
        trees_weight=parts.trees_weight,
        isotonic_calibration=Isotonic.fit(scores, better, weight=weight, prior_weight=5.0),
        linear_calibration=LinearCalibration.fit(scores, better, weight),
    )


def fit_head_reusing_calibration(
    head: GainHead,
    examples: Sequence[GainFeatures],
    gains: Sequence[float],
    weights: Sequence[float] | None = None,
) -> GainHead | None:
    """Fit a head as `fit_head` does, but reuse the calibration of `head`: a quarter of the work, for a head
    that only has to rank.
    """
    training = _TrainingSet.of(examples, gains, weights)
    if training is None:
        return None
    labels = len(training.gain)
    parts = _fit(training, np.arange(labels), 0, labels)
    return replace(
        head, labels=labels, linear=parts.linear, trees=parts.trees, trees_weight=parts.trees_weight
    )


@dataclass(frozen=True, slots=True)
class _TrainingSet:
    """The training examples as arrays; `margin` is the prior's."""

    hashed_rows: tuple[NDArray[np.intp], ...]
    linear_dense: Floats
    dense: Floats
    margin: Floats
    gain: Floats
    weight: Floats

    @classmethod
    def of(
        cls,
        examples: Sequence[GainFeatures],
        gains: Sequence[float],
        weights: Sequence[float] | None,
    ) -> _TrainingSet | None:
        """None where there are too few labels or their gains are all equal."""
        gain = np.array(gains, dtype=np.float64)
        if len(gain) < MIN_LABELS or not np.ptp(gain):
            return None
        weight = np.ones(len(gain)) if weights is None else np.array(weights, dtype=np.float64)
        margin = np.array([prior_margin(features.dense) for features in examples])
        dense = np.array([features.dense for features in examples])
        rows = zip(examples, margin.tolist(), strict=True)
        return cls(
            hashed_rows=tuple(features.hashed for features in examples),
            linear_dense=np.array([_linear_row(features.topics, one) for features, one in rows]),
            dense=np.column_stack((dense, margin)),
            margin=margin,
            gain=gain,
            weight=weight,
        )

    def hashed(self, at: NDArray[np.intp]) -> HashedRows:
        return HashedRows.of([self.hashed_rows[one] for one in at])

    def residual(self, at: NDArray[np.intp]) -> Floats:
        """The gain minus the prior's prediction."""
        return self.gain[at] - GAIN_PER_MARGIN * self.margin[at]


@dataclass(frozen=True, slots=True)
class _Ensemble:
    linear: HashedLinear
    trees: Gbdt | None = None
    trees_weight: float = 0.0


def _fit_linear(training: _TrainingSet, at: NDArray[np.intp]) -> _Ensemble:
    noise = max(float(np.var(training.gain[at])), 1e-3)
    linear = fit_hashed(
        training.hashed(at),
        training.residual(at)[:, None],
        penalty=noise / _LINEAR_SCALE,
        dense=training.linear_dense[at],
        weight=training.weight[at],
    )
    return _Ensemble(linear)


def _fit(training: _TrainingSet, at: NDArray[np.intp], seed: int, labels: int) -> _Ensemble:
    """Fit the rows `at`; with trees where there are enough `labels` in all."""
    parts = _fit_linear(training, at)
    if labels < _TREES_MIN_LABELS:
        return parts
    weight = training.weight[at] / training.weight[at].mean()
    trees = Gbdt.fit(
        training.dense[at], training.residual(at), weight=weight, params=replace(_TREES, seed=seed)
    )
    return replace(parts, trees=trees, trees_weight=0.5 * len(at) / (len(at) + _TREES_PRIOR_LABELS))


def _predict(parts: _Ensemble, training: _TrainingSet, at: NDArray[np.intp]) -> Floats:
    out = parts.linear.many(training.hashed(at), training.linear_dense[at])[:, 0]
    if parts.trees is not None:
        out = out + parts.trees_weight * (parts.trees.predict(training.dense[at]) - out)
    return out + GAIN_PER_MARGIN * training.margin[at]


def _out_of_fold(training: _TrainingSet, seed: int) -> tuple[Floats, _Ensemble | None]:
    """Out-of-fold scores (NaN: none), and the fitted ensemble where its trees can be reused.

    From 3,000 labels one quarter is held out once and the trees of the other three quarters are reused, so
    that a refit stays under a second; below, three-fold cross-validation scores each row once.
    """
    n = len(training.gain)
    order = np.random.default_rng(seed).permutation(n)
    out = np.full(n, np.nan)
    if n >= _HOLDOUT_MIN_LABELS:
        held, rest = np.split(order, [int(n * _HOLDOUT_SHARE)])
        parts = _fit(training, np.sort(rest), seed, n)
        out[held] = _predict(parts, training, held)
        return out, parts
    for held in np.array_split(order, _FOLDS):
        rest = np.setdiff1d(order, held)
        out[held] = _predict(_fit(training, rest, seed, n), training, held)
    return out, None


def _linear_row(topics: Floats, margin: float) -> Floats:
    """The dense part of the linear model's input, scaled to unit length as the words are."""
    out = np.empty(len(topics) + 1)
    out[:-1] = np.sqrt(topics)
    out[-1] = margin * _MARGIN_SCALE
    return out
