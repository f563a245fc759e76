"""Fit the router's next head, and compare it with the serving one, in a process of its own.

``python -m app.pipeline.router_refit TOPICS`` reads a job from standard input (the serving head, then the
labels), and writes the challenger and the report of the comparison. It ends with its work, or when its output
is closed. In a thread the same work held the interpreter for up to 140 ms at a time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from app.classify.calibration import apgr
from app.classify.complexity import (
    GainFeatures,
    GainHead,
    fit_head,
    fit_head_reusing_calibration,
    score,
)
from app.classify.head_archive import head_from_bytes, head_to_bytes
from app.classify.labels import SavedLabel, from_bytes, to_bytes
from app.learn.fit_process import FitProcess, serve_one_fit
from app.routing.learning import Challenge, Label, RefitReport, RouterLearner

_TIMEOUT_S = 120.0
_LENGTH = 8


def new_learner() -> RouterLearner[GainFeatures, GainHead]:
    """A learner of gain heads."""
    return RouterLearner(_fit, score, _judge, _fit_like)


class RouterRefit:
    """Runs one fit at a time; ``run`` blocks, ``stop`` is thread-safe."""

    def __init__(self) -> None:
        """Start no process yet."""
        self._fitting = FitProcess("app.pipeline.router_refit", _TIMEOUT_S)
        self.stop = self._fitting.stop

    def run(
        self, labels: Sequence[Label[GainFeatures]], champion: GainHead | None, drifts: int
    ) -> Challenge[GainHead] | None:
        """Fit a head to ``labels`` and compare it with ``champion``; None when there is nothing to learn.

        Raises ``OSError`` where the process did not start or was stopped, ``ValueError`` for invalid output.
        """
        if not labels:
            return None
        archived = to_bytes(to_saved(labels), compressed=False)
        job = _pack(b"" if champion is None else head_to_bytes(champion), archived)
        report, head = _unpack(self._fitting.run(str(len(labels[0].features.topics)), job))
        return Challenge(head_from_bytes(head), _report(report), drifts) if report else None


def main(topics: int) -> None:
    """Read the job, fit, write the result."""

    def fitted(job: bytes) -> bytes:
        champion, archived = _unpack(job)
        learner = new_learner()
        learner.champion = head_from_bytes(champion) if champion else None
        challenge = learner.challenge(from_saved(from_bytes(archived, topics=topics)))
        if challenge is None:
            return _pack(b"", b"")
        report = json.dumps(asdict(challenge.report)).encode()
        return _pack(report, head_to_bytes(challenge.head))

    serve_one_fit(fitted)


def to_saved(labels: Sequence[Label[GainFeatures]]) -> list[SavedLabel]:
    """Labels in the form of files and of the job."""
    return [SavedLabel(label.features, label.gain, label.propensity) for label in labels]


def from_saved(saved: Sequence[SavedLabel]) -> list[Label[GainFeatures]]:
    """Labels in the learner's form."""
    return [Label(each.features, each.gain, each.propensity) for each in saved]


def _pack(first: bytes, second: bytes) -> bytes:
    return len(first).to_bytes(_LENGTH, "little") + first + second


def _unpack(data: bytes) -> tuple[bytes, bytes]:
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    return data[_LENGTH:end], data[end:]


def _report(data: bytes) -> RefitReport:
    try:
        return RefitReport(**json.loads(data))
    except TypeError as exc:
        raise ValueError(f"router refit: not a report: {exc}") from exc


def _fit(labels: Sequence[Label[GainFeatures]]) -> GainHead | None:
    return fit_head(
        [label.features for label in labels],
        [label.gain for label in labels],
        [label.weight for label in labels],
    )


def _fit_like(head: GainHead, labels: Sequence[Label[GainFeatures]]) -> GainHead | None:
    return fit_head_reusing_calibration(
        head,
        [label.features for label in labels],
        [label.gain for label in labels],
        [label.weight for label in labels],
    )


def _judge(scores: Sequence[float], gains: Sequence[float], weights: Sequence[float]) -> float:
    return apgr(np.array(scores), np.array(gains), weight=np.array(weights))


if __name__ == "__main__":
    main(int(sys.argv[1]))
