"""The concurrency limiter finds what its upstream can serve, and queues callers fairly.

All in virtual time: the upstream is a simulated one whose answers slow down when it has too much.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.deadline import Deadline
from app.errors import DeadlineExceeded, Overloaded
from app.routing.concurrency_limiter import ConcurrencyBounds, ConcurrencyLimiter
from tests.support.virtual_time import run_virtually

FOREVER = Deadline(None)


def now() -> float:
    return asyncio.get_running_loop().time()


def limiter_of(**limits: object) -> tuple[ConcurrencyLimiter, list[str]]:
    shed: list[str] = []
    return ConcurrencyLimiter(
        "up", ConcurrencyBounds(**limits), clock=now, on_shed=shed.append
    ), shed


@dataclass
class Upstream:
    """Bears ``capacity`` answers at once; more share its pace. Refuses beyond ``refuses_at``."""

    limiter: ConcurrencyLimiter
    capacity: int
    refuses_at: int = 10**9
    first_s: float = 0.2
    rest_s: float = 0.3
    now: int = 0
    most: int = 0
    firsts: list[float] = field(default_factory=list)
    refused: int = 0
    shed: int = 0

    async def call(self, tenant: str = "t", deadline: Deadline = FOREVER) -> bool:
        try:
            await self.limiter.acquire(tenant, deadline)
        except (Overloaded, DeadlineExceeded):
            self.shed += 1
            return False
        began_s = now()
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now > self.refuses_at:
            self.now -= 1
            self.refused += 1
            self.limiter.release(first_s=None, took_s=0.0, overloaded=True, ok=False)
            return False
        slower = max(1.0, self.now / self.capacity)
        await asyncio.sleep(self.first_s * slower)
        self.firsts.append(now() - began_s)
        await asyncio.sleep(self.rest_s * slower)
        self.now -= 1
        self.limiter.release(
            first_s=self.firsts[-1], took_s=now() - began_s, overloaded=False, ok=True
        )
        return True


async def load(upstream: Upstream, per_s: float, seconds: float) -> None:
    """Open arrivals: clients do not wait for each other."""
    async with asyncio.TaskGroup() as group:
        for _ in range(int(per_s * seconds)):
            group.create_task(upstream.call())
            await asyncio.sleep(1 / per_s)


def virtually(test: Callable[[], Coroutine[object, object, None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtually(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@virtually
async def test_an_upstream_that_slows_down_gets_what_it_bears_and_stays_quick():
    limiter, _ = limiter_of(max_concurrent=400, max_waiting=50, max_wait_s=1.0)
    upstream = Upstream(limiter, capacity=20)
    await load(upstream, 10, 20)  # calm: a quarter of what it bears
    assert statistics.median(upstream.firsts) == pytest.approx(0.2)
    upstream.firsts.clear()
    await load(upstream, 120, 60)  # three times what it bears
    late = upstream.firsts[len(upstream.firsts) // 2 :]
    assert statistics.quantiles(late, n=20)[-1] < 0.2 * 3.5
    assert limiter.limit < 80
    done = len(upstream.firsts)
    assert done > 0.8 * 40 * 60  # and it is kept busy
    assert upstream.shed > 0
    assert limiter.in_use == limiter.waiting == 0


@virtually
async def test_without_the_gate_the_same_load_makes_everybody_wait():
    limiter, _ = limiter_of(max_concurrent=400, adaptive=False, max_waiting=50, max_wait_s=1.0)
    upstream = Upstream(limiter, capacity=20)
    await load(upstream, 10, 20)
    upstream.firsts.clear()
    await load(upstream, 120, 60)
    late = upstream.firsts[len(upstream.firsts) // 2 :]
    assert statistics.median(late) > 0.2 * 5


@virtually
async def test_an_upstream_that_refuses_is_asked_as_much_as_it_takes():
    limiter, _ = limiter_of(max_concurrent=200, max_waiting=100, max_wait_s=5.0)
    upstream = Upstream(limiter, capacity=1000, refuses_at=10)
    await load(upstream, 40, 60)
    asked = len(upstream.firsts) + upstream.refused
    assert upstream.refused < 0.2 * asked
    assert len(upstream.firsts) > 0.6 * 20 * 60


@virtually
async def test_the_limit_comes_back_when_the_upstream_recovers():
    limiter, _ = limiter_of(max_concurrent=64, max_waiting=100, max_wait_s=2.0)
    upstream = Upstream(limiter, capacity=8)
    await load(upstream, 4, 10)
    await load(upstream, 60, 40)
    low = limiter.limit
    assert low < 40
    upstream.capacity = 1000
    await load(upstream, 100, 40)
    assert limiter.limit > 1.3 * low
    assert limiter.limit >= 48


@virtually
async def test_an_upstream_that_is_slow_on_its_own_is_not_throttled():
    """Twice as slow, and slower still for some prompts, but not because of the load."""
    limiter, _ = limiter_of(max_concurrent=50)
    upstream = Upstream(limiter, capacity=10_000)
    for first_s in [0.1, 0.2, 0.3, 0.15] * 40:
        upstream.first_s = first_s
        await load(upstream, 20, 1)
    assert limiter.limit == 50


@virtually
async def test_tenants_get_places_in_turn_whatever_each_has_waiting():
    limiter, _ = limiter_of(max_concurrent=1, adaptive=False)
    order: list[str] = []

    async def call(tenant: str) -> None:
        await limiter.acquire(tenant, FOREVER)
        order.append(tenant)
        await asyncio.sleep(0.01)
        limiter.release(first_s=None, took_s=0.01, overloaded=False, ok=True)

    async with asyncio.TaskGroup() as group:
        for tenant in ["a"] * 6 + ["b"] * 3 + ["c"]:
            group.create_task(call(tenant))
            await asyncio.sleep(0)
    assert "".join(order) == "a" + "abc" + "ab" + "ab" + "aa"


@virtually
async def test_a_full_queue_takes_from_who_waits_with_most():
    limiter, shed = limiter_of(max_concurrent=1, max_waiting=4, adaptive=False)
    assert limiter.try_acquire()
    outcomes: dict[str, list[str]] = {"a": [], "b": []}

    async def call(tenant: str) -> None:
        try:
            await limiter.acquire(tenant, FOREVER)
        except Overloaded:
            outcomes[tenant].append("shed")
            return
        outcomes[tenant].append("in")
        limiter.release(first_s=None, took_s=0.01, overloaded=False, ok=True)

    async with asyncio.TaskGroup() as group:
        for tenant in ["a"] * 4 + ["b"] * 2 + ["a"]:
            group.create_task(call(tenant))
            await asyncio.sleep(0)
        limiter.release(first_s=None, took_s=0.01, overloaded=False, ok=True)
    assert sorted(outcomes["b"]) == ["in", "in"]
    assert sorted(outcomes["a"]) == ["in", "in", "shed", "shed", "shed"]
    assert sorted(shed) == ["displaced", "displaced", "queue_full"]


@virtually
async def test_who_would_wait_too_long_is_told_at_once_and_when_to_come_back():
    limiter, shed = limiter_of(max_concurrent=2, adaptive=False, max_wait_s=3.0)
    for _ in range(2):
        assert limiter.try_acquire()
        limiter.release(first_s=None, took_s=4.0, overloaded=False, ok=True)
    assert limiter.try_acquire()
    assert limiter.try_acquire()
    began_s = now()
    async with asyncio.TaskGroup() as group:
        waits = group.create_task(limiter.acquire("a", FOREVER))  # 1 x 4 s / 2 = 2 s: may wait
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await limiter.acquire("a", FOREVER)  # 4 s: more than it may
        assert now() == began_s
        assert caught.value.retry_after_s == pytest.approx(4.0)
        with pytest.raises(Overloaded):
            await limiter.acquire("b", Deadline.after(now(), 1.0))
        limiter.release(first_s=None, took_s=4.0, overloaded=False, ok=True)
        await waits
    assert shed == ["too_late", "too_late"]


@virtually
async def test_a_place_that_does_not_come_in_time_is_given_up():
    limiter, shed = limiter_of(max_concurrent=1, adaptive=False, max_wait_s=3.0)
    assert limiter.try_acquire()
    began_s = now()
    with pytest.raises(Overloaded):
        await limiter.acquire("a", FOREVER)
    assert now() - began_s == pytest.approx(3.0)
    with pytest.raises(DeadlineExceeded):
        await limiter.acquire("a", Deadline.after(now(), 1.0))
    assert shed == ["waited"]
    assert limiter.waiting == 0


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.floats(0, 0.5),
            st.floats(0.01, 1),
            st.sampled_from(["whole", "cancelled", "refused"]),
        ),
        max_size=40,
    ),
    st.integers(1, 5),
    st.integers(0, 6),
)
def test_no_place_is_ever_lost_or_given_twice(calls, most, queue):
    """Whatever is cancelled, refused or shed, at any moment."""

    async def run() -> None:
        limiter, _ = limiter_of(
            max_concurrent=most, min_concurrent=1, max_waiting=queue, max_wait_s=0.7
        )
        inside = 0

        async def call(tenant: str, took_s: float, how: str) -> None:
            nonlocal inside
            try:
                await limiter.acquire(tenant, FOREVER)
            except Overloaded:
                return
            inside += 1
            assert inside <= most
            try:
                await asyncio.sleep(took_s)
            finally:
                inside -= 1
                limiter.release(
                    first_s=took_s / 2,
                    took_s=took_s,
                    overloaded=how == "refused",
                    ok=how == "whole",
                )

        async with asyncio.TaskGroup() as group:
            for tenant, pause_s, took_s, how in calls:
                task = group.create_task(call(tenant, took_s, how))
                if how == "cancelled":
                    asyncio.get_running_loop().call_later(took_s * 0.9, task.cancel)
                await asyncio.sleep(pause_s)
        assert inside == limiter.in_use == limiter.waiting == 0
        assert not limiter._queues
        assert limiter.try_acquire()

    run_virtually(run())
