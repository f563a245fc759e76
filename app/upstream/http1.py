"""HTTP/1.1 as bytes in, message out: no sockets and no clock, so that every sequence can be tested.

Theory of operation. ``httptools`` (llhttp) parses; this module decides what it may see, and does
not take its word for where a message ends. Two opinions on every boundary:

* *Head.* The first CRLF CRLF ends it. The parser gets the bytes up to there and no more; it must
  have finished the head exactly then. A head with bare line feeds, a leading blank line or anything
  else about which two readers of HTTP could disagree is refused by one of the two.
* *Length bodies.* We count, the parser counts, and both must reach the end on the same byte.
* *Chunked bodies.* Only the parser knows; the message must then end in exactly one CRLF CRLF.
* Whatever comes after the end is never parsed. It sets ``excess``, and the connection is not used
  again.

Why so strict: the response of one tenant must never be read as part of another tenant's, and a
provider, proxy or attacker between us that frames messages differently is how that happens
(response smuggling, RFC 9112 section 11.1). llhttp alone accepts ``Transfer-Encoding: gzip,
chunked``, HTTP/2.0 in a status line, status 000, and blank lines between messages; all are refused
here.

Measured (2026-11-21, AMD EPYC, Python 3.11): a fresh ``HttpResponseParser`` costs 1.0 us, so one is
kept per connection and replaced only after a HEAD, the one message it cannot be told about. Nine
headers through callbacks cost 4 us, as tuples 2 us; what is needed of them is found in the head for
0.3 us each, so they are split only for who asks.

The short way. A head of a shape that was accepted before is not parsed again (``head_shapes``); of a
chunked body behind it, reads that are whole chunks in their usual spelling are cut by their sizes. The
parser is not told of any of it. With the first read that is anything else (half a chunk, an extension,
a trailer, a byte too many) it is given the head, and that read as the body's next bytes: between two
chunks it stands exactly where it stood behind the head. ``tests/property/test_http1_short_way.py``
holds both ways to the same result.
"""

from __future__ import annotations

from typing import Final

import httptools

from app.errors import UpstreamClosed, UpstreamProtocol
from app.upstream.head_shapes import HeadShapes

Header = tuple[bytes, bytes]

MAX_HEAD_BYTES: Final = 64 * 1024
"""Status line and headers, with their line ends. Vendors send 1-3 KiB."""

MAX_HEADERS: Final = 256
"""Header lines of one response. Vendors send 15-40."""

MAX_INTERIM: Final = 8
"""1xx responses before the final one."""

MAX_CHUNK_OVERHEAD_BYTES: Final = 64 * 1024
"""Chunk extensions, padding zeros and trailers without a single body byte between them."""

_FEW_HEADERS_BYTES: Final = MAX_HEADERS * len(b"a:\r\n")
_HEAD_END: Final = b"\r\n\r\n"
_BLANKS: Final = b" \t"
_LENGTH_FIELD: Final = b"\r\ncontent-length:"
_CODING_FIELD: Final = b"\r\ntransfer-encoding:"
_TAIL_BYTES: Final = len(_HEAD_END) + 1
_H: Final = ord("H")
_LINE_ENDS: Final = frozenset(b"\r\n")
_NO_BODY_STATUSES: Final = frozenset({204, 304})
_STATUS_SWITCHING: Final = 101
_STATUS_MIN: Final = 100
_STATUS_FINAL_MIN: Final = 200
_STATUS_MAX: Final = 599

_PARSER_ERRORS: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade)

# How the end of the body is known.
_NONE: Final = 0
_LENGTH: Final = 1
_CHUNKED: Final = 2
_UNTIL_EOF: Final = 3


def split_head(head: bytes) -> tuple[Header, ...]:
    """The headers of a ``ResponseReader.head``: names in lower case, order and repeats kept."""
    return tuple(
        [
            (name.lower(), value.strip(_BLANKS))
            for name, _, value in [line.partition(b":") for line in head.split(b"\r\n")[1:]]
        ]
    )


def find_header(head: bytes, name: bytes, low_head: bytes | None = None) -> bytes | None:
    """The first value of the header ``name`` (given in lower case) of a ``ResponseReader.head``.

    ``low_head`` is the same head in lower case, for who has it.
    """
    field = b"\r\n%b:" % name
    return _value_at(head, (low_head or head.lower()).find(field), field)


def _value_at(head: bytes, at: int, field: bytes) -> bytes | None:
    """The value that follows ``field`` (CR LF name colon) at ``at``; None where that is -1.

    A search is exact because llhttp has accepted the head: CR and LF only ever end a line there,
    and a name is followed by its colon at once.
    """
    if at < 0:
        return None
    start = at + len(field)
    end = head.find(b"\r\n", start)
    return (head[start:] if end < 0 else head[start:end]).strip(_BLANKS)


class _Callbacks:
    """llhttp's callbacks: they collect and decide nothing."""

    __slots__ = (
        "head_done",
        "keep_alive",
        "message_done",
        "on_body",
        "parser",
        "pieces",
    )

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        # The parser appends to the list by itself: no Python frame for a piece of body.
        self.on_body = self.pieces.append
        self.head_done = False
        self.message_done = False
        self.keep_alive = False
        self.parser = httptools.HttpResponseParser(self)

    def on_headers_complete(self) -> None:
        if self.message_done:
            # Stops the parser before anything of a second message can enter our state.
            raise ValueError("bytes after the end of the response")
        self.head_done = True
        # Asked here because llhttp forgets the answer when the message is complete.
        self.keep_alive = self.parser.should_keep_alive()

    def on_message_complete(self) -> None:
        self.message_done = True


class ResponseReader:
    """Reads the responses of one connection, one at a time.

    Call ``begin`` before each response, ``feed`` with what arrives (any split gives the same
    result), and ``feed_eof`` when the peer has closed its side. After a raise the reader, like its
    connection, is dead.

    ``status`` and ``head`` (for ``split_head`` and ``find_header``) are valid once
    ``head_complete`` is true; ``pieces`` holds the body that was not taken yet; ``complete`` says
    that the message has ended.
    """

    __slots__ = (
        "_calls",
        "_carry",
        "_framing",
        "_head_shapes",
        "_interim",
        "_method_is_head",
        "_overhead_bytes",
        "_plain_version",
        "_remaining_bytes",
        "_tail",
        "_where",
        "complete",
        "excess",
        "head",
        "head_complete",
        "low_head",
        "pieces",
        "status",
        "unparsed_head",
    )

    def __init__(self, where: str = "upstream", known: HeadShapes | None = None) -> None:
        """``where`` names the origin in error texts; ``known`` is shared by its connections."""
        self._where = where
        self._head_shapes = known or HeadShapes()
        self._calls = _Callbacks()
        self.pieces = self._calls.pieces
        self._method_is_head = False
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.head = self.low_head = b""
        self.head_complete = False
        self.complete = False
        self.excess = False
        self._carry = b""
        self._tail = b""
        self._framing = _NONE
        self._interim = 0
        self._overhead_bytes = 0
        self._remaining_bytes = 0
        self._plain_version = False
        self.unparsed_head: bytes | None = None
        """The head of a chunked answer that the parser has not seen: so far all reads were whole chunks."""

    def begin(self, method: bytes) -> None:
        """Expect the response to a request with ``method``; the one before must be complete."""
        if self._method_is_head:
            # A HEAD's Content-Length announces a body that never comes; llhttp still waits for it.
            self._calls = _Callbacks()
            self.pieces = self._calls.pieces
        self._reset()
        calls = self._calls
        calls.pieces.clear()
        calls.head_done = False
        calls.message_done = False
        self._method_is_head = method == b"HEAD"

    def begin_known(self, status: int, raw: bytes) -> None:
        """``raw``, a head of a known shape, began a chunked answer; after ``begin`` (not of a HEAD)."""
        self.status = status
        self.head = raw[: -len(_HEAD_END)]
        self.head_complete = True
        self._framing = _CHUNKED
        self._calls.keep_alive = True
        self.unparsed_head = raw

    @property
    def started(self) -> bool:
        """Whether a byte of this response, also of an interim one, has arrived."""
        return bool(self._carry) or self._interim > 0 or self.head_complete

    @property
    def reusable(self) -> bool:
        """Whether another request may follow on the same connection."""
        return self.complete and not self.excess and self._calls.keep_alive

    def take(self) -> bytes:
        """All body bytes since the last call, joined; ``b""`` when there are none."""
        pieces = self.pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return data

    def feed(self, data: bytes) -> None:
        """Read ``data``, which is not empty.

        Raises UpstreamProtocol for anything that is not exactly one well-formed response, except
        bytes after its end: those are dropped and set ``excess``.
        """
        if self.complete:
            self.excess = True
            return
        if not self.head_complete:
            data = self._feed_heads(data)
            if not data:
                return
        if self._framing == _LENGTH:
            self._feed_length(data)
        elif self._framing == _CHUNKED:
            self._feed_chunked(data)
        else:
            self.pieces.append(data)

    def feed_eof(self) -> None:
        """The peer has closed its side: the end of a body without a length, else UpstreamClosed."""
        if self.complete:
            return
        if not self.started:
            raise UpstreamClosed(f"{self._where} closed the connection without an answer")
        if not self.head_complete:
            raise UpstreamClosed(f"{self._where} closed the connection within the response head")
        if self._framing != _UNTIL_EOF:
            raise UpstreamClosed(f"{self._where} closed the connection before the end of the body")
        self.complete = True

    # ------------------------------------------------------------------ head

    def _feed_heads(self, data: bytes) -> bytes:
        """Read heads (1xx, then the final one) and return the body bytes that follow."""
        while data:
            if not self._carry:
                if data[0] != _H:
                    raise self._malformed("it does not begin with HTTP/")
                self._plain_version = data[:9] == b"HTTP/1.1 "
            carry = self._carry
            joined = carry + data if carry else data
            looked = max(0, len(carry) - len(_HEAD_END)) if carry else 0
            end = joined.find(_HEAD_END, looked)
            stop = len(joined) if end < 0 else end + len(_HEAD_END)
            if stop > MAX_HEAD_BYTES:
                raise self._too_large(f"its head is larger than {MAX_HEAD_BYTES} bytes")
            try:
                self._calls.parser.feed_data(joined[len(carry) : stop] if carry else data[:stop])
            except _PARSER_ERRORS as exc:
                self._parser_failed(exc)
            if self._calls.head_done != (end >= 0):
                raise self._malformed("its head does not end where it should")
            if end < 0:
                self._carry = joined
                return b""
            data = joined[stop:]
            if self._end_head(joined[:end]):
                break
        if self.complete and data:
            self.excess = True
            return b""
        return data

    def _end_head(self, head: bytes) -> bool:
        """Check the head; true if it is the final one, false after a 1xx."""
        calls = self._calls
        if len(head) > _FEW_HEADERS_BYTES and head.count(b"\n") > MAX_HEADERS:
            raise self._too_large(f"it has more than {MAX_HEADERS} headers")
        version = "1.1"
        if not self._plain_version:
            version = calls.parser.get_http_version()
            if version not in {"1.1", "1.0"}:
                raise self._malformed(f"HTTP/{version} was not asked for")
        status: int = calls.parser.get_status_code()
        if not _STATUS_MIN <= status <= _STATUS_MAX:
            raise self._malformed(f"{status} is not a status")
        if status < _STATUS_FINAL_MIN:
            self._skip_interim(status)
            return False
        self.status = status
        self.head = head
        self.head_complete = True
        self.low_head = low_head = head.lower()
        self._frame(low_head, status, version)
        if not self._interim:
            self._learn(head + _HEAD_END)
        return True

    def _learn(self, raw: bytes) -> None:
        """Remember the shape of this head, if it is of the ordinary kind."""
        chunked = self._framing == _CHUNKED
        if self._calls.keep_alive and (chunked or self._framing == _LENGTH) and not self.complete:
            self._head_shapes.learn(raw, self.status, chunked=chunked)

    def _skip_interim(self, status: int) -> None:
        """Forget a 100, 102 or 103 and be ready for the next head."""
        if status == _STATUS_SWITCHING:
            raise self._switching()
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise self._too_large(f"it has more than {MAX_INTERIM} interim (1xx) heads")
        calls = self._calls
        if not calls.message_done:
            raise self._framing_error(f"the parser expects a body after {status}")
        calls.head_done = calls.message_done = False
        self._carry = b""

    def _frame(self, head: bytes, status: int, version: str) -> None:
        """Decide how the body ends (RFC 9112 section 6.3); refuse what can be read in two ways."""
        calls = self._calls
        length_at = head.find(_LENGTH_FIELD)
        length = None if length_at < 0 else _value_at(head, length_at, _LENGTH_FIELD)
        coding_at = head.find(_CODING_FIELD)
        if coding_at >= 0:
            if length is not None:
                raise self._framing_error("it has both Content-Length and Transfer-Encoding")
            if version == "1.0":
                raise self._framing_error("HTTP/1.0 has no Transfer-Encoding")
            if (
                head.find(_CODING_FIELD, coding_at + 1) >= 0
                or _value_at(head, coding_at, _CODING_FIELD) != b"chunked"
            ):
                raise self._framing_error("its Transfer-Encoding is not just 'chunked'")
            self._framing = _CHUNKED
        elif length is not None:
            if not length.isdigit():
                raise self._framing_error("its Content-Length is not a number")
            self._framing = _LENGTH
            self._remaining_bytes = int(length)
        else:
            self._framing = _UNTIL_EOF
        if self._method_is_head or status in _NO_BODY_STATUSES:
            self._framing = _NONE
            self.complete = True
            if not self._method_is_head and not calls.message_done:
                raise self._framing_error(f"the parser expects a body with status {status}")
            return
        self.complete = self._framing == _LENGTH and self._remaining_bytes == 0
        if calls.message_done != self.complete:
            raise self._framing_error("its length can be read in two ways")

    # ------------------------------------------------------------------ body

    def _feed_length(self, data: bytes) -> None:
        size = len(data)
        if size > self._remaining_bytes:
            self.excess = True
            size = self._remaining_bytes
            data = data[:size]
        self._remaining_bytes -= size
        calls = self._calls
        try:
            calls.parser.feed_data(data)
        except _PARSER_ERRORS as exc:
            self._parser_failed(exc)
        self.complete = not self._remaining_bytes
        if calls.message_done != self.complete:
            raise self._framing_error("its length can be read in two ways")

    def _feed_whole_chunks(self, data: bytes) -> bool:
        """Split ``data`` into chunks by their sizes if it is whole chunks and nothing else; else False."""
        *parts, rest = data.split(b"\r\n")
        sizes = [*map(self._head_shapes.chunk_sizes.get, parts[::2])]
        if not rest and sizes == [*map(len, parts[1::2])] and 0 not in sizes[:-1]:
            # In one go: sizes that came before, and nothing that reads as a line's end in a chunk.
            self.complete = not sizes[-1]
            self.pieces += parts[1 : -1 if self.complete else None : 2]
            return True
        pieces: list[bytes] = []
        at, end = 0, len(data)
        while at < end:
            start = data.find(b"\r\n", at) + 2
            size = self._head_shapes.chunk_size(data[at : start - 2]) if start > 1 else None
            if size is None:
                return False
            at = start + size
            if data[at : at + 2] != b"\r\n" or (not size and at + 2 != end):
                return False
            if size:
                pieces.append(data[start:at])
            else:
                self.complete = True
            at += 2
        self.pieces += pieces
        return True

    def _parse_skipped_head(self, head: bytes) -> None:
        """Have the parser read the head that was skipped, which puts it between two chunks."""
        self.unparsed_head = None
        calls = self._calls
        try:
            calls.parser.feed_data(head)
        except _PARSER_ERRORS as exc:  # it has taken these bytes before
            self._parser_failed(exc)
        if not calls.head_done or calls.message_done:
            raise self._malformed("its head is read in two ways")

    def _feed_chunked(self, data: bytes) -> None:
        if self.unparsed_head is not None:
            if self._feed_whole_chunks(data):
                return
            self._parse_skipped_head(self.unparsed_head)
        before = len(self.pieces)
        tail = data[-_TAIL_BYTES:]
        self._tail = tail if len(tail) == _TAIL_BYTES else (self._tail + tail)[-_TAIL_BYTES:]
        calls = self._calls
        try:
            calls.parser.feed_data(data)
        except _PARSER_ERRORS as exc:
            self._parser_failed(exc)
        if calls.message_done:
            self.complete = True
            # llhttp skips blank lines after a message; for us they are bytes after the end.
            if self._tail[1:] != _HEAD_END or self._tail[0] in _LINE_ENDS:
                self.excess = True
        elif len(self.pieces) == before:
            self._overhead_bytes += len(data)
            if self._overhead_bytes > MAX_CHUNK_OVERHEAD_BYTES:
                raise self._too_large(
                    f"it has {MAX_CHUNK_OVERHEAD_BYTES} bytes of chunk framing without a body byte"
                )
        else:
            self._overhead_bytes = 0

    def _parser_failed(self, exc: Exception) -> None:
        """Raise what the parser's failure means; return if it is only about bytes after the end."""
        calls = self._calls
        if calls.head_done and calls.parser.get_status_code() == _STATUS_SWITCHING:
            raise self._switching() from exc
        if self.head_complete and calls.message_done:
            self.excess = True
            return
        reason = str(exc)
        if "Content-Length" in reason or "Transfer-Encoding" in reason:
            raise self._framing_error(reason) from exc
        raise self._malformed(reason) from exc

    # ------------------------------------------------------------------ refusals

    def _malformed(self, reason: str) -> UpstreamProtocol:
        return self._refusal(reason, "upstream_malformed")

    def _framing_error(self, reason: str) -> UpstreamProtocol:
        return self._refusal(reason, "upstream_framing")

    def _too_large(self, reason: str) -> UpstreamProtocol:
        return self._refusal(reason, "upstream_oversize")

    def _switching(self) -> UpstreamProtocol:
        return self._refusal("it switches protocols (101), unasked", "upstream_switching")

    def _refusal(self, reason: str, code: str) -> UpstreamProtocol:
        return UpstreamProtocol(
            f"{self._where} sent a response that is refused: {reason}", code=code
        )
