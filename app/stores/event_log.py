"""The numbered events of each run: what a client that lost its connection reads on from.

Bounded in each run by events and bytes (the oldest leave first; a reader that comes for those is told so),
and in all ended runs together by their number, their bytes and a time. One event loop owns it. Events are
kept neutral; each reader writes them in its own protocol.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from itertools import islice

from app.domain.run_events import CallArguments, MessageText, RunEvent, RunFailed, RunFinished
from app.errors import NotFound

_MAX_EVENTS = 20_000
_MAX_BYTES = 16 << 20
_MAX_ENDED_RUNS = 1_000
_MAX_ENDED_BYTES = 64 << 20
_KEEP_S = 900.0
_EVENT_BYTES = 100
"""An event without its texts."""
_TEXTS = frozenset({CallArguments, MessageText})


class RunLog:
    """The events of one run, numbered from 1."""

    def __init__(
        self, run_id: str, *, max_events: int = _MAX_EVENTS, max_bytes: int = _MAX_BYTES
    ) -> None:
        """Start empty; the newest event is kept whatever its size."""
        self.run_id = run_id
        self.bytes = 0
        """What the kept events take in memory, about."""
        self._max_events, self._max_bytes = max_events, max_bytes
        self._events: deque[RunEvent] = deque()
        self._sizes: deque[int] = deque()
        self._first = 1
        self._waiters: list[asyncio.Future[None]] = []
        self.ended = False
        """The last event is there."""
        self.on_append: Callable[[], None] | None = None
        """Called after each append; set by whatever copies the log."""

    @property
    def first(self) -> int:
        """The number of the oldest event that is kept."""
        return self._first

    @property
    def last(self) -> int:
        """The number of the newest event; 0 = none yet."""
        return self._first + len(self._events) - 1

    def append(self, event: RunEvent) -> None:
        """Add an event and wake the readers; nothing is added after the end."""
        if self.ended:
            return
        size = _size_of(event)
        self._events.append(event)
        self._sizes.append(size)
        self.bytes += size
        while len(self._events) > self._max_events or (
            self.bytes > self._max_bytes and len(self._events) > 1
        ):
            self._events.popleft()
            self.bytes -= self._sizes.popleft()
            self._first += 1
        if isinstance(event, RunFinished | RunFailed):
            self.ended = True
        if self.on_append is not None:
            self.on_append()
        self.wake()

    def wake(self) -> None:
        """Wake all waiting readers."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def after(self, seq: int) -> list[tuple[int, RunEvent]]:
        """The events behind number ``seq``; raises ``NotFound`` where some of them have left the log."""
        skip = seq - self._first + 1
        if skip < 0:
            message = f"the events after {seq} are no longer kept: the oldest is {self._first}"
            raise NotFound(message, code="events_expired")
        if skip >= len(self._events):
            return []
        # A deque is walked from its nearer end: a reader that keeps up does not pay for old events.
        many = len(self._events) - skip
        newer = list(islice(reversed(self._events), many)) if skip else list(self._events)
        if skip:
            newer.reverse()
        return list(enumerate(newer, seq + 1))

    async def more(self, seq: int) -> bool:
        """Wait until there are events behind ``seq``; False when there will be none."""
        while self.last <= seq:
            if self.ended:
                return False
            await self.wait_for_append()
        return True

    async def wait_for_append(self) -> None:
        """Wait until something was appended, or ``wake`` was called."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)


class EventLog:
    """The logs of all runs of this process, by tenant and run id."""

    def __init__(
        self,
        *,
        max_events: int = _MAX_EVENTS,
        max_ended: int = _MAX_ENDED_RUNS,
        max_ended_bytes: int = _MAX_ENDED_BYTES,
        keep_s: float = _KEEP_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty; ``max_events``: of one run. What has ended longest is forgotten first."""
        self._max_events, self._keep_s = max_events, keep_s
        self._max_ended, self._max_ended_bytes = max_ended, max_ended_bytes
        self._clock = clock
        self._runs: dict[tuple[str, str], RunLog] = {}
        self._ended: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._ended_bytes = 0
        self.on_forget: Callable[[str, str], None] | None = None
        """Called with the tenant and the id of each run that is forgotten."""

    def open(self, tenant: str, run_id: str) -> RunLog | None:
        """A new run's log; None where this tenant has one of that id."""
        self._evict()
        key = (tenant, run_id)
        if key in self._runs:
            return None
        log = self._runs[key] = RunLog(run_id, max_events=self._max_events)
        return log

    def find(self, tenant: str, run_id: str) -> RunLog | None:
        """The log of a run that is under way or lately was."""
        self._evict()
        return self._runs.get((tenant, run_id))

    def close(self, tenant: str, run_id: str) -> None:
        """The run is over and its log complete: it is kept a while longer."""
        key = (tenant, run_id)
        self._ended[key] = self._clock() + self._keep_s
        self._ended_bytes += self._runs[key].bytes
        self._evict()

    def _evict(self) -> None:
        now_s = self._clock()
        while self._ended:
            key, until_s = next(iter(self._ended.items()))
            is_over = len(self._ended) > self._max_ended or (
                self._ended_bytes > self._max_ended_bytes and len(self._ended) > 1
            )
            if until_s > now_s and not is_over:
                return
            del self._ended[key]
            self._ended_bytes -= self._runs.pop(key).bytes
            if self.on_forget is not None:
                self.on_forget(*key)


def _size_of(event: RunEvent) -> int:
    """Bytes that an event takes, about: its texts', at any depth of what a tool is called with."""
    if type(event) in _TEXTS:  # nearly all events of a run; ten times faster than the walk
        return _EVENT_BYTES + sys.getsizeof(event.text)  # type: ignore[union-attr]
    size, left = _EVENT_BYTES, list[object]([event])
    while left:
        value = left.pop()
        if isinstance(value, str):
            size += sys.getsizeof(value)
        elif isinstance(value, Mapping):
            left += value.keys()
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
        else:
            left += [getattr(value, name) for name in getattr(type(value), "__slots__", ())]
    return size
