"""Order interleaved events for dialects that allow one open block at a time.

Parallel tool calls may interleave in the neutral stream, but Messages and Responses are written block by
block. While a call is open, events of other blocks are queued; when it is sealed, they follow. Upstreams
hardly ever interleave, so the queue is empty in practice and nothing is delayed.
"""

from __future__ import annotations

from collections import deque

from app.domain.events import Event, Finished, ToolCallDelta, ToolCallSealed, ToolCallStarted


class BlockSequencer:
    """Emits the events of one open tool call at a time."""

    __slots__ = ("_open", "_waiting")

    def __init__(self) -> None:
        """Start with no call open."""
        self._open: int | None = None
        self._waiting: deque[Event] = deque()

    def order(self, event: Event) -> list[Event]:
        """The events that may be written now, in order; others are queued."""
        if self._open is None:
            # The path of every text delta while no call is open.
            if isinstance(event, ToolCallStarted):
                self._open = event.index
            return [event]
        if isinstance(event, Finished):
            return self._drain(finish=event)
        if isinstance(event, ToolCallDelta | ToolCallSealed) and event.index == self._open:
            if isinstance(event, ToolCallDelta):
                return [event]
            self._open = None
            return [event, *self._drain(finish=None)]
        self._waiting.append(event)
        return []

    def _drain(self, finish: Finished | None) -> list[Event]:
        """Dequeue up to the next call that is still open; everything when the answer ends."""
        ready: list[Event] = []
        while self._waiting:
            held: deque[Event] = deque()
            progressed = False
            while self._waiting:
                event = self._waiting.popleft()
                if self._belongs_elsewhere(event):
                    held.append(event)
                    continue
                progressed = True
                ready.append(event)
                if isinstance(event, ToolCallStarted):
                    self._open = event.index
                elif isinstance(event, ToolCallSealed):
                    self._open = None
                    # What was held back before this point comes first.
                    held.extend(self._waiting)
                    self._waiting.clear()
            self._waiting = held
            if not progressed:
                break
        if finish is not None:
            self._open = None
            ready.extend(self._waiting)
            self._waiting.clear()
            ready.append(finish)
        return ready

    def _belongs_elsewhere(self, event: Event) -> bool:
        if self._open is None:
            return False
        return not (isinstance(event, ToolCallDelta | ToolCallSealed) and event.index == self._open)
