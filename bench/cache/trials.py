"""Every (stream, seed, bound) run, its baselines, and the shifted runs.

Shifts, each in the middle of the served part, at every bound: ``answers`` (half of all answers change
at once; nothing in the questions tells), ``foreign`` (the traffic of another stream follows),
``topics`` (from then on only questions whose answers were never asked for before).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from app.cache.bound import Limits
from app.cache.verifier import LabelledQuestion, fit_route
from bench.cache.policies import (
    Fixed,
    Ours,
    PerEntry,
    calibrated_cosine,
    held_out_outcomes,
    nearest_outcomes,
    prepared,
)
from bench.cache.replay import SHADOW_SHARE, Outcome, Replay, ceiling, replay

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from bench.cache.data import Stream

SHIFT_WINDOW = 500
SHIFTS = ("answers", "foreign", "topics")
_LATE_SHARE = 0.4
_CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class Trial:
    """One policy's run. `bound` is `max_error_rate`; `labels` were there when serving began."""

    stream: str
    seed: int
    bound: float
    policy: str
    labels: int
    ceiling: float
    outcome: Outcome
    alarms: int = 0

    @property
    def holds_per_request(self) -> bool:
        """Whether the share of wrong hits among requests is within the bound: DECISIONS' own verdict."""
        return self.outcome.wrong_per_request <= Limits.of(self.bound).per_request

    @property
    def holds(self) -> bool:
        """Whether both observed shares are within what was promised, without allowance for chance."""
        return (
            self.holds_per_request and self.outcome.wrong_per_hit <= Limits.of(self.bound).per_hit
        )

    @property
    def surely_broken(self) -> bool:
        """Whether so many wrong hits would come by chance in at most 1 of 20 runs that keep the promise."""
        limits = Limits.of(self.bound)
        return (
            _tail(self.outcome.wrong, self.outcome.hits, limits.per_hit) <= _CHANCE
            or _tail(self.outcome.wrong, self.outcome.requests, limits.per_request) <= _CHANCE
        )


def _tail(wrong: int, count: int, share: float) -> float:
    """P(at least ``wrong`` of ``count``) where each is wrong with probability ``share``."""
    logs = (
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        + k * math.log(share) + (count - k) * math.log1p(-share)
        for k in range(wrong)
    )  # fmt: skip
    return 1.0 - sum(map(math.exp, logs))


@dataclass(frozen=True, slots=True)
class Shuffled:
    """A stream in one random order, cut to a length."""

    name: str
    seed: int
    questions: list[LabelledQuestion]
    vectors: NDArray[np.float32]
    labels: list[str]
    shadow: int

    @classmethod
    def of(cls, stream: Stream, seed: int, longest: int) -> Shuffled:
        """Draw the order from the seed alone."""
        order = np.random.default_rng(seed).permutation(len(stream.labels))[:longest].tolist()
        labels = [stream.labels[i] for i in order]
        return cls._made(stream, seed, order, labels, int(SHADOW_SHARE * len(order)))

    @classmethod
    def _made(
        cls, stream: Stream, seed: int, order: Sequence[int], labels: list[str], shadow: int
    ) -> Shuffled:
        vectors = np.ascontiguousarray(stream.vectors[order])
        questions = [
            LabelledQuestion(stream.views[i], vectors[at], labels[at], at_s=float(at))
            for at, i in enumerate(order)
        ]
        return cls(stream.name, seed, questions, vectors, labels, shadow)

    @classmethod
    def new_topics(cls, stream: Stream, seed: int, longest: int) -> tuple[Shuffled, int]:
        """Questions of some answers come only after all of the others': (stream, where they begin)."""
        order = np.random.default_rng(seed).permutation(len(stream.labels))[:longest].tolist()
        chosen = np.random.default_rng(seed + 99)
        late = {
            name for name in sorted({stream.labels[i] for i in order})
            if chosen.random() < _LATE_SHARE
        }  # fmt: skip
        first = [i for i in order if stream.labels[i] not in late]
        then = [i for i in order if stream.labels[i] in late][: 2 * SHIFT_WINDOW]
        labels = [stream.labels[i] for i in (*first, *then)]
        shadow = int(SHADOW_SHARE * len(order)) * len(first) // max(1, len(order))
        made = cls._made(stream, seed, [*first, *then], labels, shadow)
        return made, len(first) - shadow

    def changed_answers(self) -> tuple[Shuffled, int]:
        """Half of all answers change in the middle of the served part: (stream, where)."""
        middle = (self.shadow + len(self.labels)) // 2
        chosen = np.random.default_rng(self.seed + 77)
        changed = {name: bool(chosen.random() < 0.5) for name in sorted(set(self.labels))}
        labels = [
            f"{name} (changed)" if i >= middle and changed[name] else name
            for i, name in enumerate(self.labels)
        ]
        return self._with(self.questions, self.vectors, labels, middle), middle - self.shadow

    def then_foreign(self, other: Shuffled) -> tuple[Shuffled, int]:
        """Another stream's questions from the middle of the served part on: (stream, where)."""
        middle = (self.shadow + len(self.labels)) // 2
        labels = [*self.labels[:middle], *(f"{other.name}: {name}" for name in other.labels)]
        questions = [*self.questions[:middle], *other.questions]
        vectors = np.concatenate([self.vectors[:middle], other.vectors])
        return self._with(questions, vectors, labels, middle), middle - self.shadow

    def _with(
        self,
        questions: Sequence[LabelledQuestion],
        vectors: NDArray[np.float32],
        labels: list[str],
        middle: int,
    ) -> Shuffled:
        """These instead, to the end of the second window behind the middle."""
        end = min(len(labels), middle + 2 * SHIFT_WINDOW)
        relabelled = [
            replace(q, answer_group=name, at_s=float(at))
            for at, (q, name) in enumerate(zip(questions[:end], labels[:end], strict=True))
        ]
        made = np.ascontiguousarray(vectors[:end])
        return Shuffled(self.name, self.seed, relabelled, made, labels[:end], self.shadow)


def run_trials(
    stream: Stream, other: Stream, seed: int, longest: int, bounds: Sequence[float]
) -> Iterator[Trial]:
    """All policies on one order at all bounds, and ours over each shift; one shadow fit for all."""
    plain = Shuffled.of(stream, seed, longest)
    fit = fit_route(plain.questions[: plain.shadow])
    yield from _baselines(plain, bounds)
    shifts = {
        "answers": plain.changed_answers(),
        "foreign": plain.then_foreign(Shuffled.of(other, seed, 2 * SHIFT_WINDOW)),
    }
    best, shadow = ceiling(plain.labels, plain.shadow), plain.shadow
    for bound in bounds:
        state = prepared(fit, plain.questions[:shadow], Limits.of(bound))
        ours = Ours(state, plain.questions, seed)
        run = Replay(ours, plain.vectors, plain.labels, shadow)
        for kind, (shifted, start) in shifts.items():
            run.run(shadow + start)  # the same place for both
            turned = ours.fork(shifted.questions)
            then = run.fork(turned, shifted.vectors, shifted.labels)
            then.run(len(shifted.labels))
            yield from _windows((kind, bound, start), shifted, turned, then.outcome)
        run.run(len(plain.labels))
        alarms = ours.state.alarms
        yield Trial(stream.name, seed, bound, "ours", shadow, best, run.outcome, alarms)
    topics, start = Shuffled.new_topics(stream, seed, longest)
    fit, shadow = fit_route(topics.questions[: topics.shadow]), topics.shadow
    for bound in bounds:
        state = prepared(fit, topics.questions[:shadow], Limits.of(bound))
        ours = Ours(state, topics.questions, seed)
        outcome = replay(ours, topics.vectors, topics.labels, shadow)
        yield from _windows(("topics", bound, start), topics, ours, outcome)


def _windows(
    what: tuple[str, float, int], shifted: Shuffled, ours: Ours, outcome: Outcome
) -> Iterator[Trial]:
    """The two windows behind a shift; ``what``: its kind, the bound, where in the served part."""
    kind, bound, start = what
    best = ceiling(shifted.labels, shifted.shadow)
    for begin in (0, SHIFT_WINDOW):
        window = outcome.window(start + begin, start + begin + SHIFT_WINDOW)
        if window.requests:
            yield Trial(
                shifted.name, shifted.seed, bound, f"{kind} +{begin}", shifted.shadow, best,
                window, ours.state.alarms,
            )  # fmt: skip


def _baselines(shuffled: Shuffled, bounds: Sequence[float]) -> Iterator[Trial]:
    name, seed, shadow = shuffled.name, shuffled.seed, shuffled.shadow
    vectors, labels = shuffled.vectors, shuffled.labels
    best = ceiling(labels, shadow)
    outcomes = nearest_outcomes(vectors[:shadow], labels[:shadow])
    held_out = held_out_outcomes(vectors[:shadow], labels[:shadow])
    fixed = replay(Fixed(0.95), vectors, labels, shadow)
    for bound in bounds:
        limits = Limits.of(bound)
        yield Trial(name, seed, bound, "cosine 0.95", shadow, best, fixed)
        strict = calibrated_cosine(outcomes, limits)
        loose = calibrated_cosine(held_out, Limits(limits.per_request, 1.0))
        for policy, cosine in (("calibrated cosine", strict), ("cosine, per request", loose)):
            outcome = replay(cosine, vectors, labels, shadow)
            yield Trial(name, seed, bound, policy, shadow, best, outcome)
        entry = replay(PerEntry(bound, labels, seed), vectors, labels, shadow, teach_shadow=True)
        yield Trial(name, seed, bound, "vCache", shadow, best, entry)
