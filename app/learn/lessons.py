"""One agent run as training data for speculation: stored, and replayed by other workers.

Training data is stored and not the trained state, since the states of two workers cannot be merged. A
lesson is a few KB; replaying it trains exactly as the run itself did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from app.domain.chat import Json
from app.domain.speculation import Patterns
from app.learn.argument_sources import ConversationState, PastCall
from app.learn.next_calls import NextCallModel, SpeculativeTool

MAX_LESSON_BYTES = 64 * 1024
"""Larger lessons are not stored: each would push out too many others."""


@dataclass(frozen=True, slots=True)
class LessonTurn:
    """One model turn: its stage, the text that arguments may come from, the calls it made."""

    stage: str
    text: str
    calls: tuple[PastCall, ...]


@dataclass(frozen=True, slots=True)
class Lesson:
    """One run of one agent of one tenant. Field names are the stored format."""

    lesson_id: str
    tenant: str
    agent: str
    said: str
    earlier: tuple[str, ...]
    before: tuple[PastCall, ...]
    turns: tuple[LessonTurn, ...]
    tools: tuple[SpeculativeTool, ...]
    """Tools that may be started early."""
    schemas: Mapping[str, Json]
    """Parameter schema of every offered tool."""
    changes: tuple[str, ...]
    """Called tools that are not read-only."""
    share: float
    """Allowed wasted calls per call, 0 to 1."""


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Lesson)


def encode_lesson(lesson: Lesson) -> bytes | None:
    """A lesson as one line of JSON; None for one that is too large or not representable."""
    try:
        line = _ENCODER.encode(lesson)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return line if len(line) <= MAX_LESSON_BYTES else None


def decode_lesson(line: bytes) -> Lesson | None:
    """The lesson of a line; None where it is not one."""
    try:
        return _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def replay_lesson(
    lesson: Lesson, habits: NextCallModel, patterns_of: Callable[[str], Patterns]
) -> None:
    """Train on a stored run as if it had just ended; ``habits.fit_due`` may be true afterwards."""
    calls = [call for turn in lesson.turns for call in turn.calls]
    points, done = [], 0
    for turn in lesson.turns:
        scene = ConversationState(lesson.said, lesson.earlier, lesson.before, tuple(calls[:done]))
        points.append((habits.predict(scene, lesson.tools), calls[done:]))
        patterns = patterns_of(turn.stage)
        predicted = patterns.predict(turn.text, lesson.schemas)
        patterns.learn(
            turn.text, predicted, [(call.tool, dict(call.arguments)) for call in turn.calls]
        )
        done += len(turn.calls)
    habits.learn(points, lesson.schemas, lesson.changes, lesson.share)
