"""Keeps what agents' runs teach, and learns from what other workers' runs taught; see ``app.learn.lessons``.

Nothing of this is on a request's way: a run leaves its lesson in a list, and what is written, read and
learned happens every few seconds, file and first lessons in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from app.learn.lessons import Lesson, live_through, read, written
from app.pipeline.speculation import Speculation
from app.stores.lesson_file import LessonFile

_EVERY_S = 5.0
_MOST_WAITING = 256
_MOST_RELIVED = 256
"""Lessons that are lived through at a start, the newest: about a second of CPU, in a thread."""
_MOST_AT_ONCE = 16
_BREATH_S = 0.002
_SEEN = 8192


class Lessons:
    """One worker's part. ``run`` it beside the server; ``aclose`` keeps what is not kept yet."""

    def __init__(self, speculation: Speculation, file: LessonFile) -> None:
        """Take lessons from ``speculation`` from now on."""
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
        """Learn again what was learned before this worker started. What was learned meanwhile stays where
        it is more.
        """
        lines = await asyncio.to_thread(self._file.fresh)
        known = [lesson for lesson in map(read, lines[-_MOST_RELIVED:]) if lesson is not None]
        self._note(known)
        restored = await asyncio.to_thread(_lived, known)
        for key, habits in restored.habits.items():
            present = self._speculation.habits.get(key)
            if present is None or present.turns < habits.turns:
                self._speculation.habits[key] = habits
                stages = {at: each for at, each in restored.patterns.items() if at[:2] == key}
                self._speculation.patterns.update(stages)

    async def exchange(self) -> None:
        """Keep this worker's lessons, and learn from those of others."""
        own = list(self._waiting)
        self._waiting.clear()
        self._note(own)
        lines = [line for line in map(written, own) if line is not None]
        if lines:
            await asyncio.to_thread(self._file.append, lines)
        found = await asyncio.to_thread(self._file.fresh)
        others = [lesson for lesson in map(read, found) if lesson is not None]
        fresh = [lesson for lesson in others if lesson.lesson_id not in self._seen]
        self._note(fresh)
        for lesson in fresh[-_MOST_AT_ONCE:]:
            _live(lesson, self._speculation)
            self._speculation.refit(self._speculation.of_agent(lesson.tenant, lesson.agent))
            await asyncio.sleep(0)  # a few milliseconds each: requests go in between

    async def aclose(self) -> None:
        """Keep what is not kept yet; after ``run`` was cancelled."""
        lines = [line for line in map(written, self._waiting) if line is not None]
        self._waiting.clear()
        if lines:
            await asyncio.to_thread(self._file.append, lines)

    def _note(self, lessons: list[Lesson]) -> None:
        for lesson in lessons:
            self._seen[lesson.lesson_id] = None
        while len(self._seen) > _SEEN:
            del self._seen[next(iter(self._seen))]


def _live(lesson: Lesson, speculation: Speculation) -> None:
    tenant, agent = lesson.tenant, lesson.agent
    habits = speculation.of_agent(tenant, agent)
    live_through(lesson, habits, lambda stage: speculation.of_stage(tenant, agent, stage))


def _lived(lessons: list[Lesson]) -> Speculation:
    """Everything that ``lessons`` teach; for a thread."""
    learned = Speculation()
    for lesson in lessons:
        _live(lesson, learned)
        habits = learned.of_agent(lesson.tenant, lesson.agent)
        if habits.due and habits.turns % 16 == 0:
            habits.fit()
        time.sleep(_BREATH_S)  # requests want the interpreter too
    for habits in learned.habits.values():
        if habits.due:
            habits.fit()
    return learned
