"""An eager task: it runs its first step at once, when a request's bytes arrive.

Theory of operation. ``asyncio.Task`` starts a coroutine in the loop's next turn, which for a request that
has arrived whole is a detour: scheduling it, registering it among all tasks and coming round again costs
8,500 instructions, a tenth of what the whole answer costs. This one runs the coroutine's first piece where
it is started, and after that like any other task: it waits for the future that the coroutine awaits.

To the coroutine it is the current task, by the functions that asyncio documents for third-party tasks
(``_enter_task``, ``_leave_task``), so that ``asyncio.timeout``, ``TaskGroup`` and anyio's scopes work: it
can be cancelled, uncancelled and asked. Its context is its own. It is not in ``asyncio.all_tasks()``:
whoever starts one ends it.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, CancelledError, Future
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine
from contextvars import copy_context

_Ended = Callable[["EagerTask", BaseException | None], None]


def _nobody(_task: EagerTask, _raised: BaseException | None) -> None:
    raise RuntimeError("a task ends once")


class _Occupied(Exception):
    """Another task is running where this one was to start."""


class EagerTask:
    """Runs one coroutine; calls ``ended`` with the outcome in place of holding a result."""

    # How every task begins stands here once: most never come to differ in these.
    _asked = 0
    _must_cancel = _over = False
    _callbacks: list[Callable[[EagerTask], object]] | None = None
    _fut_waiter: Future[object] | None = None

    def __init__(
        self, loop: AbstractEventLoop, coroutine: Coroutine[object, None, None], ended: _Ended
    ) -> None:
        """``ended`` gets the task and None, or what the coroutine raised; it must not raise."""
        self._loop, self._coroutine, self._ended = loop, coroutine, ended
        self._context = copy_context()

    def start(self) -> None:
        """Run the first step now, or soon if another task is running; call it once."""
        try:
            self._context.run(self._step)
        except _Occupied:  # a task is running here: a server in a test, say
            self.start_soon()

    def start_soon(self) -> None:
        """Run the first step in the loop's next turn; call it once, instead of ``start``."""
        self._loop.call_soon(self._step, context=self._context)

    def _step(self, _done: object = None, error: BaseException | None = None) -> None:
        """Run to the next await: what the coroutine awaited is done, or was cancelled."""
        loop = self._loop
        try:
            _enter_task(loop, self)  # type: ignore[arg-type]
        except RuntimeError as occupied:
            raise _Occupied from occupied
        self._fut_waiter = None
        if self._must_cancel:
            self._must_cancel = False
            error = CancelledError()
        try:
            awaited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration:
            self._finish(None)
        except (Exception, CancelledError) as raised:  # noqa: BLE001 - told to whoever started it
            self._finish(raised)
        except BaseException as raised:  # the process ends: as in asyncio, the loop hears it too
            self._finish(raised)
            raise
        else:
            if getattr(awaited, "_asyncio_future_blocking", False):
                waiter: Future[object] = awaited  # type: ignore[assignment]
                waiter._asyncio_future_blocking = False  # noqa: SLF001 - the protocol between futures and tasks
                waiter.add_done_callback(self._step, context=self._context)
                self._fut_waiter = waiter
                if self._must_cancel and waiter.cancel():
                    self._must_cancel = False
            elif awaited is None:  # a bare yield: ``asyncio.sleep(0)``
                loop.call_soon(self._step, context=self._context)
            else:
                message = f"a task cannot wait for {awaited!r}"
                loop.call_soon(self._step, None, RuntimeError(message), context=self._context)
        finally:
            _leave_task(loop, self)  # type: ignore[arg-type]

    def _finish(self, raised: BaseException | None) -> None:
        self._over = True
        ended, self._ended = self._ended, _nobody  # who is told mostly holds this: no cycle is left
        ended(self, raised)
        if self._callbacks:
            for callback in self._callbacks:
                self._loop.call_soon(callback, self, context=self._context)

    def cancel(self, msg: object = None) -> bool:
        """Raise ``CancelledError`` where the coroutine waits; returns False if it is done."""
        if self._over:
            return False
        self._asked += 1
        if self._fut_waiter is None or not self._fut_waiter.cancel(msg):
            self._must_cancel = True
        return True

    def cancelling(self) -> int:
        """How many cancellations were requested and not withdrawn."""
        return self._asked

    def uncancel(self) -> int:
        """Withdraw one cancellation; returns how many are left."""
        if self._asked > 0:
            self._asked -= 1
        return self._asked

    def done(self) -> bool:
        """Whether it is done."""
        return self._over

    def get_loop(self) -> AbstractEventLoop:
        """The loop that it runs on."""
        return self._loop

    def get_coro(self) -> Coroutine[object, None, None]:
        """The coroutine that it runs."""
        return self._coroutine

    def get_name(self) -> str:
        """A name for logs."""
        return f"request-{id(self):x}"

    def add_done_callback(
        self, callback: Callable[[EagerTask], object], *, context: object = None
    ) -> None:
        """Call ``callback`` soon after the end."""
        _ = context
        self._callbacks = [*(self._callbacks or ()), callback]

    def remove_done_callback(self, callback: Callable[[EagerTask], object]) -> int:
        """Remove ``callback``; returns how often it was registered."""
        kept = [each for each in self._callbacks or () if each != callback]
        removed = len(self._callbacks or ()) - len(kept)
        self._callbacks = kept
        return removed


CurrentTask = asyncio.Task[object] | EagerTask
"""What ``asyncio.current_task`` may give within a request."""
