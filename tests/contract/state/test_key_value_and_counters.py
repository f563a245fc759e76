"""What every store of keys and of counters promises: in this process, and in Redis."""

from __future__ import annotations

import asyncio
import math

import pytest

from app.domain.limits import Charge, Rate
from app.errors import StoreError
from app.stores.memory import MemoryCounters, MemoryKeyValue
from app.stores.redis import Redis, RedisKeyValue
from app.stores.redis_counters import CountersWithFallback, RedisCounters, SumsWithLocalCopy

pytestmark = pytest.mark.anyio
SLOW = Rate(amount=1, period_s=3600, burst=3)


@pytest.fixture(params=["memory", "redis"])
def values(request):
    if request.param == "memory":
        return MemoryKeyValue()
    return RedisKeyValue(request.getfixturevalue("redis"), b"test")


@pytest.fixture(params=["memory", "redis"])
def counters(request):
    if request.param == "memory":
        return MemoryCounters()
    return RedisCounters(request.getfixturevalue("redis"))


class TestKeyValue:
    async def test_what_was_set_is_there_byte_for_byte(self, values):
        value = bytes(range(256)) * 5
        await values.set(b"\x00\xff key", value, 60)
        assert await values.get(b"\x00\xff key") == value
        assert await values.get(b"another") is None

    async def test_the_last_value_counts(self, values):
        await values.set(b"k", b"1", 60)
        await values.set(b"k", b"2", 60)
        assert await values.get(b"k") == b"2"

    async def test_delete_says_whether_it_was_there(self, values):
        await values.set(b"k", b"1", 60)
        assert await values.delete(b"k")
        assert not await values.delete(b"k")
        assert await values.get(b"k") is None

    async def test_a_value_lives_only_as_long_as_it_may(self, values):
        await values.set(b"k", b"1", 0.001)
        while await values.get(b"k") is not None:  # noqa: ASYNC110 - the store's own clock
            await asyncio.sleep(0.001)


class TestCounters:
    async def test_a_bucket_gives_its_burst_and_then_says_when(self, counters):
        charge = Charge(b"tenant", SLOW)
        grants = [await counters.take([charge]) for _ in range(4)]
        assert [grant.allowed for grant in grants] == [True, True, True, False]
        assert [round(grant.remaining) for grant in grants] == [2, 1, 0, 0]
        assert 3590 < grants[3].retry_after_s <= 3600
        assert grants[3].refused_index == 0

    async def test_charges_are_taken_together_or_not_at_all(self, counters):
        one, other = Charge(b"t:requests", SLOW), Charge(b"t:tokens", SLOW, 2)
        assert (await counters.take([one, other])).allowed
        refused = await counters.take([one, other])
        assert (refused.allowed, refused.refused_index) == (False, 1)
        assert round((await counters.take([one])).remaining) == 1

    async def test_a_charge_larger_than_its_bucket_never_fits(self, counters):
        grant = await counters.take([Charge(b"k", SLOW, 4)])
        assert (grant.allowed, grant.retry_after_s) == (False, math.inf)

    async def test_what_was_not_needed_is_given_back_and_debts_are_kept(self, counters):
        await counters.take([Charge(b"k", SLOW, 3)])
        await counters.settle(Charge(b"k", SLOW, -2))
        assert (await counters.take([Charge(b"k", SLOW, 2)])).allowed
        await counters.settle(Charge(b"k", SLOW, 2))
        grant = await counters.take([Charge(b"k", SLOW)])
        assert not grant.allowed
        assert 3 * 3600 - 60 < grant.retry_after_s <= 3 * 3600

    async def test_giving_back_never_makes_more_than_a_full_bucket(self, counters):
        await counters.settle(Charge(b"k", SLOW, -50))
        assert round((await counters.take([Charge(b"k", SLOW)])).remaining) == 2

    async def test_a_bucket_fills_again(self, counters):
        fast = Charge(b"k", Rate(amount=1000, period_s=1, burst=1))
        assert (await counters.take([fast])).allowed
        while not (await counters.take([fast])).allowed:  # noqa: ASYNC110 - the store's own clock
            await asyncio.sleep(0.001)

    async def test_many_at_once_get_exactly_the_burst(self, counters):
        charge = Charge(b"k", Rate(amount=1, period_s=3600, burst=25))
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(counters.take([charge])) for _ in range(60)]
        assert sum(task.result().allowed for task in asked) == 25

    async def test_sums_add_up_and_end(self, counters):
        assert await counters.add(b"cost", 0.25, 60) == 0.25
        assert await counters.add(b"cost", 0.5, 60) == 0.75
        assert await counters.add(b"cost", 0, 60) == 0.75
        assert await counters.add(b"unknown", 0, 60) == 0
        await counters.add(b"short", 1, 0.001)
        while await counters.add(b"short", 0, 1) != 0:  # noqa: ASYNC110 - the store's own clock
            await asyncio.sleep(0.001)


class TestFallback:
    async def test_money_spent_is_not_forgotten_with_an_empty_redis(self, redis):
        sums = SumsWithLocalCopy(RedisCounters(redis), MemoryCounters())
        another = SumsWithLocalCopy(RedisCounters(redis), MemoryCounters())
        assert await sums.add(b"usd", 2, 60) == 2
        assert await another.add(b"usd", 1, 60) == 3
        await redis.command("FLUSHALL")
        assert await sums.add(b"usd", 0, 60) == 2

    async def test_limits_go_on_in_this_worker_while_redis_is_away(self):
        redis = Redis("redis://127.0.0.1:1/0", budget_s=0.05, on_state=lambda _: None)
        shared = RedisCounters(redis)
        with pytest.raises(StoreError):
            await shared.take([Charge(b"k", SLOW)])
        counters = CountersWithFallback(shared, MemoryCounters())
        allowed = [(await counters.take([Charge(b"k", SLOW)])).allowed for _ in range(4)]
        assert allowed == [True, True, True, False]
        await counters.settle(Charge(b"k", SLOW, -1))
        assert await counters.add(b"s", 2, 60) == 2
        assert await SumsWithLocalCopy(shared, MemoryCounters()).add(b"s", 3, 60) == 3
        await redis.aclose()
