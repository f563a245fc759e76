"""The way to the jobs that costs nothing before there is one: the engine and its file are opened by
the first job, or at start where there may be some: of an earlier worker, of another host, by schedule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.jobs.engine import Jobs


@dataclass(frozen=True, slots=True)
class JobLimits:
    """How many at once, and how often."""

    concurrency: int = 4
    per_tenant: int = 4
    max_attempts: int = 3
    backoff_s: float = 1.0
    keep_days: float = 30.0


@dataclass(slots=True)
class JobsDoor:
    """``await jobs()`` gives the engine."""

    make: Callable[[], Jobs]
    """Makes the engine, not yet started."""
    early: bool
    """Whether there may be work before the first job comes in here."""
    webhooks: Mapping[str, str | None] = field(default_factory=dict)
    """The receivers that a request may name, each with the tenant that alone may; None: any."""
    _jobs: Jobs | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def start(self) -> None:
        """Take up what is there."""
        if self.early:
            await self.jobs()

    async def jobs(self) -> Jobs:
        """The engine, opened where it is not."""
        async with self._opening:
            if self._jobs is None:
                found = self.make()
                await found.start()
                self._jobs = found
            return self._jobs

    async def aclose(self) -> None:
        """Stop the runs; another worker, or the next start, takes them up again."""
        if (jobs := self._jobs) is not None:
            self._jobs = None
            await jobs.aclose()
