"""A connection to Redis that is reset between two commands costs no request anything."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import StoreError
from app.stores.redis import Redis
from app.stores.worker_group import WorkerGroup
from tests.support.redis import redis_server

pytestmark = pytest.mark.anyio


async def test_a_reset_connection_is_a_store_error() -> None:
    """The event loop says RuntimeError, which was a 500 to the client."""
    with redis_server() as server:
        store = Redis(server.url, budget_s=2.0, on_state=lambda _: None)
        await store.start()

        async def gone(*_: object) -> object:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

        store._execute = gone
        with pytest.raises(StoreError):
            await store.command("PING")
        await store.aclose()


class ResetOnce(Redis):
    """The first subscription finds its connection reset, in the event loop's words."""

    was_reset = False

    def subscriber(self):
        subscriber = super().subscriber()
        if not self.was_reset:
            self.was_reset = True

            async def gone(*_: object) -> None:
                raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

            subscriber.subscribe = gone
        return subscriber


async def test_a_worker_whose_subscription_was_reset_subscribes_again() -> None:
    """Else it would hear of no invalidation before its next lease, and of no follower at all."""
    with redis_server() as server:
        redis = ResetOnce(server.url, budget_s=2.0, on_state=lambda _: None)
        await redis.start()
        deaf = {
            "on_invalidate": lambda *_: 0,
            "drop_before": lambda _: None,
            "on_message": lambda *_: None,
        }
        workers = WorkerGroup(redis, **deaf)
        await workers.start()
        async with asyncio.timeout(20):
            await workers.subscribed.wait()
        assert redis.was_reset
        await workers.aclose()
        await redis.aclose()
