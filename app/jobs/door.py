"""The way to the jobs that costs nothing before there is one: the engine and its file are opened by
the first job, or at start where an earlier worker left some.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from app.pipeline.agent_runs import LiveRun
from app.pipeline.gateway import Gateway

if TYPE_CHECKING:
    from app.jobs.engine import Jobs


@dataclass(frozen=True, slots=True)
class JobLimits:
    """How many at once, and how often."""

    concurrency: int = 4
    per_tenant: int = 4
    max_attempts: int = 3
    backoff_s: float = 1.0


@dataclass(slots=True)
class JobsDoor:
    """``await jobs()`` gives the engine."""

    folder: Path
    gateway: Gateway
    on_end: Callable[[LiveRun], None]
    limits: JobLimits
    _jobs: Jobs | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def start(self) -> None:
        """Take up what an earlier worker left."""
        if (self.folder / "jobs.sqlite").exists():
            await self.jobs()

    async def jobs(self) -> Jobs:
        """The engine, opened where it is not."""
        async with self._opening:
            if self._jobs is None:
                from app.jobs.engine import Jobs  # nothing of it before there is a job

                found = Jobs(self.folder, self.gateway, self.on_end, self.limits)
                await found.start()
                self._jobs = found
            return self._jobs

    async def aclose(self) -> None:
        """Stop the runs; another worker, or the next start, takes them up again."""
        if self._jobs is not None:
            await self._jobs.aclose()
