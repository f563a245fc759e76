"""The bound on wrong hits: how it is certified from labels, and how its breaking is detected.

**Promise.** `max_error_rate` e bounds two shares on each route: wrong hits per *request* by e, and
wrong hits per *hit* by 5 e. (Per request is what the route's users suffer, per hit what the reader of
one answer suffers. Either alone is easily gamed: a cache that serves ten hits in a thousand requests
keeps 1 % per request with every one of them wrong.) In addition no hit is served whose own probability
is below 1 - 20 e (`Limits.min_probability`).

**Certificate** (`certify`). Labels scored out of fold, counted from the highest score down: k wrong
among n at or above a threshold. The lowest threshold is chosen at which the one-sided 90 % Wilson upper
bound of k/n is within the limit per hit and that of k/(all labels) within the limit per request. Without
one the route stays in shadow mode. The scan over thresholds is not corrected for multiplicity: how often
the bound held is measured instead (docs/semantic-cache.md).

**Hierarchy.** Global to route: the wrong share among other routes' certified hits joins as pseudo-counts
of a beta prior (`pseudo_counts_of`, empirical Bayes). Route to entry: an entry's own record shrinks
towards its calibrated score (`EntryRecord`, a beta posterior mean).

**Detection** (`DriftDetector`). Every label is an observation: each request that was not a hit, and the
audited would-be hits. A mixture of three likelihood ratios against "a share c of what is stored has
ceased to be right", each restarted at 1 like a CUSUM, is an e-detector: where the stated probabilities
are honest, the mean number of labels until a false alarm is at least `ALARM_EVIDENCE` (measured: far
more). Smaller evidence already makes the route cautious (`app.cache.decision`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cache.verifier import OutOfFoldScores

CONFIDENCE: Final = 0.90
PER_HIT_MULTIPLE: Final = 5.0
_SINGLE_HIT_MULTIPLE: Final = (
    4.0  # the limit on the worst single hit, in units of the limit per hit
)
_Z: Final = 1.2816  # the one-sided normal quantile of CONFIDENCE
_MAX_PSEUDO_COUNTS: Final = 40.0
_MIN_ROUTES: Final = 3
# Mean labels to a false alarm, at least; a test counts false alarms under honest probabilities.
ALARM_EVIDENCE: Final = 10_000.0
# The alternatives: shares c of what is stored that may have ceased to be right.
_CHANGED_SHARES: Final = (0.25, 0.5, 0.9)
_MAX_PROBABILITY: Final = 0.97  # caps one surprise's likelihood ratio, however sure the score was
_MIN_PROBABILITY: Final = 0.05  # below, a label says nothing about change and is not counted
_REPORT_FACTOR: Final = (
    1.8  # of a user's "wrong": reports are no random sample, so no likelihood ratio
)
_ENTRY_PRIOR_STRENGTH: Final = 4.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The promised largest shares of wrong hits, per request and per hit, in (0, 1)."""

    per_request: float
    per_hit: float

    @classmethod
    def of(cls, max_error_rate: float) -> Limits:
        """The two limits of one configured rate."""
        return cls(max_error_rate, min(0.5, PER_HIT_MULTIPLE * max_error_rate))

    @property
    def min_probability(self) -> float:
        """Least probability of a single served hit."""
        return max(0.5, 1.0 - _SINGLE_HIT_MULTIPLE * self.per_hit)

    @property
    def min_probability_after_alarm(self) -> float:
        """The same on probation, while hits have to make up for those that were wrong.

        A stricter one (half of the limit) makes up for less: it leaves a third fewer hits.
        """
        return 1.0 - 0.8 * self.per_hit


@dataclass(frozen=True, slots=True)
class PseudoCounts:
    """A beta prior from other routes as labels: `hits` of them, `wrong` of which were wrong."""

    hits: float = 0.0
    wrong: float = 0.0


@dataclass(frozen=True, slots=True)
class Threshold:
    """A certified score from which hits are served, and its evidence.

    `max_unseen_share`: the largest share of unseen words in a question for which the evidence counts.
    """

    score: float
    labels: int
    hits: int
    wrong: int
    upper_per_request: float
    upper_per_hit: float
    max_unseen_share: float = 1.0


def wilson_upper(wrong: float, count: float) -> float:
    """One-sided upper confidence bound (`CONFIDENCE`) of a proportion, from `wrong` of `count`.

    Wilson's score interval (1927), z = 1.2816; both arguments may be fractional (pseudo-counts):
    (p + z^2/2n + z sqrt(p(1 - p)/n + z^2/4n^2)) / (1 + z^2/n) with p = wrong/n. 1 for n = 0.
    """
    if count <= 0:
        return 1.0
    share = wrong / count
    square = _Z * _Z
    centre = share + square / (2 * count)
    spread = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return min(1.0, (centre + spread) / (1 + square / count))


def pseudo_counts_of(others: Sequence[tuple[float, float]]) -> PseudoCounts:
    """Return the beta prior of other routes' (hits, wrong); none from fewer than three routes.

    Beta-binomial by the method of moments: with mean m and between-route variance t (observed less
    binomial), the prior's strength is m(1 - m)/t - 1, at most 40: the more alike the routes, the more a
    new one borrows.
    """
    seen = [(h, w) for h, w in others if h > 0]
    if len(seen) < _MIN_ROUTES:
        return PseudoCounts()
    hits = sum(h for h, _ in seen)
    mean = sum(w for _, w in seen) / hits
    between = sum(h * (w / h - mean) ** 2 for h, w in seen) / hits
    within = mean * (1 - mean) * len(seen) / hits
    excess = max(between - within, 1e-6)
    strength = min(_MAX_PSEUDO_COUNTS, max(0.0, mean * (1 - mean) / excess - 1))
    return PseudoCounts(strength, strength * mean)


def certify(
    outcomes: OutOfFoldScores,
    limits: Limits,
    pseudo_counts: PseudoCounts | None = None,
    *,
    min_score: float | None = None,
) -> Threshold | None:
    """Return the lowest threshold whose two upper bounds are within the limits; None without one.

    `min_score`: least score ever certified, by default `limits.min_probability` (scores are
    probabilities).
    """
    least = limits.min_probability if min_score is None else min_score
    total = float(outcomes.weights.sum())
    if total <= 0:
        return None
    prior = pseudo_counts or PseudoCounts()
    order = np.argsort(-outcomes.scores, kind="stable")
    scores, weights = outcomes.scores[order], outcomes.weights[order]
    hits, wrong = np.cumsum(weights), np.cumsum(weights * (1 - outcomes.agreed[order]))
    best: Threshold | None = None
    # A threshold lies between two different scores: equal scores are served together.
    ends = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))
    for end in ends.tolist():
        if scores[end] < least:
            break
        per_hit = wilson_upper(float(wrong[end]) + prior.wrong, float(hits[end]) + prior.hits)
        per_request = wilson_upper(float(wrong[end]), total)
        if per_hit <= limits.per_hit and per_request <= limits.per_request:
            best = Threshold(
                float(scores[end]), round(total), round(float(hits[end])),
                round(float(wrong[end])), per_request, per_hit,
            )  # fmt: skip
    return best and replace(best, max_unseen_share=outcomes.max_unseen_share(best.score))


@dataclass(slots=True)
class DriftDetector:
    """Detects that answers have changed, from labels in the order they come.

    For each alternative c a likelihood ratio, restarted where it falls below 1 (CUSUM, Page 1954):
    wealth = max(1, wealth) * LR, where H0 says P(agree) = p and H1 says P(agree) = p(1 - c), so
    LR = 1 - c for an agreement and (1 - p(1 - c)) / (1 - p) for a disagreement. E[LR] = 1 under H0, so
    the mean of the three is an e-detector (Shin, Ramdas and Rinaldo 2022): valid at any time, with a
    mean run length to a false alarm of at least the alarm's level.
    """

    wealth: list[float] = field(default_factory=lambda: [1.0] * len(_CHANGED_SHARES))
    began_s: list[float] = field(default_factory=lambda: [0.0] * len(_CHANGED_SHARES))
    """When each ratio's current run began: the time of the last label before it."""
    last_s: float = 0.0

    @property
    def evidence(self) -> float:
        """The mixture's e-value now; an alarm from `ALARM_EVIDENCE` on."""
        return sum(self.wealth) / len(self.wealth)

    @property
    def since_s(self) -> float:
        """The estimated change point: the latest start among the ratios that carry the evidence.

        A moment too late leaves out something right, one too early lets something wrong in.
        """
        seen = [i for i, wealth in enumerate(self.wealth) if wealth >= self.evidence / 2]
        return max(self.began_s[i] for i in seen)

    def observe(self, probability: float, *, agreed: bool, at_s: float = 0.0) -> bool:
        """Take one label; True when it raises the alarm.

        `probability`: the calibrated chance of agreement, stated before the label was known. `at_s`:
        when the question was asked, on the clock of everything that it is compared with.
        """
        if probability >= _MIN_PROBABILITY:
            p = min(probability, _MAX_PROBABILITY)
            for i, changed in enumerate(_CHANGED_SHARES):
                self._restart(i)
                kept = 1.0 - changed
                self.wealth[i] *= kept if agreed else (1.0 - p * kept) / (1.0 - p)
        self.last_s = at_s
        return self.evidence >= ALARM_EVIDENCE

    def observe_report(self, *, at_s: float = 0.0) -> bool:
        """Take a user's "wrong"; True when it raises the alarm."""
        for i in range(len(self.wealth)):
            self._restart(i)
            self.wealth[i] *= _REPORT_FACTOR
        self.last_s = max(self.last_s, at_s)
        return self.evidence >= ALARM_EVIDENCE

    def _restart(self, i: int) -> None:
        if self.wealth[i] <= 1.0:
            self.wealth[i], self.began_s[i] = 1.0, self.last_s

    def reset(self) -> None:
        """Start anew, after the route was closed or fitted."""
        self.wealth = [1.0] * len(_CHANGED_SHARES)
        self.began_s = [self.last_s] * len(_CHANGED_SHARES)


@dataclass(slots=True)
class EntryRecord:
    """How often an entry's answer was found right and wrong."""

    right: float = 0.0
    wrong: float = 0.0

    def posterior_mean(self, probability: float) -> float:
        """The entry's own probability: a beta posterior whose prior has the score as its mean, strength 4."""
        total = _ENTRY_PRIOR_STRENGTH + self.right + self.wrong
        return (probability * _ENTRY_PRIOR_STRENGTH + self.right) / total
