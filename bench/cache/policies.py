"""Our policy and three baselines behind one protocol: the same shadow traffic, the same requests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Protocol

import numpy as np

from app.cache.bound import Limits, certify
from app.cache.decision import CandidateView, Decision, QueryView, decide
from app.cache.route_state import RouteState
from app.cache.verifier import LabelledQuestion, OutOfFoldScores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from app.cache.verifier import RouteVerifier


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the replay and its nearest stored questions (places in the stream)."""

    place: int
    near: Sequence[int]
    cosines: Sequence[float]


class Policy(Protocol):
    """A cache's decision: serve the answer of one of the neighbours, or ask the model."""

    def serve(self, ask: Ask) -> int | None:
        """The place whose answer is served, or None."""
        ...

    def learn(self, ask: Ask) -> None:
        """The request was not served: its true answer is known now."""
        ...


class Fixed:
    """Serve the nearest at or over a cosine."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def serve(self, ask: Ask) -> int | None:
        """The nearest, if near enough."""
        if ask.near and ask.cosines[0] >= self._threshold:
            return int(ask.near[0])
        return None

    def learn(self, ask: Ask) -> None:
        """Nothing is learned."""


def calibrated_cosine(outcomes: OutOfFoldScores, limits: Limits) -> Fixed:
    """The lowest cosine that our own certificate accepts on the same shadow traffic."""
    threshold = certify(outcomes, limits, min_score=-1.0)
    return Fixed(2.0 if threshold is None else threshold.score)


def nearest_outcomes(vectors: NDArray[np.float32], labels: Sequence[str]) -> OutOfFoldScores:
    """Each shadow question against its nearest other: the cosine, and whether answers agree."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2)
    best = similar.argmax(axis=1)
    agreed = [float(labels[i] == labels[j]) for i, j in enumerate(best.tolist())]
    return OutOfFoldScores(
        similar.max(axis=1).astype(np.float64), np.array(agreed), np.ones(len(best))
    )


def held_out_outcomes(vectors: NDArray[np.float32], labels: Sequence[str]) -> OutOfFoldScores:
    """DECISIONS' protocol: the last 30 % of the shadow traffic against the first 70 %."""
    known = int(0.7 * len(labels))
    similar = vectors[known:] @ vectors[:known].T
    best = similar.argmax(axis=1)
    agreed = [float(labels[known + i] == labels[j]) for i, j in enumerate(best.tolist())]
    return OutOfFoldScores(
        similar.max(axis=1).astype(np.float64), np.array(agreed), np.ones(len(best))
    )


class Ours:
    """`app.cache.decision` as the gateway runs it."""

    def __init__(self, state: RouteState, questions: Sequence[LabelledQuestion], seed: int) -> None:
        self.state = state
        self._questions = questions
        self._rng = Random(seed)
        self._last: Decision | None = None

    def fork(self, questions: Sequence[LabelledQuestion]) -> Ours:
        """The same route, to go on with other questions."""
        made = Ours(self.state.copy(), questions, 0)
        made._rng.setstate(self._rng.getstate())
        return made

    def _query(self, ask: Ask) -> QueryView:
        question = self._questions[ask.place]
        return QueryView(question.view, question.vector)

    def serve(self, ask: Ask) -> int | None:
        """Decide; the candidates carry their answers' groups as the store would."""
        candidates = [
            CandidateView(
                str(j), self._questions[j].view, cosine, self._questions[j].answer_group, j
            )
            for j, cosine in zip(ask.near, ask.cosines, strict=True)
        ]
        self._last = decide(self._query(ask), candidates, self.state, self._rng)
        chosen = self._last.candidate
        return int(chosen.entry) if self._last.serve and chosen is not None else None

    def learn(self, ask: Ask) -> None:
        """Label, and refit when due (at once; the gateway does it beside the traffic)."""
        if self._last is None:
            return
        answer = self._questions[ask.place].answer_group
        self.state.learn(self._query(ask), answer, self._last, at_s=ask.place)
        if self.state.refit_due:
            self.state.refit()


def prepared(
    fit: tuple[RouteVerifier, OutOfFoldScores],
    shadow: Sequence[LabelledQuestion],
    limits: Limits,
) -> RouteState:
    """A route's state at the end of its shadow traffic."""
    state = RouteState(limits)
    state.unbiased.extend(shadow)
    state.labels = len(shadow)
    state.drift.last_s = len(shadow) - 1
    state.apply_fit(*fit)
    return state


_EPSILONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
# z of the one-sided normal quantile at 1 - epsilon.
_QUANTILES = (2.3263, 2.0537, 1.6449, 1.2816, 0.8416, 0.5244, 0.0)
_MIN_OBSERVATIONS = 6


@dataclass(slots=True)
class _Entry:
    similarities: list[float]
    agreed: list[float]
    fitted: tuple[float, float, float] | None = None  # t, gamma, standard deviation of t


class PerEntry:
    """vCache, from the paper's formulas (arXiv 2502.03771), in our own words and code.

    Each entry keeps (similarity, agreed) of the prompts it was nearest to, with two priors (0, 0)
    and (1, 1). A logistic curve through them, its midpoint moved up by its own uncertainty, gives
    the chance tau of asking the model; below it the entry is served. Where the observations
    separate, a small ridge keeps the curve finite.
    """

    def __init__(self, delta: float, labels: Sequence[str], seed: int) -> None:
        self._delta = delta
        self._labels = labels
        self._rng = Random(seed)
        self._entries: dict[int, _Entry] = {}

    def serve(self, ask: Ask) -> int | None:
        """Explore with probability tau of the nearest entry, else serve it."""
        if not ask.near:
            return None
        entry = self._entries.get(ask.near[0])
        tau = 1.0 if entry is None else self._tau(entry, ask.cosines[0])
        return None if self._rng.random() <= tau else int(ask.near[0])

    def learn(self, ask: Ask) -> None:
        """The answer is judged against the nearest entry's."""
        if not ask.near:
            return
        nearest = int(ask.near[0])
        entry = self._entries.setdefault(nearest, _Entry([0.0, 1.0], [0.0, 1.0]))
        entry.similarities.append(ask.cosines[0])
        entry.agreed.append(float(self._labels[nearest] == self._labels[ask.place]))
        entry.fitted = None

    def _tau(self, entry: _Entry, similarity: float) -> float:
        if len(entry.agreed) < _MIN_OBSERVATIONS:
            return 1.0
        if entry.fitted is None:
            entry.fitted = _logistic(entry.similarities, entry.agreed)
        middle, steepness, deviation = entry.fitted
        taus = []
        for epsilon, quantile in zip(_EPSILONS, _QUANTILES, strict=True):
            shifted = middle + quantile * deviation
            exponent = max(-30.0, min(30.0, steepness * (similarity - shifted)))
            chance = (1 - epsilon) / (1 + math.exp(-exponent))
            taus.append(0.0 if chance >= 1 - self._delta else 1 - self._delta / (1 - chance))
        return min(taus)


def _logistic(similarities: Sequence[float], agreed: Sequence[float]) -> tuple[float, float, float]:
    x = np.column_stack([np.ones(len(agreed)), similarities])
    y = np.array(agreed)
    beta = np.zeros(2)
    ridge = np.diag([1e-3, 1e-3])
    hessian = np.eye(2)
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge
        beta = beta + np.linalg.solve(hessian, x.T @ (y - p) - ridge @ beta)
    steepness = max(float(beta[1]), 1e-3)
    middle = -float(beta[0]) / steepness
    slope = np.array([-1 / steepness, float(beta[0]) / steepness**2])
    variance = float(slope @ np.linalg.solve(hessian, slope))
    return middle, steepness, math.sqrt(max(variance, 0.0))
