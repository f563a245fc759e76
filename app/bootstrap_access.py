"""The part of the composition root that builds authentication and limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from app.api.admission import Admission
from app.api.auth import Authenticator
from app.bootstrap_redis import counters_of
from app.errors import StoreError
from app.operator_access import keys_of, limits_of
from app.settings import Settings
from app.stores.key_file import KeyFile
from app.stores.spent_file import SpentFile
from app.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from app.stores.redis import Redis

RunInBackground = Callable[[Coroutine[None, None, None], str], Awaitable[None]]
"""Runs a coroutine until shutdown, under a name."""


async def authenticator_of(
    settings: Settings,
    metrics: Metrics,
    redis: Redis | None,
    stack: AsyncExitStack,
    *,
    beside: RunInBackground,
    degrade: Callable[[str, str | None], None],
) -> Authenticator:
    """Build the authenticator with the configured and the stored keys, and the limits behind it."""
    data_dir = Path(settings.state.data_dir)
    spent = SpentFile(data_dir / "limits", on_fault=partial(degrade, "limits"))
    counters, sums = counters_of(redis, spent)
    admission = Admission(
        counters,
        sums,
        default=limits_of(settings.limits.default),
        tenants={name: limits_of(each) for name, each in settings.limits.tenants.items()},
        on_refused=lambda limit: metrics.guards.limited.child(limit).inc(),
    )

    source_is = partial(degrade, "key_store")
    source: KeyFile | None = None
    try:
        source = KeyFile(data_dir / "keys")
        stack.callback(source.close)
    except StoreError as error:
        source_is(error.message)
    await asyncio.to_thread(spent.load)
    stack.callback(spent.close)
    await beside(spent.run(), "spent")
    await beside(admission.run(), "limits")
    return Authenticator(
        keys_of(settings),
        required=settings.auth.required,
        source=source,
        guard=admission.guard,
        on_source=source_is,
    )
