"""Forgetting what was answered, wherever it is kept: in this worker, in the others, in Redis and by
meaning.

When ``forget`` returns, no worker serves it any more. Where that cannot be said, because Redis is
away, it is forgotten here, the others are told when Redis is back, and the caller is told just that.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from app.domain.invalidation import Forget
from app.domain.vectors import Which
from app.errors import Overloaded, StoreError
from app.pipeline.gateway import Gateway

if TYPE_CHECKING:
    from app.cache.semantic import SemanticCache  # loads learners


async def forget(gateway: Gateway, what: Forget) -> int:
    """Forget, in force for the very next request on every worker; says how many entries went.

    Most answers are kept in several places: the largest number counts them once. Raises ``Overloaded``
    where the other workers could not be told.
    """
    gone = 0
    if gateway.meaning is not None:
        gone = await _by_meaning(gateway.meaning.cache, what)
    if gateway.shared is not None:
        try:
            return max(gone, await gateway.shared.forget(what))
        except StoreError as error:
            raise Overloaded(error.message, code="store_away", retry_after_s=1) from error
    exact = gateway.exact
    if exact is None:
        return gone
    exact.bar(what)  # what is still being made, too, and nobody joins it
    gateway.flights.forget(what.entry_id)
    if what.entry_id:
        return max(gone, int(exact.remove(what.entry_id)))
    here = exact.invalidate(tenant=what.tenant, model=what.model or None, tags=what.tags)
    return max(gone, here)


def withhold(gateway: Gateway, what: Forget) -> None:
    """Keep nothing of ``what`` that is still being made in this worker, and let nobody join it."""
    if gateway.exact is not None:
        gateway.exact.bar(what)
    gateway.flights.forget(what.entry_id)
    if gateway.meaning is not None:
        gateway.meaning.cache.block(what)


async def _by_meaning(cache: SemanticCache, what: Forget) -> int:
    if what.entry_id:
        return int(await cache.remove(what.entry_id))
    return await cache.invalidate(Which(what.tenant, what.model, what.tags))


class ForgettingByMeaning:
    """What another worker was asked to forget: shown no more at once, and removed beside the requests."""

    def __init__(self, cache: SemanticCache) -> None:
        """Forget in ``cache``."""
        self._cache = cache
        self._tasks: set[asyncio.Task[int]] = set()

    def __call__(self, what: Forget) -> None:
        """Forget ``what``."""
        self._cache.block(what)
        task = asyncio.get_running_loop().create_task(_by_meaning(self._cache, what))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Wait until it is done."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))
