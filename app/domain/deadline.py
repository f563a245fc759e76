"""A point in time by which work must be complete, on the caller's monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """An absolute time in seconds of the clock it was made with; ``None`` never passes."""

    at_s: float | None = None

    @classmethod
    def after(cls, now_s: float, seconds: float | None) -> Deadline:
        """The deadline ``seconds`` from ``now_s``; None: one that never passes."""
        return cls(None if seconds is None else now_s + seconds)

    def left_s(self, now_s: float) -> float | None:
        """Seconds left, never negative; None when there is no deadline."""
        return None if self.at_s is None else max(0.0, self.at_s - now_s)

    def passed(self, now_s: float) -> bool:
        """Whether the deadline has passed at ``now_s``."""
        return self.at_s is not None and now_s >= self.at_s

    def sooner(self, now_s: float, seconds: float | None) -> float | None:
        """The smaller of ``seconds`` and what is left: the timeout for one step inside this deadline."""
        left = self.left_s(now_s)
        if left is None:
            return seconds
        return left if seconds is None else min(left, seconds)
