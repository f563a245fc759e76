"""What waits for a lull: done in its order, bounded in number and time, never lost, and in small pieces."""

from __future__ import annotations

import asyncio
import functools

import pytest

from app.api.deferred_work import LULL_NS, MAX_DELAY_NS, MAX_PENDING, SLICE_NS, DeferredWork

pytestmark = pytest.mark.anyio


class Clock:
    """Stands still, but for what a test lets pass."""

    def __init__(self) -> None:
        self.now_ns = MAX_DELAY_NS

    def __call__(self) -> int:
        return self.now_ns


async def test_what_is_added_is_done_in_its_order_without_being_asked_for() -> None:
    after, done = DeferredWork(), list[int]()
    everything = asyncio.Event()
    for number in range(20):
        after.add(functools.partial(done.append, number))
    assert done == []
    after.add(everything.set)
    await asyncio.wait_for(everything.wait(), 30)
    assert done == list(range(20))


async def test_draining_does_all_at_once_and_a_piece_that_fails_stops_none() -> None:
    after, done = DeferredWork(), list[int]()
    after.add(functools.partial(done.append, 1))
    after.add(functools.partial(int, "no number"))
    after.add(functools.partial(done.append, 2))
    after.drain()
    assert (done, len(after.pending)) == ([1, 2], 0)


async def test_who_waits_for_all_of_it_leaves_the_loop_to_others_meanwhile() -> None:
    clock, done = Clock(), list[int]()
    after = DeferredWork(clock)

    def work(number: int) -> None:
        clock.now_ns += SLICE_NS
        done.append(number)

    for number in range(20):
        after.add(functools.partial(work, number))
    turns = 0
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(after.drained())
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0)
    assert done == list(range(20))
    assert turns >= 20


async def test_no_more_than_so_many_wait() -> None:
    after, done = DeferredWork(), list[int]()
    for number in range(MAX_PENDING + 10):
        after.add(functools.partial(done.append, number))
    assert done == list(range(10))
    after.drain()
    assert done == list(range(MAX_PENDING + 10))


async def test_it_waits_while_requests_come_but_not_for_ever() -> None:
    clock, done = Clock(), list[int]()
    after = DeferredWork(clock)
    after.add(functools.partial(done.append, 1))
    after.last_request_ns = clock.now_ns
    clock.now_ns += LULL_NS - 1
    after._run_if_quiet()
    assert done == []
    clock.now_ns += 1
    after._run_if_quiet()
    assert done == [1]
    after.add(functools.partial(done.append, 2))
    clock.now_ns += MAX_DELAY_NS
    after.last_request_ns = clock.now_ns
    after._run_if_quiet()
    assert done == [1, 2]


async def test_a_look_takes_no_longer_than_its_slice() -> None:
    clock, done = Clock(), list[int]()
    after = DeferredWork(clock)

    def work(number: int) -> None:
        done.append(number)
        clock.now_ns += SLICE_NS // 3

    for number in range(7):
        after.add(functools.partial(work, number))
    clock.now_ns += LULL_NS
    after._run_if_quiet()
    assert done == [0, 1, 2]
    after.drain()
    assert done == list(range(7))
