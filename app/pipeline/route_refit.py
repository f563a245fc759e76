"""Fits and contests the router's next head in a process of its own, so that no request shares its second.

``python -m app.pipeline.route_refit TOPICS`` reads a job from standard input (the serving head, then the
labels), and writes the challenger and how its contest went. It ends with its work, or when nobody reads
its answer. In a thread the same work held the interpreter for up to 140 ms at a time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from app.classify.calibration import apgr
from app.classify.complexity import GainHead, Point, fit_head, fit_like, score
from app.classify.head_archive import head_from_bytes, head_to_bytes
from app.classify.labels import SavedLabel, from_bytes, to_bytes
from app.learn.fit_process import FitProcess, answer_once
from app.routing.learning import Challenge, Label, RefitReport, RouterLearner

_PATIENCE_S = 120.0
_LENGTH = 8


def new_learner() -> RouterLearner[Point, GainHead]:
    """A learner of gain heads."""
    return RouterLearner(_fit, score, _judge, _fit_like)


class RouteRefit:
    """One fit after another; ``run`` blocks, ``stop`` may be called from anywhere."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._fitting = FitProcess("app.pipeline.route_refit", _PATIENCE_S)
        self.stop = self._fitting.stop

    def run(
        self, labels: Sequence[Label[Point]], champion: GainHead | None, drifts: int
    ) -> Challenge[GainHead] | None:
        """Challenge ``champion`` with a head fitted to ``labels``; None when there is nothing to learn.

        Raises ``OSError`` where the process could not be had or was stopped, ``ValueError`` for rubbish.
        """
        if not labels:
            return None
        archived = to_bytes(saved_of(labels), small=False)
        job = _joined(b"" if champion is None else head_to_bytes(champion), archived)
        report, head = _parted(self._fitting.ask(str(len(labels[0].features.topics)), job))
        return Challenge(head_from_bytes(head), _report(report), drifts) if report else None


def main(topics: int) -> None:
    """Read, fit, write."""

    def fitted(job: bytes) -> bytes:
        champion, archived = _parted(job)
        learner = new_learner()
        learner.champion = head_from_bytes(champion) if champion else None
        challenge = learner.challenge(labels_of(from_bytes(archived, topics=topics)))
        if challenge is None:
            return _joined(b"", b"")
        report = json.dumps(asdict(challenge.report)).encode()
        return _joined(report, head_to_bytes(challenge.head))

    answer_once(fitted)


def saved_of(labels: Sequence[Label[Point]]) -> list[SavedLabel]:
    """Labels as they are kept and sent."""
    return [SavedLabel(label.features, label.gain, label.propensity) for label in labels]


def labels_of(saved: Sequence[SavedLabel]) -> list[Label[Point]]:
    """Labels as the learner takes them."""
    return [Label(each.point, each.gain, each.propensity) for each in saved]


def _joined(first: bytes, second: bytes) -> bytes:
    return len(first).to_bytes(_LENGTH, "little") + first + second


def _parted(data: bytes) -> tuple[bytes, bytes]:
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    return data[_LENGTH:end], data[end:]


def _report(data: bytes) -> RefitReport:
    try:
        return RefitReport(**json.loads(data))
    except TypeError as exc:
        raise ValueError(f"router refit: not a report: {exc}") from exc


def _fit(labels: Sequence[Label[Point]]) -> GainHead | None:
    return fit_head(
        [label.features for label in labels],
        [label.gain for label in labels],
        [label.weight for label in labels],
    )


def _fit_like(head: GainHead, labels: Sequence[Label[Point]]) -> GainHead | None:
    return fit_like(
        head,
        [label.features for label in labels],
        [label.gain for label in labels],
        [label.weight for label in labels],
    )


def _judge(scores: Sequence[float], gains: Sequence[float], weights: Sequence[float]) -> float:
    return apgr(np.array(scores), np.array(gains), weight=np.array(weights))


if __name__ == "__main__":
    main(int(sys.argv[1]))
