"""The dialect-free half of reading an upstream's stream into neutral events.

What comes behind the dialect's own ending is no part of the answer and is never read: not a terminator
that arrived by half when the answer was already whole, and not what a broken upstream may append.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from app.domain.events import Event
from app.domain.usage import Usage
from app.errors import UpstreamError
from app.wire.sse import FrameSplitter, read_events

_TERMINATOR = b"[DONE]"


class EventReader:
    """Cut frames, hand each event's data to ``_event``, stop at a failure or at the answer's end.

    A dialect sets ``complete`` with its own ending, ``failure`` with an error told in the stream, and
    ``usage`` and ``finish`` (the neutral reason, "" while unknown) as it learns them.
    """

    def __init__(self) -> None:
        """Start before the first byte."""
        self._splitter = FrameSplitter()
        self.complete = False
        self.usage: Usage | None = None
        self.finish = ""
        self.failure: UpstreamError | None = None

    def feed(self, data: bytes) -> Sequence[Event]:
        """Give the events that became whole. Raises ``UpstreamProtocol`` for what is no event."""
        frames = self._splitter.feed(data)
        return self._read(frames) if frames else ()

    def end(self) -> Sequence[Event]:
        """The upstream closed: read a last event that lacks its blank line. Raises as ``feed``."""
        rest = self._splitter.flush()
        return self._read(rest) if rest.strip() else []

    def _read(self, frames: bytes) -> list[Event]:
        events: list[Event] = []
        for event in read_events(frames):
            if self.complete or self.failure is not None:
                break
            if event.data.strip() == _TERMINATOR:
                events.extend(self._terminated())
            elif event.data:
                self._event(event.data, events)
        return events

    def _terminated(self) -> Sequence[Event]:
        """``[DONE]`` came, which in most dialects tells nothing that was not told."""
        return ()

    @abstractmethod
    def _event(self, data: bytes, events: list[Event]) -> None:
        """Read the data of one event, never empty; append what it says to ``events``."""
