"""A bounded table of invalidations, which says whether an entry is older than one that matches it.

Invalidations are numbered (epochs). An entry carries the epoch in force when its question was asked; a
matching invalidation with a higher number blocks it. An evicted invalidation raises the floor: every
entry from below it is blocked, so that eviction is safe.
"""

from __future__ import annotations

from collections import OrderedDict

from app.domain.invalidation import InvalidationFilter

_MOST = 10_000


class Barriers:
    """The newest invalidation of each kind."""

    def __init__(self, *, most: int = _MOST) -> None:
        """Block nothing; hold at most ``most`` kinds."""
        self._most = most
        self._marks: OrderedDict[tuple[str, str, str, str], int] = OrderedDict()
        self.floor = 0

    def add(self, what: InvalidationFilter, epoch: int) -> None:
        """Block what matches and is older than ``epoch``."""
        if what.entry_id:
            self._mark((what.tenant, "", "", what.entry_id), epoch)
            return
        for tag in what.tags or ("",):
            self._mark((what.tenant, what.model, tag, ""), epoch)

    def clear(self, floor: int) -> None:
        """Block everything from before ``floor``, and nothing else."""
        self._marks.clear()
        self.floor = floor

    def blocks(
        self, epoch: int, tenant: str, model: str, tags: tuple[str, ...], entry_id: str
    ) -> bool:
        """Whether an entry of ``epoch`` may not be served."""
        if epoch < self.floor:
            return True
        marks = self._marks
        if not marks:
            return False
        if marks.get((tenant, "", "", entry_id), 0) > epoch:
            return True
        return any(
            marks.get((tenant, of_model, tag, ""), 0) > epoch
            for of_model in ("", model)
            for tag in ("", *tags)
        )

    def _mark(self, kind: tuple[str, str, str, str], epoch: int) -> None:
        self._marks[kind] = epoch
        self._marks.move_to_end(kind)
        if len(self._marks) > self._most:
            self.floor = max(self.floor, self._marks.popitem(last=False)[1])
