"""An event loop whose time jumps: when nothing is ready, the clock moves to the next timer at once.

With it a test of deadlines and latencies is exact and takes no time. It has no sockets to wait for.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import TypeVar

_T = TypeVar("_T")


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting it moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Advance by ``timeout``; poll the loop's own wake-up socket only."""
        if timeout is None:
            raise AssertionError("every task waits for something that never comes")
        self.now_s += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on virtual time, from second 1000 on."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """The virtual now, in seconds."""
        return self._jumping.now_s


def run_virtually(coroutine: Coroutine[object, object, _T]) -> _T:
    """Run to the end on a virtual clock; fails when tasks are left behind."""
    loop = VirtualLoop()
    try:
        result = loop.run_until_complete(coroutine)
        assert not asyncio.all_tasks(loop), "tasks outlived their owner"
        return result
    finally:
        loop.close()
