"""Online learning of the powerful model's gain from this gateway's own traffic.

Labels come from a small share of shadow double-runs, verifier outcomes, escalations and feedback. Each is
observed with some propensity and weighs its inverse (inverse propensity weighting). A challenger head is
fitted in the background every 250 labels (at first sooner) and replaces the serving champion unless it ranks
the newest labels clearly worse. Drift of the champion's error (ADWIN) drops the old labels.

The learner is generic: `fit` turns examples into a head, `score` scores an example by one. Not thread-safe:
one event loop owns a learner; `challenge` alone may run in a worker thread, as it reads a snapshot and
returns its result.
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
_FIRST_REFIT = 50  # then every quarter more labels, up to REFIT_LABELS
_MAX_WEIGHT = 50.0  # clips the inverse propensity, which has too much variance beyond
MAX_LABELS: Final = 8_000
"""Labels that a learner keeps and one refit reads: as many as take under a second."""
_PROXY_LABELS = 3_000
_HOLDOUT_LABELS = 400
_INITIAL_PACE = 3.0  # of the mean shadow share
_DRIFT_DELTA = 0.002  # ADWIN's confidence parameter
_DRIFT_MIN = 60
_DRIFT_MAX = 1_000
_RESAMPLES = 40
_MAX_LOST_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Label(Generic[X]):
    """An observed `gain` of the powerful model, -1..1, and the propensity in (0, 1] of observing it."""

    features: X
    gain: float
    propensity: float = 1.0

    @property
    def weight(self) -> float:
        """The inverse propensity, clipped at 50."""
        return min(_MAX_WEIGHT, 1.0 / self.propensity)


class ShadowSampler:
    """Samples the requests to run on both tiers: at most `share` of `horizon` requests, denser at first.

    Labels are worth most early, so the sampling rate starts at three times the share and falls; over each
    horizon it averages `share`. At a given rate a request is relative_spread to be sampled where `spread`,
    the estimated standard deviation of the gain, is high (Neyman allocation); the propensity corrects for
    that. The propensity ignores the rate: the time of a request says nothing of its gain, and weighing late
    labels more would only lower the effective sample size, of a hundred labels to seventy.
    """

    __slots__ = ("_horizon", "_mean_spread", "_random", "_seen", "_spent", "share")

    def __init__(self, share: float, *, horizon: int = 10_000, seed: int = 0) -> None:
        """`share` in 0..0.05, 0 = none; `horizon`: the requests over which it is kept."""
        if not 0.0 <= share <= MAX_SHADOW_SHARE:
            raise ValueError(f"shadow: the share must lie in 0..{MAX_SHADOW_SHARE}, got {share}")
        if horizon < 1:
            raise ValueError(f"shadow: the horizon must be at least one request, got {horizon}")
        self.share = share
        self._horizon = horizon
        self._random = Random(seed)  # noqa: S311 - sampling, not security
        self._seen = 0
        self._spent = 0
        self._mean_spread = 1.0

    def sample(self, spread: float) -> float | None:
        """Count one request; its propensity in (0, 1] if it is sampled, else None."""
        position = (self._seen % self._horizon) / self._horizon
        self._seen += 1
        if self.share <= 0:
            return None
        spread = max(0.05, spread)
        self._mean_spread += max(0.01, 1.0 / self._seen) * (spread - self._mean_spread)
        # A density that falls from 3 to 0 at two thirds of the horizon and integrates to 1 over it.
        pace = self.share * max(0.0, _INITIAL_PACE * (1.0 - 0.5 * _INITIAL_PACE * position))
        limit = self.share * self._horizon * (1 + (self._seen - 1) // self._horizon)
        if self._spent + 1 > limit:
            return None
        relative_spread = spread / self._mean_spread
        probability = min(0.5, pace * relative_spread)
        if probability <= 0.0 or self._random.random() >= probability:
            return None
        self._spent += 1
        return min(1.0, self.share * relative_spread)


class DriftDetector:
    """ADWIN on a bounded window: detects a change in the mean of a stream of numbers in 0..1."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        """Start with an empty window."""
        self._values: deque[float] = deque(maxlen=_DRIFT_MAX)

    def add(self, value: float) -> int:
        """Add a number; on drift drop the values before the change and return how many, else return 0."""
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
    """The outcome of a refit: labels, the median APGR of both heads on held-out labels, and the swap."""

    labels: int
    champion: float
    challenger: float
    low: float
    """5 % quantile of the challenger's APGR over the bootstrap resamples; `high` is the 95 % one."""
    high: float
    swapped: bool


@dataclass(frozen=True, slots=True)
class Challenge(Generic[H]):
    """A fitted challenger, its evaluation, and the number of drifts before it was fitted."""

    head: H
    report: RefitReport
    drifts: int


class RouterLearner(Generic[X, H]):
    """Labels, champion and challengers of one (fast, powerful) pair of models."""

    def __init__(
        self,
        fit: Callable[[Sequence[Label[X]]], H | None],
        score: Callable[[H | None, X], float],
        apgr: Callable[[Sequence[float], Sequence[float], Sequence[float]], float],
        fit_proxy: Callable[[H, Sequence[Label[X]]], H | None] | None = None,
    ) -> None:
        """`fit`: labels to a head, None when there is nothing to learn. `score`: an example's score by a
        head, by the prior for None. `apgr`: of (scores, gains, weights). `fit_proxy`: labels to a head that
        only has to rank, and may reuse parts of the given one; `fit` if None.
        """
        self._fit, self._score, self._apgr, self._fit_proxy = fit, score, apgr, fit_proxy
        self.labels: deque[Label[X]] = deque(maxlen=MAX_LABELS)
        self.champion: H | None = None
        self.reports: deque[RefitReport] = deque(maxlen=100)
        self.drifts = 0
        self._drift = DriftDetector()
        self._labels_since_refit = 0
        self._labels_since_drift = 0

    def observe(self, label: Label[X]) -> bool:
        """Add a label; True when a refit is due. Values out of range raise ValueError and are not added."""
        if not (math.isfinite(label.gain) and -1.0 <= label.gain <= 1.0):
            raise ValueError(f"router: a gain must lie in -1..1, got {label.gain}")
        if not 0.0 < label.propensity <= 1.0:
            raise ValueError(f"router: a propensity must lie in (0, 1], got {label.propensity}")
        score = self._score(self.champion, label.features)
        self.labels.append(label)
        self._labels_since_refit += 1
        self._labels_since_drift += 1
        # The score's error as a classifier of gain > 0; its mean rises when the traffic changes.
        outdated = self._drift.add(min(1.0, abs(float(label.gain > 0) - score)))
        if outdated:
            self._drop_outdated(outdated)
            return True
        known = self._labels_since_drift
        return known >= _FIRST_REFIT and self._labels_since_refit >= min(REFIT_LABELS, known / 5)

    def refit(self) -> RefitReport | None:
        """Fit, evaluate and adopt at once; None when nothing can be learned. Up to a second of CPU."""
        return self.adopt(self.challenge(self.snapshot()))

    def snapshot(self) -> tuple[Label[X], ...]:
        """The labels to fit on; restarts the count to the next refit. Call it on the event loop."""
        self._labels_since_refit = 0
        return tuple(self.labels)

    def challenge(self, labels: Sequence[Label[X]]) -> Challenge[H] | None:
        """Fit a challenger on all labels and evaluate it; changes nothing, may run in a worker thread.

        The newest quarter of the labels (at most 400) is held out. For the evaluation a proxy fitted without
        it, on the newest 3,000 of the rest, stands for the challenger. More labels make better heads, so the
        challenger gets the benefit of the doubt: the champion stays only if it wins 95 % of the bootstrap
        resamples of the holdout. (A stricter rule threw away most of what few labels teach.)
        """
        champion = self.champion
        challenger = self._fit(labels)
        if challenger is None:
            return None
        holdout = min(_HOLDOUT_LABELS, len(labels) // 4)
        older = labels[max(0, len(labels) - holdout - _PROXY_LABELS) : len(labels) - holdout]
        proxy = self._fit(older) if self._fit_proxy is None else self._fit_proxy(challenger, older)
        newest = labels[len(labels) - holdout :]
        champion_apgr = self._bootstrap_apgr(champion, newest)
        challenger_apgr = self._bootstrap_apgr(proxy if proxy is not None else challenger, newest)
        lost = sum(old > new for old, new in zip(champion_apgr, challenger_apgr, strict=True))
        low, high = (float(part) for part in np.quantile(challenger_apgr, (0.05, 0.95)))
        swapped = lost < _MAX_LOST_SHARE * len(challenger_apgr)
        report = RefitReport(
            len(labels), median(champion_apgr), median(challenger_apgr), low, high, swapped
        )
        return Challenge(challenger, report, self.drifts)

    def adopt(self, challenge: Challenge[H] | None) -> RefitReport | None:
        """Serve by a challenger that won from now on. Call it on the event loop.

        One that was fitted before a drift is dropped: its labels are outdated.
        """
        if challenge is None or challenge.drifts != self.drifts:
            return None
        if challenge.report.swapped:
            self.champion = challenge.head
        self.reports.append(challenge.report)
        return challenge.report

    def restore(self, labels: Iterable[Label[X]]) -> None:
        """Add saved labels, oldest first, and refit once; values out of range raise ValueError."""
        for label in labels:
            self.observe(label)
        self.refit()

    def _bootstrap_apgr(self, head: H | None, labels: Sequence[Label[X]]) -> list[float]:
        """APGR of a head on bootstrap resamples of labels; the same resamples for every head."""
        scores = [self._score(head, label.features) for label in labels]
        gains = [label.gain for label in labels]
        weights = [label.weight for label in labels]
        random = np.random.default_rng(len(labels))
        out = []
        for _ in range(_RESAMPLES):
            at = random.integers(0, len(labels), len(labels)).tolist()
            picked = ([part[one] for one in at] for part in (scores, gains, weights))
            out.append(self._apgr(*picked))
        return out

    def _drop_outdated(self, count: int) -> None:
        """Drop the labels before a drift, and the head that was fitted on them."""
        self.drifts += 1
        for _ in range(min(count, max(0, len(self.labels) - _DRIFT_MIN))):
            self.labels.popleft()
        self.champion = None
        self._labels_since_drift = 0
