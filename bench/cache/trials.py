"""Every (stream, seed, bound) run, its baselines, and the shifted runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.cache.bound import Limits
from app.cache.verifier import Question
from bench.cache.policies import (
    Fixed,
    Ours,
    PerEntry,
    calibrated_cosine,
    fit_shadow,
    nearest_outcomes,
    prepared,
)
from bench.cache.replay import SHADOW_SHARE, Outcome, ceiling, replay

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from bench.cache.data import Stream

SHIFT_WINDOW = 500


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
    def holds(self) -> bool:
        """Whether both observed shares are within what was promised."""
        limits = Limits.of(self.bound)
        return (
            self.outcome.wrong_per_request <= limits.per_request
            and self.outcome.wrong_per_hit <= limits.per_hit
        )


@dataclass(frozen=True, slots=True)
class Shuffled:
    """A stream in one random order, cut to a length."""

    name: str
    seed: int
    questions: list[Question]
    vectors: NDArray[np.float32]
    labels: list[str]
    shadow: int

    @classmethod
    def of(cls, stream: Stream, seed: int, longest: int) -> Shuffled:
        """Draw the order from the seed alone."""
        order = np.random.default_rng(seed).permutation(len(stream.labels))[:longest].tolist()
        labels = [stream.labels[i] for i in order]
        vectors = np.ascontiguousarray(stream.vectors[order])
        questions = [
            Question(stream.views[i], vectors[at], labels[at]) for at, i in enumerate(order)
        ]
        return cls(stream.name, seed, questions, vectors, labels, int(SHADOW_SHARE * len(order)))

    def shifted(self) -> tuple[Shuffled, int]:
        """Half of all answers change in the middle of the served part: (stream, where)."""
        middle = (self.shadow + len(self.labels)) // 2
        chosen = np.random.default_rng(self.seed + 77)
        changed = {name: bool(chosen.random() < 0.5) for name in sorted(set(self.labels))}
        labels = [
            f"{name} (changed)" if i >= middle and changed[name] else name
            for i, name in enumerate(self.labels)
        ]
        questions = [
            Question(q.view, q.vector, name) for q, name in zip(self.questions, labels, strict=True)
        ]
        return (
            Shuffled(self.name, self.seed, questions, self.vectors, labels, self.shadow),
            middle - self.shadow,
        )


def run_trials(shuffled: Shuffled, bounds: Sequence[float]) -> Iterator[Trial]:
    """All policies on one order at all bounds; our shadow fit is shared by the bounds."""
    name, seed, shadow = shuffled.name, shuffled.seed, shuffled.shadow
    vectors, labels, questions = shuffled.vectors, shuffled.labels, shuffled.questions
    best = ceiling(labels, shadow)
    fit = fit_shadow(questions[:shadow], None)
    outcomes = nearest_outcomes(vectors[:shadow], labels[:shadow])
    fixed = replay(Fixed(0.95), vectors, labels, shadow)
    for bound in bounds:
        limits = Limits.of(bound)
        ours = Ours(prepared(fit, questions[:shadow], limits, None), questions, seed)
        result = replay(ours, vectors, labels, shadow)
        yield Trial(name, seed, bound, "ours", shadow, best, result, ours.state.alarms)
        cosine = replay(calibrated_cosine(outcomes, limits), vectors, labels, shadow)
        yield Trial(name, seed, bound, "calibrated cosine", shadow, best, cosine)
        yield Trial(name, seed, bound, "cosine 0.95", shadow, best, fixed)
        entry = replay(PerEntry(bound, labels, seed), vectors, labels, shadow, teach_shadow=True)
        yield Trial(name, seed, bound, "vCache", shadow, best, entry)
    shifted, at = shuffled.shifted()
    limits = Limits.of(bounds[0])
    ours = Ours(prepared(fit, questions[:shadow], limits, None), shifted.questions, seed)
    result = replay(ours, vectors, shifted.labels, shadow)
    for part, start in (("shift +0", at), ("shift +500", at + SHIFT_WINDOW)):
        window = result.window(start, start + SHIFT_WINDOW)
        if window.requests:
            yield Trial(name, seed, bounds[0], part, shadow, best, window, ours.state.alarms)
