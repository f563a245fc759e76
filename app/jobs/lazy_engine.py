"""The engine of jobs, opened lazily: by the first job, or at start where there may be work already (from an
earlier worker, another host or a schedule). Without jobs it costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.jobs.engine import JobEngine


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Limits of concurrency, retries and retention."""

    concurrency: int = 4
    per_tenant: int = 4
    max_attempts: int = 3
    backoff_s: float = 1.0
    keep_days: float = 30.0


@dataclass(slots=True)
class LazyJobEngine:
    """Opens the engine on first use."""

    factory: Callable[[], JobEngine]
    """Creates the engine, not yet started."""
    start_eagerly: bool
    """Whether there may be work before the first job is submitted here."""
    webhooks: Mapping[str, str | None] = field(default_factory=dict)
    """The webhooks that a request may name, each with the only tenant that may; None: any tenant."""
    _engine: JobEngine | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def start(self) -> None:
        """Open the engine where there may be work."""
        if self.start_eagerly:
            await self.engine()

    async def engine(self) -> JobEngine:
        """Return the engine, opening it first if need be."""
        async with self._opening:
            if self._engine is None:
                engine = self.factory()
                await engine.start()
                self._engine = engine
            return self._engine

    async def aclose(self) -> None:
        """Stop the engine; another worker, or the next start, continues its jobs."""
        if (engine := self._engine) is not None:
            self._engine = None
            await engine.aclose()
