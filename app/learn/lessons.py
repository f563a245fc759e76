"""What one run teaches about the next, as a value: so that it can be kept, and lived through again elsewhere.

What was learned is not kept itself: what two workers have learned cannot be added up, but what they
learned *from* can. A lesson is small (a few KB), and living through it gives what the run itself gave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from app.domain.chat import Json
from app.domain.speculation import Patterns
from app.learn.next_calls import Known, NextCalls
from app.learn.said import Made, Scene

MOST_BYTES = 64 * 1024
"""A lesson above this is not kept: it would push out too many others."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """One turn of the model: where the run stood, what could be read last, what was called."""

    stage: str
    text: str
    calls: tuple[Made, ...]


@dataclass(frozen=True, slots=True)
class Lesson:
    """One run of one agent, for one tenant."""

    lesson_id: str
    tenant: str
    agent: str
    said: str
    earlier: tuple[str, ...]
    before: tuple[Made, ...]
    turns: tuple[Chosen, ...]
    tools: tuple[Known, ...]
    """Those that may be started early."""
    schemas: Mapping[str, Json]
    """Of every tool that was offered."""
    changes: tuple[str, ...]
    """Which of the called ones change something."""
    share: float
    """Wasted calls allowed for each call."""


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Lesson)


def written(lesson: Lesson) -> bytes | None:
    """A lesson as one line of JSON; None for one that is too long or holds what JSON does not know."""
    try:
        line = _ENCODER.encode(lesson)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return line if len(line) <= MOST_BYTES else None


def read(line: bytes) -> Lesson | None:
    """The lesson of a line; None for anything else."""
    try:
        return _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def live_through(lesson: Lesson, habits: NextCalls, patterns_of: Callable[[str], Patterns]) -> None:
    """Learn from a run as if it had just happened; ``habits.due`` may be true afterwards."""
    calls = [call for turn in lesson.turns for call in turn.calls]
    points, done = [], 0
    for turn in lesson.turns:
        scene = Scene(lesson.said, lesson.earlier, lesson.before, tuple(calls[:done]))
        points.append((habits.foresee(scene, lesson.tools), calls[done:]))
        patterns = patterns_of(turn.stage)
        predicted = patterns.predict(turn.text, lesson.schemas)
        patterns.learn(
            turn.text, predicted, [(call.tool, dict(call.arguments)) for call in turn.calls]
        )
        done += len(turn.calls)
    habits.learn(points, lesson.schemas, lesson.changes, lesson.share)
