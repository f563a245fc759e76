"""An eager task is a task to whatever runs in it, and begins before ``start`` returns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import anyio
import pytest

from app.api.eager_task import EagerTask

pytestmark = pytest.mark.anyio
spoken: ContextVar[str] = ContextVar("spoken", default="nothing")


async def run(coroutine, *, meanwhile: Callable[[EagerTask], None] | None = None) -> object:
    """Start it from a callback, as a server does, and wait for its end: what it raised, or None."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[object] = loop.create_future()
    task = EagerTask(loop, coroutine, lambda _, raised: over.set_result(raised))
    loop.call_soon(task.start)
    if meanwhile is not None:
        await asyncio.sleep(0)
        loop.call_soon(meanwhile, task)
    raised = await asyncio.wait_for(over, 10)
    assert task.done()
    assert not task.cancel()
    return raised


async def test_the_first_piece_runs_within_start_and_the_rest_when_its_time_has_come() -> None:
    loop, order, over = asyncio.get_running_loop(), [], asyncio.Event()
    later = loop.create_future()

    async def work() -> None:
        order.append("first")
        order.append(await later)

    def begin() -> None:
        EagerTask(loop, work(), lambda *_: over.set()).start()
        order.append("started")
        later.set_result("rest")

    loop.call_soon(begin)
    await over.wait()
    assert order == ["first", "started", "rest"]


async def test_started_within_another_task_it_begins_in_the_next_turn() -> None:
    over = asyncio.Event()
    seen: list[object] = []

    async def work() -> None:
        seen.append(asyncio.current_task())

    task = EagerTask(asyncio.get_running_loop(), work(), lambda *_: over.set())
    task.start()
    assert not seen
    await over.wait()
    assert seen == [task]


async def test_its_end_is_told_once_with_what_it_raised() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    async def passes() -> None:
        await asyncio.sleep(0.001)

    assert isinstance(await run(fails()), KeyError)
    assert await run(passes()) is None


async def test_what_is_not_to_be_awaited_is_an_error_at_the_place() -> None:
    class Odd:
        def __await__(self):
            yield 7

    async def work() -> None:
        with pytest.raises(RuntimeError, match="cannot wait for 7"):
            await Odd()

    assert await run(work()) is None


@pytest.mark.parametrize(
    "wait",
    [
        lambda: asyncio.Event().wait(),
        lambda: asyncio.sleep(1000),
        lambda: asyncio.shield(asyncio.sleep(1000)),
        lambda: anyio.sleep(1000),
        lambda: asyncio.wait_for(asyncio.sleep(1000), 999),
    ],
)
async def test_cancelled_where_it_waits_it_may_clean_up(
    wait: Callable[[], Awaitable[object]],
) -> None:
    cleaned = []

    async def work() -> None:
        try:
            await wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    raised = await run(work(), meanwhile=EagerTask.cancel)
    assert isinstance(raised, asyncio.CancelledError)
    assert cleaned


async def test_cancelled_by_itself_it_stops_at_its_next_wait() -> None:
    passed = []

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        passed.append("before")
        await asyncio.Event().wait()
        passed.append("after")

    assert isinstance(await run(work()), asyncio.CancelledError)
    assert passed == ["before"]


async def test_cancelled_after_what_it_waits_for_has_come_it_is_cancelled_all_the_same() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def both(task: EagerTask) -> None:
        future.set_result(None)
        task.cancel()

    async def work() -> None:
        await future

    assert isinstance(await run(work(), meanwhile=both), asyncio.CancelledError)


async def test_timeouts_groups_and_scopes_take_it_for_their_task() -> None:
    done = []

    async def child() -> None:
        await asyncio.sleep(0)
        done.append("child")

    async def broken() -> None:
        raise ValueError("child")

    async def with_a_broken_child() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(broken())
            await asyncio.sleep(1000)

    async def work() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(1000)
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
        with pytest.raises(ExceptionGroup):
            await with_a_broken_child()
        with anyio.move_on_after(0.001) as scope:
            await anyio.sleep(1000)
        assert scope.cancelled_caught
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
        assert await anyio.to_thread.run_sync(lambda: 5) == 5
        await asyncio.sleep(0)
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0

    assert await run(work()) is None
    assert done == ["child", "child"]


async def test_a_cancellation_that_is_taken_back_leaves_it_running() -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 1
            assert task.uncancel() == 0
        await asyncio.sleep(0)

    assert await run(work(), meanwhile=EagerTask.cancel) is None


async def test_what_it_says_in_its_context_nobody_else_hears() -> None:
    async def work() -> None:
        spoken.set("mine")
        await asyncio.sleep(0)
        assert spoken.get() == "mine"
        await asyncio.sleep(0.001)
        assert spoken.get() == "mine"

    assert await run(work()) is None
    assert spoken.get() == "nothing"


async def test_callbacks_hear_of_the_end() -> None:
    heard = []

    async def work() -> None:
        task = asyncio.current_task()
        assert isinstance(task, EagerTask)
        task.add_done_callback(heard.append)
        task.add_done_callback(print)
        assert task.remove_done_callback(print) == 1
        await asyncio.sleep(0)

    assert await run(work()) is None
    await asyncio.sleep(0)
    assert len(heard) == 1
