"""Invalidate stored answers everywhere: in this worker, the others, Redis and the semantic cache.

When ``invalidate`` returns, no worker serves them. Where Redis is down they are removed here, the others are
told when it is back, and the caller gets an error that says so.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from app.domain.invalidation import InvalidationFilter
from app.domain.vectors import QuestionFilter
from app.errors import Overloaded, StoreError
from app.pipeline.gateway import Gateway

if TYPE_CHECKING:
    from app.cache.semantic import SemanticCache  # loads learners


async def invalidate(gateway: Gateway, what: InvalidationFilter) -> int:
    """Invalidate, in force for the very next request on every worker; returns how many entries were removed.

    Most answers are stored in several places: the largest count is returned. Raises ``Overloaded`` where the
    other workers could not be told.
    """
    removed = 0
    if gateway.semantic is not None:
        removed = await _remove_semantic(gateway.semantic.cache, what)
    if gateway.shared is not None:
        try:
            return max(removed, await gateway.shared.forget(what))
        except StoreError as error:
            raise Overloaded(error.message, code="store_away", retry_after_s=1) from error
    exact = gateway.exact
    if exact is None:
        return removed
    exact.block(what)  # answers in flight, too, and nobody joins them
    gateway.flights.forget(what.entry_id)
    if what.entry_id:
        return max(removed, int(exact.remove(what.entry_id)))
    local = exact.invalidate(tenant=what.tenant, model=what.model or None, tags=what.tags)
    return max(removed, local)


def bar_in_progress(gateway: Gateway, what: InvalidationFilter) -> None:
    """Store nothing of ``what`` that is in flight in this worker, and let nobody join it."""
    if gateway.exact is not None:
        gateway.exact.block(what)
    gateway.flights.forget(what.entry_id)
    if gateway.semantic is not None:
        gateway.semantic.cache.block(what)


async def _remove_semantic(cache: SemanticCache, what: InvalidationFilter) -> int:
    if what.entry_id:
        return int(await cache.remove(what.entry_id))
    return await cache.invalidate(QuestionFilter(what.tenant, what.model, what.tags))


class SemanticInvalidation:
    """Applies another worker's invalidation: barred at once, and removed in the background."""

    def __init__(self, cache: SemanticCache) -> None:
        """Remove from ``cache``."""
        self._cache = cache
        self._tasks: set[asyncio.Task[int]] = set()

    def __call__(self, what: InvalidationFilter) -> None:
        """Invalidate ``what``."""
        self._cache.block(what)
        task = asyncio.get_running_loop().create_task(_remove_semantic(self._cache, what))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Wait for the removals under way."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))
