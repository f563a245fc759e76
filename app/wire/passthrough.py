"""Pass a stream through to a client of the same dialect, extracting usage, end and errors.

Theory of operation: per chunk only a few byte searches run, for markers of the rare frames (the end, usage,
an error). Where one is found, the chunk's frames are parsed, so that text that merely looks like a marker
never counts. JSON strings cannot contain a raw line end or an unescaped quote, which makes false positives
rare. Usage is kept as bytes and parsed on access.

An upstream's error frame is passed through unchanged, because it is in the client's dialect; ``failure`` is
then set and ``complete`` stays false, so that nothing broken is cached or retried silently. A provider that
has not emitted anything yet may raise ``failure`` instead of passing the frame on.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from app.domain.events import Event, Frames
from app.domain.usage import Usage
from app.errors import UpstreamError, UpstreamProtocol
from app.wire import json_text
from app.wire.sse import FrameSplitter, count_data_lines, read_events

_TRIES = 8
_BLANK = b"\n\n"
_QUOTE, _LINE_END, _BACKSLASH = b'"\n\\'
_GOES_ON = b"}", b","
"""What may follow a member's value."""
_FIELD = re.compile(rb"(?:\xef\xbb\xbf)?(?::|data|event|id|retry|[\r\n])")
"""The beginning of a line of an event stream."""


class PassthroughReader:
    """Base class: split frames, count them, call ``_inspect`` where they are not ordinary."""

    __slots__ = ("_splitter", "complete", "failure", "finish")
    text_mark: ClassVar[bytes]
    """What precedes the text in an ordinary frame, with the opening quote."""

    def __init__(self) -> None:
        """Start before the first byte."""
        self._splitter = FrameSplitter()
        self.complete = False
        """The dialect's end of the answer was seen."""
        self.finish = ""
        """The neutral finish reason, "" while unknown."""
        self.failure: UpstreamError | None = None
        """The upstream's in-stream error, passed through unchanged."""

    def feed(self, data: bytes) -> Sequence[Event]:
        """The frames completed by ``data``, unchanged."""
        frames = self._splitter.feed(data)
        count = self._ordinary(frames)
        if count:
            return (Frames(frames, count),)
        if not frames:
            return ()
        usual = self._usual(frames)
        if usual is not None:
            return usual
        frames = self._inspect(frames)
        if not frames:
            return ()
        count = count_data_lines(frames)
        if not count and not _FIELD.match(frames):
            raise UpstreamProtocol("The upstream's answer is not a stream of events.")
        if count and not _is_valid(frames):
            raise UpstreamProtocol("The upstream sent an event that is not JSON.")
        return (Frames(frames, count),)

    @property
    def has_partial_frame(self) -> bool:
        """Whether the last frame fed is incomplete."""
        return bool(self._splitter.tail)

    def drop_partial_frame(self) -> None:
        """Discard the incomplete frame: its bytes will be fed again."""
        self._splitter.flush()

    def ordinary(self, data: bytes) -> int:
        """The number of frames in ``data`` if ``feed`` would return it unchanged and extract nothing; else 0.

        Has no effect, so the same bytes may be fed after a 0.
        """
        if self._splitter.tail or data[-2:] != b"\n\n":
            return 0
        return self._ordinary(data)

    def split_around_text(self, frame: bytes) -> tuple[bytes, bytes] | None:
        """What surrounds the text of ``frame``, one ordinary frame; None where that is unclear.

        Any text without quotes and line ends between the two makes an ordinary frame again.
        """
        mark = self.text_mark
        start = frame.find(mark) + len(mark)
        end = frame.find(b'"', start)
        if (
            start < len(mark)
            or frame[end - 1 : end] == b"\\"
            or frame[end + 1 : end + 2] not in _GOES_ON
        ):
            return None
        return frame[:start], frame[end:]

    def end(self) -> Sequence[Event]:
        """The upstream closed: the last bytes, which may lack their blank line, unchanged.

        An incomplete event is dropped: whatever is sent next would be parsed as its rest.
        """
        rest = self._splitter.flush()
        if not _is_complete(rest):
            return ()
        rest = self._inspect(rest)
        return (Frames(rest, count_data_lines(rest)),) if rest else ()

    @property
    def usage(self) -> Usage | None:
        """The usage reported so far; parsed at each access."""
        return self._usage()

    @abstractmethod
    def _ordinary(self, frames: bytes) -> int:
        """The number of frames, if all are plain deltas; cheap, 0 in doubt."""

    def _usual(self, frames: bytes) -> Sequence[Event] | None:  # noqa: ARG002 - for subclasses
        """Handle complete, valid frames of a usual kind; None, without effect, in doubt."""
        return None

    @abstractmethod
    def _inspect(self, frames: bytes) -> bytes:
        """Extract usage, end and errors from complete frames; returns what to pass on."""

    @abstractmethod
    def _usage(self) -> Usage | None:
        """Parse the frames that contained usage."""


def merge_deltas(frames: bytes, reader: PassthroughReader) -> bytes:
    """Merge adjacent frames of one stream that differ only in their text.

    Readers get the same answer in a fraction of the steps. ``reader`` is a fresh one of the dialect.
    """
    parts = frames.split(_BLANK)
    middle = len(parts) // 2
    for part in parts[middle : middle + _TRIES]:
        frame = part + _BLANK
        around = reader.split_around_text(frame) if reader.ordinary(frame) == 1 else None
        if around is not None:
            break
    else:
        return frames
    before, behind = around[0], around[1][: -len(_BLANK)]
    around_bytes = len(before) + len(behind)
    kept: list[bytes] = []
    texts: list[bytes] = []
    for part in parts:
        text = part.removeprefix(before).removesuffix(behind)
        if (
            len(text) + around_bytes == len(part)
            and _QUOTE not in text
            and _LINE_END not in text
            and (_BACKSLASH not in text or text.find(b"\\u") < 0)  # perhaps half a surrogate pair
        ):
            texts.append(text)
            continue
        if texts:
            kept.append(b"".join((before, *texts, behind)))
            texts = []
        kept.append(part)
    return _BLANK.join(kept)


def _is_complete(rest: bytes) -> bool:
    """Whether bytes without a final blank line are complete events; one with empty data may be cut there."""
    events = read_events(rest)
    return bool(events) and all(event.data for event in events) and _is_valid(rest)


def _is_valid(frames: bytes) -> bool:
    """Whether every event is JSON, or the end; asked of frames that are not ordinary ones.

    One with empty data is none: readers of event streams skip it.
    """
    return all(
        not event.data or event.data == b"[DONE]" or json_text.is_json_bytes(event.data)
        for event in read_events(frames)
    )
