"""A connection to Redis that is reset between two commands costs no request anything."""

from __future__ import annotations

import pytest

from app.errors import StoreError
from app.stores.redis import Redis
from tests.support.redis import redis_server

pytestmark = pytest.mark.anyio


async def test_a_reset_connection_is_a_store_error() -> None:
    """The event loop says RuntimeError, which was a 500 to the client."""
    with redis_server() as server:
        store = Redis(server.url, budget_s=2.0, on_state=lambda _: None)
        await store.start()

        async def gone(*_: object) -> object:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

        store._say = gone
        with pytest.raises(StoreError):
            await store.ask("PING")
        await store.aclose()
