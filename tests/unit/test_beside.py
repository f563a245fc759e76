"""What runs beside the requests: that it ended early is said at once, not when the gateway ends."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from app.api.context import Readiness
from app.bootstrap import run_in_background

pytestmark = pytest.mark.anyio


async def test_what_failed_beside_the_requests_is_named_on_readyz():
    readiness = Readiness(simulated=False)

    async def fails() -> None:
        raise KeyError("a secret's name")

    async with AsyncExitStack() as stack:
        await run_in_background(stack, readiness, fails(), "meaning")
        await asyncio.sleep(0)
        assert readiness.degraded == {
            "meaning": "what runs beside the requests ended: KeyError; its log line says where, and a"
            " restart brings it back"
        }


async def test_what_still_runs_is_cancelled_and_gone_when_the_gateway_ends():
    readiness, ended = Readiness(simulated=False), asyncio.Event()

    async def runs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with AsyncExitStack() as stack:
        await run_in_background(stack, readiness, runs(), "pulse")
    assert ended.is_set()
    assert readiness.degraded == {}
