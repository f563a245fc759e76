"""The learned score of a cached answer: the probability that it answers this question too.

Three stacked stages, each small enough for the hot path:

1. `TokenWeights`: logistic regression on hashed word differences (`token_weights`).
2. A pair model: gradient-boosted trees over the pair features, the cosine's logit and stage 1.
3. An agreement model: trees over stage 2's scores of all candidates together, so that neighbours
   whose stored answers agree support each other (`neighbour_features`).

A route without a fit has only the cosine as its score, and nothing is served on it (see `bound`).
Stages are cross-fitted in 5 folds of questions: what a later stage or the bound learns from is out of
fold, scored by models that had seen that question on neither side of a pair, as when a new question
comes in. Fitting pairs each of the route's recent questions with its nearest others and needs no model
call: whether two stored answers agree is known already.

Measured (`python -m bench.cache`): late interaction (word-piece vectors of the same forward pass)
was tried as further features of stage 2 and lowered the hit rate on the flight questions
(10.9 % against 13.5 % at 2 %), so no token vectors are stored.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np

from app.cache.guards import Differences, compare
from app.cache.neighbourhood import NEIGHBOUR_FEATURES, neighbour_features
from app.cache.pair_features import FEATURES, pair_features
from app.cache.token_weights import CONTRIBUTIONS as TOKEN_COLUMNS
from app.cache.token_weights import Bags, TokenWeights, hashed_features
from app.learn.gbdt import Gbdt, GbdtParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from app.cache.text_view import TextView

    Floats = NDArray[np.float64]

NEIGHBOURS: Final = 8  # candidates looked at, nearest first
# Columns of the pair model's and the agreement model's rows: a model of others is of another release.
PAIR_COLUMNS: Final = len(FEATURES) + 1 + TOKEN_COLUMNS
AGREEMENT_COLUMNS: Final = len(NEIGHBOUR_FEATURES) + len(FEATURES) + TOKEN_COLUMNS
_FOLDS: Final = 5
_MIN_QUESTIONS: Final = 40
_UNSEEN_QUANTILE: Final = 0.98
_CLIP: Final = 1e-6


# How a route's models are grown; the same for every route and benchmark stream. Chosen on orders 10 and 11
# of the public streams (docs/semantic-cache.md).
_PAIR_PARAMS: Final = GbdtParams(
    loss="logistic", trees=60, depth=4, learning_rate=0.12, l2=2.0, min_leaf_weight=2.0,
    row_share=0.6, feature_share=0.5, kept_columns=1, max_bins=32,
)  # fmt: skip
_AGREEMENT_PARAMS: Final = GbdtParams(
    loss="logistic", trees=48, depth=3, learning_rate=0.12, l2=4.0, min_leaf_weight=3.0,
    row_share=0.6, feature_share=0.5, kept_columns=1, max_bins=32,
)  # fmt: skip


class Idf:
    """Inverse document frequency of stems on one route, in nats; unseen stems have the highest."""

    __slots__ = ("_counts", "_nats", "_rarest", "_total")

    def __init__(self, counts: dict[str, int], total: int) -> None:
        self._counts = counts
        self._total = total
        self._rarest = math.log(total + 1)
        self._nats = {word: self._rarest - math.log(n + 1) for word, n in counts.items()}

    @classmethod
    def of(cls, views: Sequence[TextView]) -> Idf:
        """Count the stems of the route's questions."""
        counts: Counter[str] = Counter()
        for text in views:
            counts.update(text.stem_set)
        return cls(dict(counts), len(views))

    def to_json(self) -> list[object]:
        """Plain values that `from_json` restores."""
        return [self._total, self._counts]

    @classmethod
    def from_json(cls, value: Sequence[object]) -> Idf:
        """Restore what `to_json` gave. Raises ValueError on anything else."""
        total, counts = value
        if not isinstance(total, int) or not isinstance(counts, dict):
            raise ValueError("idf: not [total, {stem: count}]")  # noqa: TRY004 - stored bytes
        return cls({str(k): int(v) for k, v in counts.items()}, total)

    def unseen_share(self, text: TextView, *, own: int = 0) -> float:
        """Share of the text's content stems that no question of the route had.

        ``own``: 1 for a question that was counted itself, so that its own words do not count.
        """
        if not text.content:
            return 0.0
        return sum(self._counts.get(s, 0) <= own for s in text.content) / len(text.content)

    def __call__(self, word: str) -> float:
        """ln((n + 1) / (count + 1))."""
        return self._nats.get(word, self._rarest)


@dataclass(frozen=True, slots=True)
class LabelledQuestion:
    """A labelled question of a route: its text, its vector (unit length) and its answer's group.

    Two questions have the same `answer_group` when their answers agree. `unbiased`: it was labelled
    whatever its score (in shadow mode, or as an audit), so it may count for the bound; a miss of
    an open route is labelled *because* its score was low (selection bias), and is only learned from.
    `at_s`: when it was asked.
    """

    view: TextView
    vector: NDArray[np.float32]
    answer_group: str
    unbiased: bool = True
    at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CandidateScore:
    """One candidate's probability of the same answer, and its typed differences."""

    probability: float
    differences: Differences


@dataclass(frozen=True, slots=True)
class OutOfFoldScores:
    """Out-of-fold outcomes, one a question: its best candidate's score, and whether its answer agreed.

    `weights`: 1 for what counts as evidence, else 0. `any_right_scores`, `any_right`: the same of all
    candidates together (see `any_right_score`); `unseen_shares`: the share of each question's content
    stems that no other had. Empty where unknown.
    """

    scores: Floats
    agreed: Floats
    weights: Floats
    any_right_scores: Floats = field(default_factory=lambda: np.zeros(0))
    any_right: Floats = field(default_factory=lambda: np.zeros(0))
    unseen_shares: Floats = field(default_factory=lambda: np.zeros(0))

    def max_unseen_share(self, score: float) -> float:
        """The 0.98 quantile of the unseen shares of the counted questions that scored ``score`` or more.

        Beyond it a question is out of the evidence's distribution. 1, which allows all, where unknown.
        """
        if not len(self.unseen_shares):
            return 1.0
        known = self.unseen_shares[(self.scores >= score) & (self.weights > 0)]
        return float(np.quantile(known, _UNSEEN_QUANTILE, method="higher")) if len(known) else 1.0


def any_right_score(probabilities: Sequence[float], answers: Sequence[str]) -> float:
    """Return a score for "some candidate has the right answer": 1 - prod over groups of (1 - best p)."""
    best: dict[str, float] = {}
    for p, answer in zip(probabilities, answers, strict=True):
        best[answer] = max(p, best.get(answer, 0.0))
    none = 1.0
    for p in best.values():
        none *= 1.0 - p
    return 1.0 - none


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))), dtype=np.float64)


class RouteVerifier:
    """The three stages fitted on one route; immutable, safe to share between threads."""

    __slots__ = ("_agreement", "_pair", "_tokens", "idf")

    def __init__(
        self,
        idf: Idf,
        tokens: TokenWeights | None = None,
        pair: Gbdt | None = None,
        agreement: Gbdt | None = None,
    ) -> None:
        self.idf = idf
        self._tokens = tokens
        self._pair = pair
        self._agreement = agreement

    @property
    def fitted(self) -> bool:
        """Whether this route's own labels have been learned from."""
        return self._agreement is not None

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The fitted stages as arrays by name; empty before a fit."""
        if self._tokens is None or self._pair is None or self._agreement is None:
            return {}
        return {
            "tokens": self._tokens.weights,
            "intercept": np.array([self._tokens.intercept]),
            "pair": np.frombuffer(self._pair.to_bytes(), dtype=np.uint8),
            "agreement": np.frombuffer(self._agreement.to_bytes(), dtype=np.uint8),
        }

    def score(
        self,
        query: TextView,
        candidates: Sequence[TextView],
        cosines: Sequence[float],
        answers: Sequence[str],
    ) -> list[CandidateScore]:
        """Score candidates (nearest first, at least one); the order is kept."""
        seen = [compare(query, c) for c in candidates]
        featured = (
            pair_features(query, c, cos, self.idf, d)
            for c, cos, d in zip(candidates, cosines, seen, strict=True)
        )
        size = len(seen) * len(FEATURES)
        flat = np.fromiter(chain.from_iterable(featured), dtype=np.float64, count=size)
        rows = flat.reshape(len(seen), -1)
        cosine_logit = _cosine_logit(rows)
        if self._tokens is None or self._pair is None or self._agreement is None:
            probabilities = _sigmoid(cosine_logit)
        else:
            bags = Bags.of([hashed_features(query, c) for c in candidates])
            words = self._tokens.contributions(bags)
            pair = self._pair.predict(np.concatenate((rows, cosine_logit[:, None], words), axis=1))
            around = neighbour_features(pair, cosines, answers)
            probabilities = self._agreement.predict(np.concatenate((around, rows, words), axis=1))
        return [CandidateScore(float(p), d) for p, d in zip(probabilities, seen, strict=True)]


def _cosine_logit(rows: Floats) -> Floats:
    """Log-odds of the cosine, the first feature, read as a probability."""
    p = np.minimum(np.maximum(rows[:, 0], _CLIP), 1 - _CLIP)
    return np.asarray(np.log(p / (1 - p)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Every question paired with its nearest others: row r is the pair (ask[r], stored[r])."""

    ask: NDArray[np.intp]
    stored: NDArray[np.intp]
    rows: Floats
    bags: Bags
    same: Floats
    vetoed: NDArray[np.bool_]
    starts: NDArray[np.intp]


def _nearest(vectors: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2.0)
    top = np.argpartition(-similar, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(similar, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, order, axis=1)


def _pairs(questions: Sequence[LabelledQuestion], idf: Idf) -> _Pairs:
    vectors = np.stack([q.vector for q in questions])
    k = min(NEIGHBOURS, len(questions) - 1)
    nearest = _nearest(vectors, k)
    rows, bags, same, vetoed = [], [], [], []
    known: dict[tuple[int, int], tuple[list[float], list[int], bool]] = {}
    for i, near in enumerate(nearest):
        for j in near.tolist():
            key = (min(i, j), max(i, j))
            if key not in known:
                a, b = questions[i].view, questions[j].view
                seen = compare(a, b)
                cosine = float(vectors[i] @ vectors[j])
                features = pair_features(a, b, cosine, idf, seen)
                known[key] = (features, hashed_features(a, b), bool(seen.vetoes))
            features, bag, veto = known[key]
            rows.append(features)
            bags.append(bag)
            vetoed.append(veto)
            same.append(float(questions[i].answer_group == questions[j].answer_group))
    return _Pairs(
        ask=np.repeat(np.arange(len(questions)), k),
        stored=nearest.ravel(),
        rows=np.array(rows),
        bags=Bags.of(bags),
        same=np.array(same),
        vetoed=np.array(vetoed),
        starts=np.arange(len(questions) + 1) * k,
    )


class _RouteFit:
    """One fit of a route: each stage on all pairs, and its out-of-fold scores for the next stage."""

    def __init__(self, questions: Sequence[LabelledQuestion]) -> None:
        self.questions = questions
        self.idf = Idf.of([q.view for q in questions])
        self.pairs = _pairs(questions, self.idf)
        self.fold = np.arange(len(questions)) % _FOLDS

    def _split(self, fold: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        asked, stored = self.fold[self.pairs.ask] == fold, self.fold[self.pairs.stored] == fold
        return np.flatnonzero(~asked & ~stored), np.flatnonzero(asked)

    def run(self) -> tuple[RouteVerifier, OutOfFoldScores]:
        pairs = self.pairs
        tokens = TokenWeights.fit(pairs.bags, pairs.same)
        words = np.zeros((len(pairs.same), TOKEN_COLUMNS))
        for fold in range(_FOLDS):
            train, held = self._split(fold)
            part = TokenWeights.fit(pairs.bags.take(train), pairs.same[train])
            words[held] = part.contributions(pairs.bags.take(held))
        pair_rows = np.column_stack([pairs.rows, _cosine_logit(pairs.rows), words])
        pair, pair_p = self._cross_fit(pair_rows, _PAIR_PARAMS)
        around = self._neighbour_rows(pair_p)
        rows = np.column_stack([around, pairs.rows, words])
        agreement, final = self._cross_fit(rows, _AGREEMENT_PARAMS)
        route = RouteVerifier(self.idf, tokens, pair, agreement)
        return route, self._out_of_fold_scores(final)

    def _cross_fit(self, rows: Floats, params: GbdtParams) -> tuple[Gbdt, Floats]:
        same = self.pairs.same
        out = np.zeros(len(same))
        for fold in range(_FOLDS):
            train, held = self._split(fold)
            out[held] = Gbdt.fit(rows[train], same[train], params=params).predict(rows[held])
        return Gbdt.fit(rows, same, params=params), out

    def _neighbour_rows(self, pair_p: Floats) -> Floats:
        pairs = self.pairs
        cosines = pairs.rows[:, 0]
        parts = []
        for start, end in zip(pairs.starts, pairs.starts[1:], strict=False):
            answers = [self.questions[j].answer_group for j in pairs.stored[start:end]]
            parts.append(
                neighbour_features(pair_p[start:end], cosines[start:end].tolist(), answers)
            )
        return np.concatenate(parts)

    def _out_of_fold_scores(self, final: Floats) -> OutOfFoldScores:
        pairs, scores, agreed = self.pairs, [], []
        any_right_scores, any_right = [], []
        allowed = np.where(pairs.vetoed, -1.0, final)
        for start, end in zip(pairs.starts, pairs.starts[1:], strict=False):
            best = start + int(np.argmax(allowed[start:end]))
            scores.append(max(0.0, float(allowed[best])))
            agreed.append(float(pairs.same[best]))
            answers = [self.questions[j].answer_group for j in pairs.stored[start:end]]
            any_right_scores.append(any_right_score(final[start:end].tolist(), answers))
            any_right.append(float(pairs.same[start:end].any()))
        return OutOfFoldScores(
            np.array(scores),
            np.array(agreed),
            np.array([float(q.unbiased) for q in self.questions]),
            np.array(any_right_scores),
            np.array(any_right),
            np.array([self.idf.unseen_share(q.view, own=1) for q in self.questions]),
        )


def fit_route(
    questions: Sequence[LabelledQuestion],
) -> tuple[RouteVerifier, OutOfFoldScores]:
    """Fit a route's verifier on its labelled questions; deterministic, seconds of CPU.

    Run it off the event loop: 2,000 questions take five to six seconds of one core.

    Raises:
        ValueError: fewer than 40 questions, from which nothing can be held out.
    """
    if len(questions) < _MIN_QUESTIONS:
        raise ValueError(f"a route needs {_MIN_QUESTIONS} labelled questions, got {len(questions)}")
    return _RouteFit(questions).run()
