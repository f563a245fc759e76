"""Fits and contests the router's next head in a process of its own, so that no request shares its second.

``python -m app.pipeline.route_refit TOPICS`` reads a job from standard input (the serving head, then the
labels), and writes the challenger and how its contest went. It ends with its work, or when nobody reads
its answer. In a thread the same work held the interpreter for up to 140 ms at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from app.classify.calibration import apgr
from app.classify.complexity import GainHead, Point, fit_head, score
from app.classify.head_archive import head_from_bytes, head_to_bytes
from app.classify.labels import SavedLabel, from_bytes, to_bytes
from app.routing.learning import Challenge, Label, RefitReport, RouterLearner

_NICENESS = 10
_PATIENCE_S = 120.0
_LENGTH = 8


def new_learner() -> RouterLearner[Point, GainHead]:
    """A learner of gain heads."""
    return RouterLearner(_fit, score, _judge)


class RouteRefit:
    """One fit after another; ``run`` blocks, ``stop`` may be called from anywhere."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def run(
        self, labels: Sequence[Label[Point]], champion: GainHead | None, drifts: int
    ) -> Challenge[GainHead] | None:
        """Challenge ``champion`` with a head fitted to ``labels``; None when there is nothing to learn.

        Raises ``OSError`` where the process could not be had or was stopped, ``ValueError`` for rubbish.
        """
        if not labels:
            return None
        topics = len(labels[0].features.topics)
        command = [sys.executable, "-m", "app.pipeline.route_refit", str(topics)]
        sent = _joined(b"" if champion is None else head_to_bytes(champion), _archived(labels))
        with subprocess.Popen(  # noqa: S603 - our own command, no shell
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            self._process = process
            if self._stopped:
                process.kill()
            try:
                answered, _ = process.communicate(sent, timeout=_PATIENCE_S)
            except subprocess.TimeoutExpired as exc:
                process.kill()
                raise OSError(f"fitting took more than {_PATIENCE_S:g} s") from exc
        if process.returncode:
            raise OSError(f"fitting ended with status {process.returncode}")
        report, head = _parted(answered)
        return Challenge(head_from_bytes(head), _report(report), drifts) if report else None

    def stop(self) -> None:
        """End the fit, if one runs; later ones end at once."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()


def main(topics: int) -> None:
    """Read, fit, write."""
    os.nice(_NICENESS)
    champion, archived = _parted(sys.stdin.buffer.read())
    learner = new_learner()
    learner.champion = head_from_bytes(champion) if champion else None
    labels = [
        Label(each.point, each.gain, each.propensity)
        for each in from_bytes(archived, topics=topics)
    ]
    challenge = learner.challenge(labels)
    answer = _joined(b"", b"")
    if challenge is not None:
        report = json.dumps(asdict(challenge.report)).encode()
        answer = _joined(report, head_to_bytes(challenge.head))
    sys.stdout.buffer.write(answer)


def _archived(labels: Sequence[Label[Point]]) -> bytes:
    saved = [SavedLabel(label.features, label.gain, label.propensity) for label in labels]
    return to_bytes(saved, small=False)


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


def _judge(scores: Sequence[float], gains: Sequence[float], weights: Sequence[float]) -> float:
    return apgr(np.array(scores), np.array(gains), weight=np.array(weights))


if __name__ == "__main__":
    main(int(sys.argv[1]))
