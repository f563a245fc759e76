"""The pool keeps its promises on both loops, and its tests share one way to make one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from app.upstream import Origin, Pool, PoolLimits, Timeouts
from tests.support.raw_server import PATIENCE_S, RawServer

LONG = Timeouts(connect_s=5, tls_s=5, first_byte_s=5, between_bytes_s=5, total_s=10)


@pytest.fixture(
    scope="session",
    params=[("asyncio", {"use_uvloop": True}), ("asyncio", {"use_uvloop": False})],
    ids=["uvloop", "asyncio"],
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return request.param


async def settle(pool: Pool, **expected: int) -> None:
    """Give the loop turns until the pool's stats are as expected."""
    async with asyncio.timeout(PATIENCE_S):
        # A pool owes a test no event for each of its states.
        while any(getattr(pool.stats, name) != value for name, value in expected.items()):  # noqa: ASYNC110
            await asyncio.sleep(0)


MakePool = Callable[..., contextlib.AbstractAsyncContextManager[Pool]]


@pytest.fixture
def pool_to() -> MakePool:
    """Make a pool to a raw server, closed at the end; keywords go to PoolLimits."""

    @contextlib.asynccontextmanager
    async def make(
        server: RawServer, *, timeouts: Timeouts = LONG, **limits: float
    ) -> AsyncIterator[Pool]:
        pool = Pool(Origin("http", "127.0.0.1", server.port), PoolLimits(**limits), timeouts)
        try:
            yield pool
        finally:
            await pool.aclose()
            assert pool.stats.open == 0

    return make
