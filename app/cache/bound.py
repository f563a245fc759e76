"""The bound: how much evidence there is that hits are right, and when it stops holding.

What is promised. `max_error_rate` e bounds two shares on each route: wrong hits per *request* by
e, and wrong hits per *hit* by 5 e. (Per request is what users of the route suffer; per hit is what
a reader of one answer suffers. Bounding one alone is easily gamed: a cache that serves only ten
hits in a thousand requests keeps 1 % per request with every one of them wrong.) In addition no
single hit is served whose own probability is below 1 - 20 e (`Limits.floor`).

How it is certified. A route's labelled questions, scored by models that had not seen them, say how
many of those above a threshold were wrong. The upper confidence bound of both shares (Wilson,
90 % one-sided) must be within the limits; the
lowest threshold that satisfies both is served. Without enough labels there is no such threshold
and the route stays in shadow mode.

Hierarchy. A route with few labels borrows strength: other routes' wrong share among their hits
joins as pseudo-labels, as many as the spread between routes warrants (method of moments, capped).
Below the route, each entry's own record of right and wrong shrinks towards its score.

When it breaks. Labels keep flowing: every request that was not a hit is one, and a few would-be
hits are audited. `Drift` weighs them against "a share of what is kept has ceased to be right", as a
likelihood ratio restarted like a CUSUM: under honest probabilities the mean time to a false alarm is
at least `ALARM` labels (measured: far more). Long before an alarm mounting evidence makes the route
careful (`app.cache.decision`). It also says when the change began: where its wealth last left 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cache.verifier import Calibration

CONFIDENCE: Final = 0.90
PER_HIT_MULTIPLE: Final = 5.0
_FLOOR_MULTIPLE: Final = 4.0  # the worst single hit against the mean hit
_Z: Final = 1.2816  # one-sided, of CONFIDENCE
_MOST_BORROWED: Final = 40.0
_LEAST_ROUTES: Final = 3
# Measured on honest probabilities: see the test that counts false alarms.
ALARM: Final = 10_000.0
# The shares of what is kept that may have ceased to be right; the evidence is the mean of three bets.
_CEASED: Final = (0.25, 0.5, 0.9)
_MOST_SURE: Final = 0.97  # one surprise proves nothing, however sure the score was
_LEAST_SURE: Final = 0.05  # where nothing was expected, nothing is learned of a change
_REPORT: Final = 1.8  # what a user's "wrong" multiplies the evidence by: reports are no sample
_ENTRY_CONCENTRATION: Final = 4.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What is promised: largest shares of wrong hits, per request and per hit, in (0, 1)."""

    per_request: float
    per_hit: float

    @classmethod
    def of(cls, max_error_rate: float) -> Limits:
        """The two limits that one configured rate stands for."""
        return cls(max_error_rate, min(0.5, PER_HIT_MULTIPLE * max_error_rate))

    @property
    def floor(self) -> float:
        """Least probability of a single served hit."""
        return max(0.5, 1.0 - _FLOOR_MULTIPLE * self.per_hit)

    @property
    def surely(self) -> float:
        """The same after an alarm, while hits have to make up for those that were wrong.

        Surer ones alone (half of the limit) make up for less: there are a third fewer of them.
        """
        return 1.0 - 0.8 * self.per_hit


@dataclass(frozen=True, slots=True)
class Borrowed:
    """Pseudo-labels from other routes: `hits` of them, `wrong` of which were wrong."""

    hits: float = 0.0
    wrong: float = 0.0


@dataclass(frozen=True, slots=True)
class Threshold:
    """A certified score from which hits are served, and the evidence for it.

    `strangest`: the largest share of unknown words in a question that the evidence speaks for.
    """

    score: float
    labels: int
    hits: int
    wrong: int
    upper_per_request: float
    upper_per_hit: float
    strangest: float = 1.0


def wilson_upper(wrong: float, count: float) -> float:
    """Upper confidence bound of a share, from `wrong` of `count` (both may be fractional)."""
    if count <= 0:
        return 1.0
    share = wrong / count
    square = _Z * _Z
    centre = share + square / (2 * count)
    spread = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return min(1.0, (centre + spread) / (1 + square / count))


def borrow(others: Sequence[tuple[float, float]]) -> Borrowed:
    """Pseudo-labels from other routes' (hits, wrong); none from fewer than three routes.

    The more alike the routes are, the more each new one may borrow (beta-binomial by moments).
    """
    seen = [(h, w) for h, w in others if h > 0]
    if len(seen) < _LEAST_ROUTES:
        return Borrowed()
    hits = sum(h for h, _ in seen)
    mean = sum(w for _, w in seen) / hits
    between = sum(h * (w / h - mean) ** 2 for h, w in seen) / hits
    within = mean * (1 - mean) * len(seen) / hits
    excess = max(between - within, 1e-6)
    size = min(_MOST_BORROWED, max(0.0, mean * (1 - mean) / excess - 1))
    return Borrowed(size, size * mean)


def certify(
    outcomes: Calibration,
    limits: Limits,
    borrowed: Borrowed | None = None,
    *,
    floor: float | None = None,
) -> Threshold | None:
    """The lowest threshold whose two upper bounds are within the limits; None without one.

    `floor`: least score ever certified, `limits.floor` by default (scores are probabilities).
    """
    least = limits.floor if floor is None else floor
    total = float(outcomes.weights.sum())
    if total <= 0:
        return None
    prior = borrowed or Borrowed()
    order = np.argsort(-outcomes.scores, kind="stable")
    scores, weights = outcomes.scores[order], outcomes.weights[order]
    hits, wrong = np.cumsum(weights), np.cumsum(weights * (1 - outcomes.agreed[order]))
    best: Threshold | None = None
    # A threshold lies between two different scores; equal scores are served together.
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
    return best and replace(best, strangest=outcomes.strangest(best.score))


@dataclass(slots=True)
class Drift:
    """An anytime-valid alarm against over-confidence, over labels in the order they come."""

    wealth: list[float] = field(default_factory=lambda: [1.0] * len(_CEASED))
    began_s: list[float] = field(default_factory=lambda: [0.0] * len(_CEASED))
    """When each bet's present run of evidence began: the time of the last label before it."""
    last_s: float = 0.0

    @property
    def evidence(self) -> float:
        """The mixture's current evidence against the bound; an alarm from `ALARM` on."""
        return sum(self.wealth) / len(self.wealth)

    @property
    def since_s(self) -> float:
        """When the change began, if there was one: when the last of the bets that saw it stood at 1.

        A moment too late leaves out something right, one too early lets something wrong in.
        """
        seen = [i for i, wealth in enumerate(self.wealth) if wealth >= self.evidence / 2]
        return max(self.began_s[i] for i in seen)

    def observe(self, probability: float, *, agreed: bool, at_s: float = 0.0) -> bool:
        """Take one label; True when it raises the alarm.

        `probability`: what the route's calibrated score said before the label was known. `at_s`:
        when the question was asked, on the clock of everything else that is compared with it.
        """
        if probability >= _LEAST_SURE:
            p = min(probability, _MOST_SURE)
            for i, ceased in enumerate(_CEASED):
                if self.wealth[i] <= 1.0:
                    self.wealth[i], self.began_s[i] = 1.0, self.last_s
                kept = 1.0 - ceased
                self.wealth[i] *= kept if agreed else (1.0 - p * kept) / (1.0 - p)
        self.last_s = at_s
        return self.evidence >= ALARM

    def report(self, *, at_s: float = 0.0) -> bool:
        """Take a user's "wrong"; True when it raises the alarm."""
        for i, wealth in enumerate(self.wealth):
            if wealth <= 1.0:
                self.wealth[i], self.began_s[i] = 1.0, self.last_s
            self.wealth[i] *= _REPORT
        self.last_s = max(self.last_s, at_s)
        return self.evidence >= ALARM

    def reset(self) -> None:
        """Start anew, after the route was closed or fitted."""
        self.wealth = [1.0] * len(_CEASED)
        self.began_s = [self.last_s] * len(_CEASED)


@dataclass(slots=True)
class EntryRecord:
    """How often an entry's answer was found right and wrong."""

    right: float = 0.0
    wrong: float = 0.0

    def shrink(self, probability: float) -> float:
        """The entry's own probability: its score, moved by its record."""
        total = _ENTRY_CONCENTRATION + self.right + self.wrong
        return (probability * _ENTRY_CONCENTRATION + self.right) / total
