"""Forward a stream to a client of its own dialect, and learn the little that the gateway must
know.

Theory of operation: per chunk only a few byte searches run, for marks that stand in the rare
frames (the end, usage, an error). A mark found is a suspicion, not a fact: the frames of that
chunk are then parsed, so that text that merely looks like a mark never counts. JSON cannot hold a
raw line end or an unescaped quote inside a string, which makes false suspicions rare. Usage is
kept as bytes and parsed when somebody asks.

An error frame of the upstream is forwarded as it came, because it is the client's own dialect;
``failure`` then says what it was, and ``complete`` stays false, so that nothing broken is ever
cached or retried silently. A provider that has not emitted anything yet may raise ``failure``
instead of forwarding it.
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
"""What may stand behind a member's value."""
_FIELD = re.compile(rb"(?:\xef\xbb\xbf)?(?::|data|event|id|retry|[\r\n])")
"""How a line of an event stream begins."""


class PassthroughReader:
    """The dialect-free half: cut frames, count them, call ``_look`` on each run of frames."""

    __slots__ = ("_splitter", "complete", "failure", "finish")
    text_mark: ClassVar[bytes]
    """How the text of an ordinary frame begins, with its opening quote."""

    def __init__(self) -> None:
        """Start before the first byte."""
        self._splitter = FrameSplitter()
        self.complete = False
        """The dialect's own ending was seen."""
        self.finish = ""
        """The neutral finish reason, "" while unknown."""
        self.failure: UpstreamError | None = None
        """The upstream's in-stream error, forwarded as it came."""

    def feed(self, data: bytes) -> Sequence[Event]:
        """Give the complete frames that ``data`` completes, untouched."""
        frames = self._splitter.feed(data)
        count = self._ordinary(frames)
        if count:
            return (Frames(frames, count),)
        if not frames:
            return ()
        usual = self._usual(frames)
        if usual is not None:
            return usual
        frames = self._look(frames)
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
        """A frame has begun and not ended yet."""
        return bool(self._splitter.tail)

    def drop_partial_frame(self) -> None:
        """Forget the frame that has begun: its bytes will be fed again."""
        self._splitter.flush()

    def ordinary(self, data: bytes) -> int:
        """How many frames ``data`` is, if ``feed`` would give it back as it is and learn nothing; else 0.

        Changes nothing, so the same bytes may be fed after a 0.
        """
        if self._splitter.tail or data[-2:] != b"\n\n":
            return 0
        return self._ordinary(data)

    def split_around_text(self, frame: bytes) -> tuple[bytes, bytes] | None:
        """What stands around the text of ``frame``, one ordinary frame; None where that is unclear.

        Any text between them without a quote and a line's end makes an ordinary frame again.
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
        """The upstream closed: give the last bytes, which may lack their blank line, untouched.

        Half an event is dropped: whatever the client is told next would become its other half.
        """
        rest = self._splitter.flush()
        if not _is_complete(rest):
            return ()
        rest = self._look(rest)
        return (Frames(rest, count_data_lines(rest)),) if rest else ()

    @property
    def usage(self) -> Usage | None:
        """What the upstream has told of usage so far; parsed at each access."""
        return self._usage()

    @abstractmethod
    def _ordinary(self, frames: bytes) -> int:
        """How many frames these are, if all are deltas that tell nothing else; cheap, 0 in doubt."""

    def _usual(self, frames: bytes) -> Sequence[Event] | None:  # noqa: ARG002 - for those that know one
        """Learn from complete frames of a usual kind, all sound; None, and nothing learned, in doubt."""
        return None

    @abstractmethod
    def _look(self, frames: bytes) -> bytes:
        """Learn from complete frames; give what is to be forwarded."""

    @abstractmethod
    def _usage(self) -> Usage | None:
        """Parse the frames that told usage."""


def merge_deltas(frames: bytes, reader: PassthroughReader) -> bytes:
    """``frames`` of one stream, neighbours that differ in their text alone put together.

    Whoever reads them gets the same answer in a fraction of the steps. ``reader`` is a fresh one of
    their dialect.
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
            and (_BACKSLASH not in text or text.find(b"\\u") < 0)  # perhaps half a character
        ):
            texts.append(text)
            continue
        if texts:
            kept.append(b"".join((before, *texts, behind)))
            texts = []
        kept.append(part)
    return _BLANK.join(kept)


def _is_complete(rest: bytes) -> bool:
    """Whether bytes without an end are whole events all the same."""
    return bool(read_events(rest)) and _is_valid(rest)


def _is_valid(frames: bytes) -> bool:
    """Whether every event is JSON, or the end; asked of frames that are not ordinary ones.

    One with empty data is none: readers of event streams skip it.
    """
    return all(
        not event.data or event.data == b"[DONE]" or json_text.is_json_bytes(event.data)
        for event in read_events(frames)
    )
