"""A queue of finished calls to learn from, in the order in which they ended, in short slices of time.

Theory of operation. To learn from a call its prompt is parsed into blocks, unless that was done when it was
sent: over a millisecond for 200 KB, and several such calls end together. Other requests must not wait for all
of that, so a timer works for a fraction of a millisecond, a message at a time, and yields to the loop in
between.
``drain`` learns everything at once. The queue is bounded: beyond the bound each new call has the oldest
learned at once.

Owned by one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final

from app.domain.model_call import ModelCall
from app.prompts.prefix import RenderedPrompt, RenderSteps, UnreadableError

FIRST_SLICE_AFTER_S: Final = 0.01
NEXT_SLICE_AFTER_S: Final = 0.001
SLICE_NS: Final = 300_000
MAX_WAITING: Final = 64

Read = Callable[[ModelCall], "RenderedPrompt | RenderSteps"]
"""The blocks of a call's prompt, or the steps that parse it."""
Learn = Callable[[ModelCall, RenderedPrompt], None]


class LearningQueue:
    """The waiting calls, and the parse in progress."""

    def __init__(
        self, read: Read, learn: Learn, clock: Callable[[], int] = perf_counter_ns
    ) -> None:
        """``learn`` is called with each call that can be parsed; ``clock`` gives nanoseconds."""
        self._read, self._learn, self._clock = read, learn, clock
        self._waiting: deque[ModelCall] = deque()
        self._reading: RenderSteps | None = None
        """Of the first waiting call."""
        self._timer: asyncio.TimerHandle | None = None
        self.done = 0
        """Calls learned from, or found unreadable."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, call: ModelCall) -> None:
        """Queue ``call``. Call it inside the running loop."""
        self._waiting.append(call)
        if self._timer is None:
            self._look_in(FIRST_SLICE_AFTER_S)
        if len(self._waiting) > MAX_WAITING:
            self._next()

    def drain(self) -> None:
        """Learn from every waiting call, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            self._next()

    async def drained(self) -> None:
        """Learn from every call waiting now, yielding to the loop between slices."""
        last = self.done + len(self)
        while self.done < last and self.run_slice():  # noqa: ASYNC110 - nothing to wait for: others go first
            await asyncio.sleep(0)

    def drain_rendered(self) -> None:
        """Learn from the calls at the head whose prompts are parsed already, which is cheap."""
        while self._waiting and isinstance(self._read(self._waiting[0]), RenderedPrompt):
            self._next()

    def run_slice(self) -> bool:
        """Learn for 0.3 ms; whether more calls wait."""
        until_ns = self._clock() + SLICE_NS
        while self._waiting:
            self._step()
            if self._clock() >= until_ns:
                break
        return bool(self._waiting)

    def _next(self) -> None:
        done = self.done
        while self.done == done:
            self._step()

    def _step(self) -> None:
        """One parse step of the first call, or its learning once it is parsed."""
        reading, call = self._reading, self._waiting[0]
        try:
            if reading is None:
                found = self._read(call)
                if not isinstance(found, RenderedPrompt):
                    self._reading = found
                    return
            else:
                next(reading)
                return
        except StopIteration as end:
            found = end.value
        except (UnreadableError, KeyError):
            self._forget()
            return
        self._forget()
        self._learn(call, found)
        return

    def _forget(self) -> None:
        """Remove the first call. Before learning from it, as a callback may drain."""
        self._reading = None
        self._waiting.popleft()
        self.done += 1

    def _look_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if self.run_slice() and self._timer is None:
            self._look_in(NEXT_SLICE_AFTER_S)
