"""Learn the gain of the powerful model from this gateway's own traffic, beside serving it.

Labels come from a small share of shadow double-runs, verifier outcomes, escalations and feedback. Each was
only seen because something made us look, so it carries the propensity of that look, and weighs its
inverse. A few hundred labels in, a head is fitted in the background every 250 labels (at first
sooner), challenges the one that serves, and takes over when it ranks the labels that came after its own
training no worse. A drift of the serving head's error forgets the old labels.

What a head is, is none of this module's business: `fit` turns examples into one, `rank` scores an
example by one. Not thread-safe: one event loop owns a learner; `challenge` alone may run in a worker
thread, as it reads a snapshot and returns its result.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Final, Generic, TypeVar

import numpy as np

X = TypeVar("X")
"""An example's features, whatever they are."""
H = TypeVar("H")
"""A fitted head."""

MAX_SHADOW_SHARE = 0.05
REFIT_LABELS = 250
_FIRST_REFIT = 50  # from there each refit waits for a quarter more labels, up to REFIT_LABELS
_MAX_WEIGHT = 50.0  # an inverse propensity beyond this says more about luck than about traffic
MAX_LABELS: Final = 8_000
"""Labels that a learner keeps, and that one refit reads: as many as take under a second."""
_RIVAL_LABELS = 3_000
_JUDGED_LABELS = 400
_EARLY = 3.0  # how much faster than its mean the shadow share is spent at first
_DRIFT_DELTA = 0.002  # of Adwin: how sure a change must be before old labels are forgotten
_DRIFT_MIN = 60
_DRIFT_MAX = 1_000
_RESAMPLES = 40
_LOST = 0.95


@dataclass(frozen=True, slots=True)
class Label(Generic[X]):
    """An outcome: `gain` in -1..1 of the powerful model, and the propensity in (0, 1] of seeing it."""

    features: X
    gain: float
    propensity: float = 1.0

    @property
    def weight(self) -> float:
        """The inverse propensity, limited to 50."""
        return min(_MAX_WEIGHT, 1.0 / self.propensity)


class ShadowBudget:
    """Which requests to run on both tiers: at most `share` of `horizon` requests, the first ones most.

    Labels are worth most early, so the share is spent three times as fast at first and tails off; over
    each horizon it comes to `share`. Within the pace a request is likelier to be looked at where
    `spread`, the caller's estimate of the gain's standard deviation there, is high (Neyman's
    allocation); the propensity makes up for it. It is stated as if the pace were even: when a
    request came says nothing of its gain, and to weigh a late label more than an early one would
    only make a hundred labels as good as seventy.
    """

    __slots__ = ("_allowed", "_horizon", "_mean_spread", "_random", "_seen", "_spent", "share")

    def __init__(self, share: float, *, horizon: int = 10_000, seed: int = 0) -> None:
        """`share` in 0..0.05, 0 never looks; `horizon`: the requests over which it is kept."""
        if not 0.0 <= share <= MAX_SHADOW_SHARE:
            raise ValueError(f"shadow: the share must lie in 0..{MAX_SHADOW_SHARE}, got {share}")
        if horizon < 1:
            raise ValueError(f"shadow: the horizon must be at least one request, got {horizon}")
        self.share = share
        self._horizon = horizon
        self._random = Random(seed)  # noqa: S311 - sampling, not security
        self._seen = 0
        self._spent = 0
        self._allowed = 0.0
        self._mean_spread = 1.0

    def look(self, spread: float) -> float | None:
        """Count one request: its propensity in (0, 1] if it is to be looked at, else None."""
        place = (self._seen % self._horizon) / self._horizon
        self._seen += 1
        if self.share <= 0:
            return None
        spread = max(0.05, spread)
        self._mean_spread += max(0.01, 1.0 / self._seen) * (spread - self._mean_spread)
        # A density that falls from 3 to 0 at two thirds of the horizon and sums to 1 over it.
        pace = self.share * max(0.0, _EARLY * (1.0 - 0.5 * _EARLY * place))
        limit = self.share * self._horizon * (1 + (self._seen - 1) // self._horizon)
        if self._spent + 1 > limit:
            return None
        likelier = spread / self._mean_spread
        chance = min(0.5, pace * likelier)
        if chance <= 0.0 or self._random.random() >= chance:
            return None
        self._spent += 1
        return min(1.0, self.share * likelier)


class DriftDetector:
    """Adwin on a bounded window: has the mean of a stream of numbers in 0..1 changed?"""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        """Start with an empty window."""
        self._values: deque[float] = deque(maxlen=_DRIFT_MAX)

    def add(self, value: float) -> int:
        """Add a number; return how many old ones no longer belong (0: no drift), and forget them."""
        self._values.append(value)
        n = len(self._values)
        if n < 2 * _DRIFT_MIN or n % 8:
            return 0
        data = np.fromiter(self._values, dtype=np.float64)
        total = np.cumsum(data)
        left = np.arange(_DRIFT_MIN, n - _DRIFT_MIN + 1)
        gap = np.abs(total[left - 1] / left - (total[-1] - total[left - 1]) / (n - left))
        harmonic = 1.0 / (1.0 / left + 1.0 / (n - left))
        log = math.log(2 * math.log(n) / _DRIFT_DELTA)
        bound = np.sqrt(2.0 / harmonic * data.var() * log) + 2.0 / (3.0 * harmonic) * log
        cuts = left[gap > bound]
        if not len(cuts):
            return 0
        cut = int(cuts[-1])
        for _ in range(cut):
            self._values.popleft()
        return cut


@dataclass(frozen=True, slots=True)
class RefitReport:
    """What a refit came to: the labels, both median APGRs on labels unknown to both, the swap."""

    labels: int
    champion: float
    challenger: float
    low: float
    """5 % quantile of the challenger's APGR over the resamples; `high` is the 95 % one."""
    high: float
    swapped: bool


@dataclass(frozen=True, slots=True)
class Challenge(Generic[H]):
    """A fitted head, how its contest went, and how many drifts there had been when it began."""

    head: H
    report: RefitReport
    drifts: int


class RouterLearner(Generic[X, H]):
    """The labels, the serving head and the challenges of one (fast, powerful) pair."""

    def __init__(
        self,
        fit: Callable[[Sequence[Label[X]]], H | None],
        rank: Callable[[H | None, X], float],
        judge: Callable[[Sequence[float], Sequence[float], Sequence[float]], float],
        fit_like: Callable[[H, Sequence[Label[X]]], H | None] | None = None,
    ) -> None:
        """`fit`: labels to a head, None when there is nothing to learn. `rank`: score by a head, by
        the prior for None. `judge`: APGR of (scores, gains, weights). `fit_like`: labels to a head that
        takes from another what need not be fitted anew to rank; `fit` if there is none.
        """
        self._fit, self._rank, self._judge, self._fit_like = fit, rank, judge, fit_like
        self.labels: deque[Label[X]] = deque(maxlen=MAX_LABELS)
        self.champion: H | None = None
        self.reports: deque[RefitReport] = deque(maxlen=100)
        self.drifts = 0
        self._drift = DriftDetector()
        self._since = 0
        self._counted = 0

    def observe(self, label: Label[X]) -> bool:
        """Keep a label; True when it is time for `refit`. Rubbish raises ValueError and is not kept."""
        if not (math.isfinite(label.gain) and -1.0 <= label.gain <= 1.0):
            raise ValueError(f"router: a gain must lie in -1..1, got {label.gain}")
        if not 0.0 < label.propensity <= 1.0:
            raise ValueError(f"router: a propensity must lie in (0, 1], got {label.propensity}")
        score = self._rank(self.champion, label.features)
        self.labels.append(label)
        self._since += 1
        self._counted += 1
        # The error of the sign that the score promises; its mean rises when the traffic turns.
        gone = self._drift.add(min(1.0, abs(float(label.gain > 0) - score)))
        if gone:
            self._forget(gone)
            return True
        known = self._counted
        return known >= _FIRST_REFIT and self._since >= min(REFIT_LABELS, known / 5)

    def refit(self) -> RefitReport | None:
        """Fit, contest and adopt at once; None when nothing can be learned. Up to a second of CPU."""
        return self.adopt(self.challenge(self.snapshot()))

    def snapshot(self) -> tuple[Label[X], ...]:
        """The labels to fit on; the next refit is due only after more. Call it on the event loop."""
        self._since = 0
        return tuple(self.labels)

    def challenge(self, labels: Sequence[Label[X]]) -> Challenge[H] | None:
        """Fit a challenger on all labels and contest it; changes nothing, may run in a worker thread.

        In the contest a rival without the newest quarter of the labels (at most 400) stands for the
        challenger, so that neither knows the judge's labels; of many it reads the newest 3,000. More
        labels make better heads, so the doubt is the challenger's: the champion stays only if it wins
        95 % of the bootstrap resamples of those labels. (A stricter one threw away most of what few
        labels teach.)
        """
        champion = self.champion
        challenger = self._fit(labels)
        if challenger is None:
            return None
        held = min(_JUDGED_LABELS, len(labels) // 4)
        older = labels[max(0, len(labels) - held - _RIVAL_LABELS) : len(labels) - held]
        rival = self._fit(older) if self._fit_like is None else self._fit_like(challenger, older)
        newest = labels[len(labels) - held :]
        before = self._contest(champion, newest)
        after = self._contest(rival if rival is not None else challenger, newest)
        lost = sum(old > new for old, new in zip(before, after, strict=True))
        low, high = (float(part) for part in np.quantile(after, (0.05, 0.95)))
        swapped = lost < _LOST * len(after)
        report = RefitReport(len(labels), median(before), median(after), low, high, swapped)
        return Challenge(challenger, report, self.drifts)

    def adopt(self, challenge: Challenge[H] | None) -> RefitReport | None:
        """Let a challenger that held its own serve from now on. Call it on the event loop.

        One that was fitted before a drift is dropped: its labels no longer hold.
        """
        if challenge is None or challenge.drifts != self.drifts:
            return None
        if challenge.report.swapped:
            self.champion = challenge.head
        self.reports.append(challenge.report)
        return challenge.report

    def restore(self, labels: Iterable[Label[X]]) -> None:
        """Take up saved labels, oldest first, and refit once; rubbish raises ValueError."""
        for label in labels:
            self.observe(label)
        self.refit()

    def _contest(self, head: H | None, labels: Sequence[Label[X]]) -> list[float]:
        """APGR of a head on resamples of labels; the same resamples for every head."""
        scores = [self._rank(head, label.features) for label in labels]
        gains = [label.gain for label in labels]
        weights = [label.weight for label in labels]
        random = np.random.default_rng(len(labels))
        out = []
        for _ in range(_RESAMPLES):
            at = random.integers(0, len(labels), len(labels)).tolist()
            picked = ([part[one] for one in at] for part in (scores, gains, weights))
            out.append(self._judge(*picked))
        return out

    def _forget(self, count: int) -> None:
        """Drop the labels from before a drift, and the head that was fitted on them."""
        self.drifts += 1
        for _ in range(min(count, max(0, len(self.labels) - _DRIFT_MIN))):
            self.labels.popleft()
        self.champion = None
        self._counted = 0
