"""The gain to be had from the powerful model: a hand-written prior, and heads that learn it.

What is scored is not "difficulty" but the gain: the quality of the powerful model's answer minus the
fast model's. Nothing learned on other people's prompts predicts it (88 of 195 such runs fell below
random), so a gateway starts from `prior_margin`, and a head per (fast, powerful) pair takes over as
labels of its own traffic come in.

The prior ranks kinds of prompt and refuses to rank within a kind where nothing is known: length
tells something among exam questions and word problems, nothing among open requests or code. A scorer
that pretends otherwise is worse than a coin on some traffic.

A head is the sum of three: the prior times a fixed slope; ridge regression of what the prior leaves
over, on topics and hashed words (`app.learn.hashed_linear`: from 100 labels it says little, and
says so by staying near zero); and, from 1,000 labels, boosted trees on the dense features. Its score
is calibrated on rows that it was not fitted on, and it is used only if it ranks those better than
chance. Measured: bench/router.
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

_AT = {name: at for at, name in enumerate(DENSE_NAMES)}
_READ = np.array(
    [
        _AT[name]
        for name in (
            *("options", "looks_like_code", "looks_like_latex"),
            *("log_chars", "log_words", "numbers", "hard_share"),
        )
    ]
)

_EXAM_OPTIONS: Final = 3
_PROBLEM_WORDS: Final = math.log1p(12)
_PROBLEM_NUMBERS: Final = math.log1p(2)
_MIDDLE_LOG_CHARS: Final = 5.6  # 270 characters, about the median exam question
_LENGTH_SLOPE, _CODE_LEVEL, _LATEX_LEVEL, _HARD_LEVEL = 0.6, 0.8, 1.4, 0.8

# Probabilities: where a hand-set margin m stands for P(gain > 0) = sigmoid(_BIAS + _STEEP * m). The
# base rate of the public pairs lies at 0.15-0.30.
_BIAS, _STEEP = -1.4, 0.7

_DOUBLE = struct.Struct("d").pack
_COIN, _COIN_WIDTH = 2_654_435_761, 0.02

SLOPE: Final = 0.16
"""Expected gain per unit of the prior's margin, until labels say otherwise."""
PRIOR_LABELS: Final = 60.0
"""The prior weighs as much as this many labels: lambda = n / (n + 60)."""
_TREES_LABELS = 500.0
_LINEAR_SCALE = 0.015  # prior variance of the gain that words, or topics, explain
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
_ISOTONIC_SHARE = (
    0.75  # of the calibration; that which errs least on the build half of the public pairs
)
_FOLDS = 3
_TREES_FROM = 1_000
_HOLDOUT_FROM = 3_000
_HOLDOUT_SHARE = 0.25
MIN_LABELS: Final = 40


def prior_margin(dense: Floats) -> float:
    """The hand-written score of one dense row, about -1.5 to 2; 0 where nothing is known."""
    options, code, latex, chars, words, numbers, hard = dense.take(_READ).tolist()
    length = _LENGTH_SLOPE * (float(chars) - _MIDDLE_LOG_CHARS)
    if options >= _EXAM_OPTIONS:
        return length
    if code:
        return _CODE_LEVEL
    if latex:
        return _LATEX_LEVEL
    if numbers >= _PROBLEM_NUMBERS and words >= _PROBLEM_WORDS:
        return length
    return _HARD_LEVEL if hard > 0 else 0.0


class Point(NamedTuple):
    """Where a prompt lies: its dense row, its hashed columns and its topics; never its text."""

    dense: Floats
    hashed: NDArray[np.intp]
    topics: Floats


def prior(dense: Floats, hashed: NDArray[np.intp]) -> float:
    """P(the powerful model's answer is better) by the hand-written scorer, in (0, 1).

    Within a kind of prompt of which nothing is known a coin decides, the same way for the same
    words, so that a threshold can part what the scorer does not.
    """
    return _prior(prior_margin(dense), hashed)


def _prior(margin: float, hashed: NDArray[np.intp]) -> float:
    coin = (crc32(hashed.data) * _COIN & 0xFFFFFFFF) / 2**32 - 0.5
    return 1.0 / (1.0 + math.exp(-(_BIAS + _STEEP * margin))) + _COIN_WIDTH * coin


@dataclass(frozen=True, slots=True)
class GainHead:
    """A fitted head of one (fast, powerful) pair; immutable.

    `labels`: how many it was fitted on, which also blends it with the prior. `lower_bound`: one-sided
    bound of its APGR on rows it had not seen; below 0.5 it has not been shown to rank better than
    chance, and `probability` is the prior's.
    """

    labels: int
    lower_bound: float
    linear: HashedLinear
    trees: Gbdt | None
    trees_share: float
    calibration: Isotonic
    line: Line
    topic_weights: Floats = field(init=False, repr=False, compare=False)
    margin_weight: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Part the linear head's weights as `_gain` asks for them."""
        dense = self.linear.first_dense
        object.__setattr__(self, "topic_weights", dense[:-1])
        object.__setattr__(self, "margin_weight", _MARGIN_SCALE * float(dense[-1]))

    def gain(self, point: Point) -> float:
        """The expected gain of the powerful model: the head's and the prior's, by n / (n + 60)."""
        margin = prior_margin(point.dense)
        return _blend(self._gain(point, margin), margin, self.labels)

    def _gain(self, point: Point, margin: float) -> float:
        out = self.linear.one(point.hashed)
        out += float(np.sqrt(point.topics).dot(self.topic_weights)) + margin * self.margin_weight
        if self.trees is not None:
            row = np.frombuffer(point.dense.tobytes() + _DOUBLE(margin))
            out += self.trees_share * (self.trees.predict_one(row) - out)
        return out + SLOPE * margin

    def probability(self, point: Point) -> float:
        """P(the powerful model's answer is better), blended with the prior by n / (n + 60)."""
        margin = prior_margin(point.dense)
        before = _prior(margin, point.hashed)
        if self.lower_bound < _CHANCE:
            return before
        gain = _blend(self._gain(point, margin), margin, self.labels)
        line = self.line.at(gain)
        stated = line + _ISOTONIC_SHARE * (self.calibration.predict_one(gain) - line)
        return _blend(stated, before, self.labels, 1.0)


@dataclass(frozen=True, slots=True)
class Line:
    """P(gain > 0) as a straight line of the score.

    Isotonic calibration pools what it cannot part, and within a pool the prior alone would order
    the prompts; a quarter of a line keeps the order that the head gives them.
    """

    level: float
    slope: float

    def at(self, score: float) -> float:
        """The probability at a score, within 0..1."""
        return min(1.0, max(0.0, self.level + self.slope * score))

    @classmethod
    def fit(cls, score: Floats, better: Floats, weight: Floats) -> Line:
        """Least squares; never falling."""
        share = weight / weight.sum()
        middle, level = float(share @ score), float(share @ better)
        spread = float(share @ (score - middle) ** 2)
        slope = max(0.0, float(share @ ((score - middle) * better))) / max(spread, 1e-9)
        return cls(level - slope * middle, slope)


def _blend(learned: A, before: A, labels: int, scale: float = SLOPE) -> A:
    share = labels / (labels + PRIOR_LABELS)
    return share * learned + (1 - share) * scale * before


class Complexity:
    """What the classifier asks: P(the powerful model's answer is better) of a prompt.

    `head` is swapped by whoever learns; None means the hand-written prior. Reading it is atomic.
    """

    __slots__ = ("head", "topics")

    def __init__(self, head: GainHead | None = None) -> None:
        """Load the shipped table of topics."""
        self.topics = Topics.shipped()
        self.head = head

    def point(self, features: Features) -> Point:
        """Place a prompt; what a label of it must keep."""
        return Point(features.dense, features.hashed, self.topics.of(features.hashed))

    def __call__(self, features: Features) -> float:
        """Score a prompt; about 0.1 ms with a head."""
        head = self.head
        if head is None:
            return prior(features.dense, features.hashed)
        return head.probability(self.point(features))


def score(head: GainHead | None, point: Point) -> float:
    """Score a point by a head, or by the prior when there is none."""
    return prior(point.dense, point.hashed) if head is None else head.probability(point)


def fit_head(
    points: Sequence[Point],
    gains: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    seed: int = 0,
) -> GainHead | None:
    """Fit a head; None below 40 labels, or when all gains are the same. Under a second for 10,000.

    `gains`: quality of the powerful minus the fast answer, -1..1. `weights`: inverse propensities.
    """
    table = _Table.of(points, gains, weights)
    if table is None:
        return None
    out_of_fold, trees = _out_of_fold(table, seed)
    gain = table.gain
    everything = np.arange(len(gain))
    if trees is None:
        parts = _fit(table, everything, seed, len(gain))
    else:
        parts = replace(_fit_linear(table, everything), trees=trees.trees, share=trees.share)
    seen = np.isfinite(out_of_fold)
    scores = _blend(out_of_fold[seen], table.margin[seen], len(gain))
    shown, weight = gain[seen], table.weight[seen]
    better = (shown > 0).astype(np.float64)
    return GainHead(
        labels=len(gain),
        lower_bound=apgr_lower_bound(scores, shown, weight=weight, seed=seed),
        linear=parts.linear,
        trees=parts.trees,
        trees_share=parts.share,
        calibration=Isotonic.fit(scores, better, weight=weight, prior_weight=5.0),
        line=Line.fit(scores, better, weight),
    )


def fit_like(
    head: GainHead,
    points: Sequence[Point],
    gains: Sequence[float],
    weights: Sequence[float] | None = None,
) -> GainHead | None:
    """Fit a head as `fit_head` does, and give it the calibration of `head`: a quarter of the work, for one
    that only has to rank.
    """
    table = _Table.of(points, gains, weights)
    if table is None:
        return None
    labels = len(table.gain)
    parts = _fit(table, np.arange(labels), 0, labels)
    return replace(
        head, labels=labels, linear=parts.linear, trees=parts.trees, trees_share=parts.share
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """The examples as arrays; `margin` is the prior's."""

    rows: tuple[NDArray[np.intp], ...]
    linear: Floats
    dense: Floats
    margin: Floats
    gain: Floats
    weight: Floats

    @classmethod
    def of(
        cls,
        points: Sequence[Point],
        gains: Sequence[float],
        weights: Sequence[float] | None,
    ) -> _Table | None:
        """None where there is too little, or nothing, to learn."""
        gain = np.array(gains, dtype=np.float64)
        if len(gain) < MIN_LABELS or not np.ptp(gain):
            return None
        weight = np.ones(len(gain)) if weights is None else np.array(weights, dtype=np.float64)
        margin = np.array([prior_margin(point.dense) for point in points])
        dense = np.array([point.dense for point in points])
        rows = zip(points, margin.tolist(), strict=True)
        return cls(
            rows=tuple(point.hashed for point in points),
            linear=np.array([_linear_row(point.topics, one) for point, one in rows]),
            dense=np.column_stack((dense, margin)),
            margin=margin,
            gain=gain,
            weight=weight,
        )

    def hashed(self, at: NDArray[np.intp]) -> HashedRows:
        return HashedRows.of([self.rows[one] for one in at])

    def rest(self, at: NDArray[np.intp]) -> Floats:
        """What the prior leaves over of the gain."""
        return self.gain[at] - SLOPE * self.margin[at]


@dataclass(frozen=True, slots=True)
class _Parts:
    linear: HashedLinear
    trees: Gbdt | None = None
    share: float = 0.0


def _fit_linear(table: _Table, at: NDArray[np.intp]) -> _Parts:
    noise = max(float(np.var(table.gain[at])), 1e-3)
    linear = fit_hashed(
        table.hashed(at),
        table.rest(at)[:, None],
        penalty=noise / _LINEAR_SCALE,
        dense=table.linear[at],
        weight=table.weight[at],
    )
    return _Parts(linear)


def _fit(table: _Table, at: NDArray[np.intp], seed: int, labels: int) -> _Parts:
    """Fit the rows `at`; trees join when there are `labels` enough in all."""
    parts = _fit_linear(table, at)
    if labels < _TREES_FROM:
        return parts
    weight = table.weight[at] / table.weight[at].mean()
    trees = Gbdt.fit(
        table.dense[at], table.rest(at), weight=weight, params=replace(_TREES, seed=seed)
    )
    return replace(parts, trees=trees, share=0.5 * len(at) / (len(at) + _TREES_LABELS))


def _predict(parts: _Parts, table: _Table, at: NDArray[np.intp]) -> Floats:
    out = parts.linear.many(table.hashed(at), table.linear[at])[:, 0]
    if parts.trees is not None:
        out = out + parts.share * (parts.trees.predict(table.dense[at]) - out)
    return out + SLOPE * table.margin[at]


def _out_of_fold(table: _Table, seed: int) -> tuple[Floats, _Parts | None]:
    """Scores of rows by a model that had not seen them (NaN: none), and its trees if they will do.

    From 3,000 labels one quarter is held out once and the trees of the other three are kept, so
    that a refit stays under a second; below, each row is scored once in three folds.
    """
    n = len(table.gain)
    order = np.random.default_rng(seed).permutation(n)
    out = np.full(n, np.nan)
    if n >= _HOLDOUT_FROM:
        held, rest = np.split(order, [int(n * _HOLDOUT_SHARE)])
        parts = _fit(table, np.sort(rest), seed, n)
        out[held] = _predict(parts, table, held)
        return out, parts
    for held in np.array_split(order, _FOLDS):
        rest = np.setdiff1d(order, held)
        out[held] = _predict(_fit(table, rest, seed, n), table, held)
    return out, None


def _linear_row(topics: Floats, margin: float) -> Floats:
    """The dense part of the linear head, scaled to the words' length of one."""
    out = np.empty(len(topics) + 1)
    out[:-1] = np.sqrt(topics)
    out[-1] = margin * _MARGIN_SCALE
    return out
