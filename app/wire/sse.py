"""Server-sent events, sans-IO: split a byte stream into frames, parse frames, write frames.

A *frame* is everything up to and including a blank line; lines end in LF, CRLF or CR, in any mixture.

Goals, in this order: never change a byte that is passed through; return the same bytes however the stream was
split; cost about a microsecond for the usual chunk, which is one token's complete frame.

Plan: the usual chunk ends in a blank line and nothing was left over, so it is returned as the same object.
Otherwise only the last three buffered bytes and the new bytes are searched, so a frame that arrives in many
pieces costs linear time.

Invariants: returned plus buffered bytes are the bytes fed; returned bytes end at a frame's end; the buffer
never exceeds ``MAX_FRAME_BYTES`` by more than one feed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from app.errors import UpstreamProtocol

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""The largest frame accepted: legitimate ones hold at most a complete answer with images."""

_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n?|\n)")
_LINE = re.compile(rb"\r\n|\n|\r")
_LINE_ENDS = b"\r\n"
_BOM = b"\xef\xbb\xbf"


class FrameSplitter:
    """Returns frames as they become complete and buffers the rest."""

    __slots__ = ("_limit_bytes", "tail")

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        """Start at the beginning of a frame."""
        self.tail = bytearray()
        """The buffered part of an incomplete frame; empty between frames."""
        self._limit_bytes = limit_bytes

    def feed(self, data: bytes) -> bytes:
        """The longest run of complete frames that ``data`` completes, "" when none.

        Raises ``UpstreamProtocol`` when one frame grows over the limit.
        """
        if not self.tail and data.endswith(b"\n\n"):
            return data
        return self._feed_slowly(data)

    def _feed_slowly(self, data: bytes) -> bytes:
        tail = self.tail
        kept = len(tail)
        overlap = bytes(tail[-3:])
        # With at most three bytes buffered, the window begins at a frame's start, so a bare line end there is
        # a blank line.
        end = _last_frame_end(overlap + data, at_frame_start=kept <= len(overlap))
        if end == 0:
            if kept + len(data) > self._limit_bytes:
                raise UpstreamProtocol(
                    f"The upstream sent an event of more than {self._limit_bytes} bytes without an end."
                )
            tail += data
            return b""
        cut = end - len(overlap)
        whole = bytes(tail) + data[:cut]
        self.tail = bytearray(data[cut:])
        return whole

    def flush(self) -> bytes:
        """Return and clear the buffered part of an incomplete frame."""
        rest = bytes(self.tail)
        self.tail = bytearray()
        return rest


def _last_frame_end(window: bytes, *, at_frame_start: bool) -> int:
    """The position after the last blank line, 0 when there is none."""
    end = 0
    if b"\r" not in window:
        found = window.rfind(b"\n\n")
        if found >= 0:
            return found + 2
    else:
        for match in _BLANK_LINE.finditer(window):
            end = match.end()
        # Bare line ends right after a frame are blank lines too.
        while end and end < len(window) and window[end] in _LINE_ENDS:
            end += 1
    if end == 0 and at_frame_start:
        end = len(window) - len(window.lstrip(_LINE_ENDS))
    return end


def count_data_lines(frames: bytes) -> int:
    """The number of ``data`` lines in complete ``frames``; exact, as JSON contains no raw line ends."""
    count = frames.count(b"\ndata:") + frames.startswith(b"data:")
    if b"\r" in frames:
        count += frames.count(b"\rdata:")
    return count


def split_frames(frames: bytes) -> list[bytes]:
    """Split complete frames; joined, they are the same bytes."""
    if frames.find(b"\r") < 0 and frames.find(b"\n\n\n") < 0:
        whole = [frame + b"\n\n" for frame in frames.split(b"\n\n")]
        last = whole.pop()[:-2]
        return [*whole, last] if last else whole
    parts: list[bytes] = []
    start = 0
    for match in _BLANK_LINE.finditer(frames):
        parts.append(frames[start : match.end()])
        start = match.end()
    if start < len(frames):
        parts.append(frames[start:])
    return parts


class ServerEvent(NamedTuple):
    """One event: its ``event`` field ("" when absent) and its ``data`` lines joined by LF."""

    event: str
    data: bytes


def read_events(frames: bytes) -> list[ServerEvent]:
    """The events of complete frames; comments, ``id``, ``retry`` and events without data are skipped."""
    payload = _only_payload(frames)
    if payload is not None:
        return [payload]
    events: list[ServerEvent] = []
    name = ""
    data: list[bytes] = []
    frames = frames.removeprefix(_BOM)
    # The last event counts without its blank line too: the stream was closed after it.
    lines = frames.split(b"\n") if b"\r" not in frames else _LINE.split(frames)
    for line in [*lines, b""]:
        if line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            name = (line[7:] if line[6:7] == b" " else line[6:]).decode("utf-8", "replace")
        elif line == b"data":
            data.append(b"")
        elif not line:
            if data:
                events.append(ServerEvent(name, b"\n".join(data)))
            name, data = "", []
    return events


def _only_payload(frames: bytes) -> ServerEvent | None:
    """The event of a single frame of one ``data`` line, perhaps after an ``event`` line: the usual one."""
    end = len(frames) - 2
    first = frames.find(b"\n")
    if b"\r" in frames:
        return None
    if first == end and frames.startswith(b"data: ") and frames[-1:] == b"\n":
        return ServerEvent("", frames[6:-2])
    if (
        frames.startswith(b"event: ")
        and frames.startswith(b"data: ", first + 1)
        and frames.find(b"\n", first + 1) == end
        and frames[-1:] == b"\n"
    ):
        return ServerEvent(frames[7:first].decode("utf-8", "replace"), frames[first + 7 : -2])
    return None


def data_frame(data: bytes) -> bytes:
    """A frame of one ``data`` line; ``data`` contains no raw line end (JSON never does)."""
    return b"data: " + data + b"\n\n"


def event_frame(event: bytes, data: bytes) -> bytes:
    """A frame with an ``event`` line before its ``data`` line."""
    return b"event: " + event + b"\ndata: " + data + b"\n\n"


def comment_frame(text: str) -> bytes:
    """A frame of comment lines, one for each line of ``text``; every client skips it."""
    lines = text.splitlines() or [""]
    return "".join(f": {line}\n" for line in lines).encode("utf-8", "replace") + b"\n"
