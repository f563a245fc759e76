"""Coalesces frames that follow at once into one write: an agent's last text, its end and ``[DONE]``.

uvloop writes at once, and each write is a segment, a system call and a wake-up of the client. What a
model streams comes a frame at a time, so joining would only delay it; what an agent says comes several
frames at a time (two tools begin, the answer's start, text and end). They are held until the loop has
done what is due now, which is what the next of them comes in.
"""

from __future__ import annotations

import asyncio

from app.api.outlet import Outlet

_MOST_HELD_BYTES = 16 << 10


class WriteCoalescer:
    """The whole frames of one stream that are not written yet, in order."""

    __slots__ = ("_held", "_outlet", "_slow")

    def __init__(self, outlet: Outlet) -> None:
        """Start empty."""
        self._outlet = outlet
        self._held = b""
        self._slow = False

    def add(self, data: bytes) -> bytes:
        """Hold ``data``; returns what must be written now, if the client is slow or much is held."""
        if not self._held and not self._slow:
            asyncio.get_running_loop().call_soon(self._flush)
        self._held += data
        return self.take() if self._slow or len(self._held) > _MOST_HELD_BYTES else b""

    def take(self) -> bytes:
        """Return what is held, for the caller to write."""
        held, self._held = self._held, b""
        return held

    def _flush(self) -> None:
        # A client that reads too slowly is waited for by whoever has more to say.
        if self._held:
            self._slow = not self._outlet.try_write(self._held, False)  # noqa: FBT003
            if not self._slow:
                self._held = b""


def take_held(joined: WriteCoalescer | None) -> bytes:
    """What is held, which must be written before the end."""
    return b"" if joined is None else joined.take()
