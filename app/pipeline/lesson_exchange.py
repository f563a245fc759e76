"""Persist the lessons of agents' runs, and learn from those of other workers; see ``app.learn.lessons``.

Off every request's path: a run appends its lesson to a list, which is written, and others' read and learned,
every few seconds; file access and the restore at start run in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from app.learn.lessons import Lesson, decode_lesson, encode_lesson, replay_lesson
from app.pipeline.speculation import Speculation
from app.stores.lesson_file import LessonFile

_EVERY_S = 5.0
_MOST_WAITING = 256
_MAX_RESTORED = 256
"""The newest lessons that are replayed at start: about a second of CPU, in a thread."""
_MOST_AT_ONCE = 16
_YIELD_S = 0.002
_MAX_SEEN = 8192


class LessonExchange:
    """One worker's exchange. ``run`` it beside the server; ``aclose`` writes what is pending."""

    def __init__(self, speculation: Speculation, file: LessonFile) -> None:
        """Collect the lessons of ``speculation`` from now on."""
        self._speculation, self._file = speculation, file
        self._waiting: deque[Lesson] = deque(maxlen=_MOST_WAITING)
        self._seen: dict[str, None] = {}
        speculation.on_lesson = self._waiting.append

    async def run(self) -> None:
        """Restore, then exchange with the other workers, until cancelled."""
        await self.restore()
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.exchange()

    async def restore(self) -> None:
        """Relearn what was learned before this worker started; habits learned meanwhile from more turns
        stay.
        """
        lines = await asyncio.to_thread(self._file.read_new)
        known = [
            lesson for lesson in map(decode_lesson, lines[-_MAX_RESTORED:]) if lesson is not None
        ]
        self._mark_seen(known)
        restored = await asyncio.to_thread(_replay_all, known)
        for key, habits in restored.next_call_models.items():
            present = self._speculation.next_call_models.get(key)
            if present is None or present.turns < habits.turns:
                self._speculation.next_call_models[key] = habits
                stages = {at: each for at, each in restored.patterns.items() if at[:2] == key}
                self._speculation.patterns.update(stages)

    async def exchange(self) -> None:
        """Write this worker's lessons, and learn from the others'."""
        own = list(self._waiting)
        self._waiting.clear()
        self._mark_seen(own)
        lines = [line for line in map(encode_lesson, own) if line is not None]
        if lines:
            await asyncio.to_thread(self._file.append, lines)
        found = await asyncio.to_thread(self._file.read_new)
        others = [lesson for lesson in map(decode_lesson, found) if lesson is not None]
        fresh = [lesson for lesson in others if lesson.lesson_id not in self._seen]
        self._mark_seen(fresh)
        for lesson in fresh[-_MOST_AT_ONCE:]:
            _replay_lesson(lesson, self._speculation)
            self._speculation.refit(self._speculation.next_call_model(lesson.tenant, lesson.agent))
            await asyncio.sleep(0)  # each takes a few milliseconds: let requests run in between

    async def aclose(self) -> None:
        """Write pending lessons; call it after ``run`` was cancelled."""
        lines = [line for line in map(encode_lesson, self._waiting) if line is not None]
        self._waiting.clear()
        if lines:
            await asyncio.to_thread(self._file.append, lines)

    def _mark_seen(self, lessons: list[Lesson]) -> None:
        for lesson in lessons:
            self._seen[lesson.lesson_id] = None
        while len(self._seen) > _MAX_SEEN:
            del self._seen[next(iter(self._seen))]


def _replay_lesson(lesson: Lesson, speculation: Speculation) -> None:
    tenant, agent = lesson.tenant, lesson.agent
    habits = speculation.next_call_model(tenant, agent)
    replay_lesson(lesson, habits, lambda stage: speculation.stage_patterns(tenant, agent, stage))


def _replay_all(lessons: list[Lesson]) -> Speculation:
    """The speculation state that ``lessons`` lead to; runs in a thread."""
    learned = Speculation()
    for lesson in lessons:
        _replay_lesson(lesson, learned)
        habits = learned.next_call_model(lesson.tenant, lesson.agent)
        if habits.fit_due and habits.turns % 16 == 0:
            habits.fit()
        time.sleep(_YIELD_S)  # release the interpreter to the event loop
    for habits in learned.next_call_models.values():
        if habits.fit_due:
            habits.fit()
    return learned
