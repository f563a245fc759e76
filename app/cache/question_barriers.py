"""Invalidations of semantic entries, in force in this process whatever the store still has.

Unlike `app.cache.barriers` they are ordered by wall-clock time and match tags together. The table is
bounded: an evicted barrier raises the floor, and what was asked by then is not stored any more.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from app.domain.vectors import QuestionFilter, StoredQuestion

_MAX_BARRIERS: Final = 512


class QuestionBarriers:
    """The newest invalidations, by filter and by entry."""

    def __init__(self) -> None:
        """Block nothing."""
        self._filters: deque[tuple[QuestionFilter, float]] = deque()
        self._entries: OrderedDict[str, float] = OrderedDict()
        self.floor_unix_s = 0.0
        """What was asked by then may match an evicted barrier."""

    def add(self, which: QuestionFilter, at_unix_s: float) -> None:
        """Block what matches and was asked by ``at_unix_s``."""
        self._filters.append((which, at_unix_s))
        if len(self._filters) > _MAX_BARRIERS:
            self.floor_unix_s = max(self.floor_unix_s, self._filters.popleft()[1])

    def add_entry(self, entry_id: str, at_unix_s: float) -> None:
        """Block one entry as asked by ``at_unix_s``."""
        self._entries[entry_id] = at_unix_s
        self._entries.move_to_end(entry_id)
        if len(self._entries) > _MAX_BARRIERS:
            self.floor_unix_s = max(self.floor_unix_s, self._entries.popitem(last=False)[1])

    def blocks(self, question: StoredQuestion) -> bool:
        """Whether ``question`` may not be served."""
        removed_unix_s = self._entries.get(question.id)
        if removed_unix_s is not None and question.kept_unix_s <= removed_unix_s:
            return True
        return any(
            question.kept_unix_s <= at and which.matches(question) for which, at in self._filters
        )
