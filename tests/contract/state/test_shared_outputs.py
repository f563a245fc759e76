"""Tool results that workers share: over any store of keys."""

from __future__ import annotations

import pytest

from app.domain.tools import ToolResult
from app.errors import StoreError
from app.stores.memory import MemoryKeyValue
from app.stores.redis import RedisKeyValue
from app.tools.shared_outputs import SharedOutputs

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "redis"])
def store(request, redis):
    return MemoryKeyValue() if request.param == "memory" else RedisKeyValue(redis, b"tool")


async def test_what_one_worker_kept_another_is_given_and_told_so(store):
    one, other = SharedOutputs(store), SharedOutputs(store)
    result = ToolResult('{"a":[1,2.5,null]}', {"a": [1, 2.5, None]}, cut=True)
    one.put(b"k", result, 60)
    await one.settled()
    found, left_s = await other.get(b"k")
    assert (found.text, found.value, found.cut, found.cached) == (
        result.text,
        result.value,
        True,
        True,
    )
    assert 50 < left_s <= 60


async def test_nobody_uses_a_result_for_longer_than_its_time(store):
    now = [1000.0]
    outputs = SharedOutputs(store, clock=lambda: now[0])
    outputs.put(b"k", ToolResult("x"), 60)
    await outputs.settled()
    now[0] += 61
    assert await outputs.get(b"k") is None


@pytest.mark.parametrize("foreign", [b"", b"\xff\xff", b"\x95\x02\xcb" + b"0" * 12, b"hello"])
async def test_what_cannot_be_read_is_none(store, foreign):
    await store.set(b"k", foreign, 60)
    assert await SharedOutputs(store).get(b"k") is None


async def test_a_store_that_is_away_is_as_none():
    class Away(MemoryKeyValue):
        async def get(self, key: bytes) -> bytes | None:
            raise StoreError(f"away: {key!r}")

        async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
            raise StoreError(f"away: {key!r} {len(value)} {ttl_s}")

    outputs = SharedOutputs(Away())
    outputs.put(b"k", ToolResult("x"), 60)
    await outputs.settled()
    assert await outputs.get(b"k") is None
    outputs.put(b"k", ToolResult("x", value=object()), 60)
    await outputs.settled()
