"""Templates of request heads: the last heads of a connection, and what the parser read in them.

Theory of operation. A client sends the same head with every request of a connection; only the digits of
its ``content-length`` change. Reading it again costs forty thousand instructions, comparing it two
thousand. The parser stays the judge: a head is remembered only after the parser has read it, and only if
printing what the parser read gives the head back byte for byte. So nothing is remembered that could be
read in two ways: no folded or doubled header, no bare line feed, no space before a colon. A later read
*is* that request only if it holds the same bytes around other digits and then exactly as many bytes as
they say, all in one piece or in two, of which one is the head (the official packages write those apart);
everything else (another part of a request, two of them, another head) goes to the parser, whose state is
between messages, as it was.

Two heads a connection (streams' and others' may differ), at most ``MAX_HEAD_BYTES`` of each, gone with the
connection: a key in one is kept no longer than the client's own connection lives. Whether the key is
still good is asked each time.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Protocol

from app.api.native import NativeOutlet

if TYPE_CHECKING:
    from app.api.body_template import BodyTemplate
    from app.api.fast_path import FastPath

MAX_HEAD_BYTES = 8_192
MAX_LESSONS = 8
"""How many bodies are learned on a connection: one whose bodies never repeat is not worth more."""
_LENGTH = b"content-length"
_MOST_DIGITS = 9
_UNUSUAL = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"trailer", b"te"})


class Endpoint(Protocol):
    """An endpoint that can be called without ASGI."""

    def remember(self, head: HeadTemplate, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Store in ``head`` what is to be remembered of ``headers``; False to parse them each time."""
        ...

    def answer(
        self, outlet: NativeOutlet, head: HeadTemplate
    ) -> Coroutine[object, None, None] | None:
        """Answer a request whose whole body is in ``outlet``; returns None where nothing is left to run."""
        ...


class HeadTemplate:
    """A parsed request head."""

    __slots__ = (
        "_begin",
        "_end",
        "_prefix",
        "_raw",
        "_size",
        "_suffix",
        "_whole",
        "body_template",
        "endpoint",
        "fast_path",
        "forwarded",
        "headers",
        "lessons_left",
    )  # fmt: skip

    headers: dict[bytes, bytes]
    """The headers that the gateway itself acts on, as the endpoint read them."""
    forwarded: tuple[tuple[bytes, bytes], ...]
    """Those that are forwarded to the vendor."""
    fast_path: FastPath | None
    """The fast path for such requests; None where they carry gateway options."""

    body_template: BodyTemplate | None
    """The template of the last body that came with it, for the fast path."""
    lessons_left: int
    """How many more bodies the fast path will learn here."""

    def __init__(self, raw: bytes, begin: int, end: int, endpoint: Endpoint) -> None:
        """``raw`` is the whole head; the digits of its content length are ``raw[begin:end]``."""
        self._prefix, self._suffix = raw[:begin], raw[end:]
        self._begin, self._end, self._whole = begin, end, len(raw)
        self._raw, self._size = raw, len(raw) + int(raw[begin:end])
        self.endpoint = endpoint
        self.body_template, self.lessons_left = None, MAX_LESSONS

    def match(self, data: bytes) -> bytes | None:
        """The body if ``data`` is exactly one request with this head, else None."""
        whole = self._whole
        if data[:whole] == self._raw and len(data) == self._size:
            return data[whole:]  # the same length too
        begin, end = self._begin, self._end
        if data[:begin] != self._prefix:
            return None
        if data[end:whole] != self._suffix:
            end = data.find(b"\r", begin, begin + _MOST_DIGITS + 1)
            whole = end + len(self._suffix)
            if end < 0 or data[end:whole] != self._suffix:
                return None
        digits = data[begin:end]
        if not digits.isdigit() or int(digits) != len(data) - whole:
            return None
        self._end, self._whole = end, whole
        self._raw, self._size = data[:whole], len(data)
        return data[whole:]

    def matches_head_only(self, data: bytes) -> bool:
        """Whether ``data`` is this head alone, its body still to come."""
        begin, end = self._begin, len(data) - len(self._suffix)
        if data[:begin] != self._prefix or data[end:] != self._suffix:
            return False
        digits = data[begin:end]
        return len(digits) <= _MOST_DIGITS and digits.isdigit() and int(digits) > 0

    def is_same(self, other: HeadTemplate) -> bool:
        """Whether both match the same requests."""
        return self._prefix == other._prefix and self._suffix == other._suffix


def learn_head(
    data: bytes,
    method: bytes,
    url: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    endpoint: Endpoint,
) -> HeadTemplate | None:
    """The template of the head at the beginning of ``data``; None if it is not to be remembered.

    Only for a POST (which is what an endpoint takes a known request for) of HTTP/1.1 on a connection that
    stays open; header names in lower case.
    """
    if method != b"POST":
        return None
    begin = end = 0
    line = b"%s %s HTTP/1.1\r\n" % (method, url)
    printed = [line]
    size = len(line)
    for name, value in headers:
        if name == _LENGTH:
            if begin or not value.isdigit() or len(value) > _MOST_DIGITS:
                return None
            begin = size + len(name) + 2
            end = begin + len(value)
        elif name in _UNUSUAL or (name == b"connection" and value.lower() != b"keep-alive"):
            return None
        line = b"%s: %s\r\n" % (name, value)
        printed.append(line)
        size += len(line)
    printed.append(b"\r\n")
    size += 2
    raw = data[:size]
    # Letters' case aside, for names come from the parser in lower case; it moves no byte.
    same = raw.lower() == b"".join(printed).lower() and raw.count(b"\n") == len(printed)
    if not begin or size > MAX_HEAD_BYTES or not same or raw.count(b"\r") != len(printed):
        return None
    return HeadTemplate(raw, begin, end, endpoint)
