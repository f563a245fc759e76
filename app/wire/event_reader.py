"""Base class for reading an upstream's stream into neutral events.

Nothing after the dialect's own end of the answer is read: neither a truncated terminator nor what a broken
upstream may append.
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
    """Split frames, pass each event's data to ``_event``, stop at a failure or at the end of the answer.

    Subclasses set ``complete`` at the dialect's end of the answer, ``failure`` for an error event, and
    ``usage`` and ``finish`` (the neutral reason, "" while unknown) as they become known.
    """

    def __init__(self) -> None:
        """Start before the first byte."""
        self._splitter = FrameSplitter()
        self.complete = False
        self.usage: Usage | None = None
        self.finish = ""
        self.failure: UpstreamError | None = None

    def feed(self, data: bytes) -> Sequence[Event]:
        """The events completed by ``data``. Raises ``UpstreamProtocol`` for malformed ones."""
        frames = self._splitter.feed(data)
        return self._read(frames) if frames else ()

    def end(self) -> Sequence[Event]:
        """The upstream closed: parse a last event that lacks its blank line. Raises as ``feed``."""
        rest = self._splitter.flush()
        return self._read(rest) if rest.strip() else []

    def _read(self, frames: bytes) -> list[Event]:
        events: list[Event] = []
        for event in read_events(frames):
            if self.complete or self.failure is not None:
                break
            if event.data.strip() == _TERMINATOR:
                events.extend(self._on_done())
            elif event.data:
                self._event(event.data, events)
        return events

    def _on_done(self) -> Sequence[Event]:
        """Handle ``[DONE]``, which most dialects need not."""
        return ()

    @abstractmethod
    def _event(self, data: bytes, events: list[Event]) -> None:
        """Parse the (non-empty) data of one event and append to ``events``."""
