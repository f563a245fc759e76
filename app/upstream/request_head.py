"""Writes request heads: never a byte that could end a header early or begin a second request.

A call costs about 2 us for six headers: names are checked once and remembered, values are checked
together, by counting the line ends in the joined block.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from app.errors import GatewayError
from app.upstream.http1 import Header

_METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
_TARGET: Final = re.compile(rb"/[!-~]*")
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LINE_ENDERS: Final = b"\r\n\0"
_HOST: Final = re.compile(rb"[!-~]+")
# The writer owns the framing and the connection; a caller's opinion on them would make a second
# one.
_OWNED: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"expect",
        b"te",
        b"trailer",
        b"upgrade",
    }
)


KNOWN_LENGTHS: Final = 4096
LENGTH_LINES: Final = tuple(b"content-length: %d\r\n" % size for size in range(KNOWN_LENGTHS))
"""The line that says the length of a body: to look one up costs a sixth of printing it."""
# Paths and header names are few and come with each call; what a caller makes up anew each time is
# checked each time instead of remembered.
_MAX_KNOWN: Final = 256


class RequestWriter:
    """Writes request heads for one origin; what never changes is checked and formatted once."""

    __slots__ = ("_fields", "_fields_of", "_host", "_known_names", "_starts")

    def __init__(self, host: bytes) -> None:
        """``host`` is the Host header: the name, and the port unless it is the scheme's own."""
        if not _HOST.fullmatch(host):
            raise _refused_header("host", "is not a host")
        self._host = host
        self._known_names: set[bytes] = set()
        self._starts: dict[tuple[bytes, bytes], bytes] = {}
        # A provider sends the very same tuple with nearly every call: checked and joined once.
        self._fields_of: Sequence[Header] = ()
        self._fields = b""

    def head(
        self, method: bytes, path: bytes, headers: Sequence[Header], content_length: int
    ) -> bytes:
        """The bytes from the method to the blank line; ``content_length`` is in bytes.

        Raises GatewayError (``invalid_upstream_header``), which names the header and never its
        value, for CR, LF or NUL anywhere, a name that is no token, and headers that this writer
        owns.
        """
        return b"%bcontent-length: %d\r\n\r\n" % (self.start(method, path, headers), content_length)

    def start(self, method: bytes, path: bytes, headers: Sequence[Header]) -> bytes:
        """The head but for the body's length and the blank line; raises as ``head`` does."""
        start = self._starts.get((method, path)) or self._start(method, path)
        return start + (self._fields if headers is self._fields_of else self._joined(headers))

    def _joined(self, headers: Sequence[Header]) -> bytes:
        """The checked header lines, remembered if ``headers`` cannot change."""
        if not self._known_names.issuperset([name for name, _ in headers]):
            self._check_names(headers)
        fields = b"".join([b"%b: %b\r\n" % field for field in headers])
        # One pass over the joined block instead of one search per value: any CR, LF or NUL beyond
        # the line ends that we put there ourselves came in with a value.
        if len(fields.translate(None, _LINE_ENDERS)) != len(fields) - 2 * len(headers):
            raise _refused_header(_culprit(headers), "has a value with CR, LF or NUL")
        if type(headers) is tuple and all(type(field) is tuple for field in headers):
            self._fields_of, self._fields = headers, fields
        return fields

    def _start(self, method: bytes, path: bytes) -> bytes:
        """The request line and the Host header."""
        if method not in _METHODS:
            raise _refused_header("method", "is not one that can be sent")
        if not _TARGET.fullmatch(path):
            raise _refused_header("path", "must begin with / and hold visible ASCII only")
        start = b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method, path, self._host)
        if len(self._starts) < _MAX_KNOWN:
            self._starts[method, path] = start
        return start

    def _check_names(self, headers: Sequence[Header]) -> None:
        for name, _ in headers:
            if not _TOKEN.fullmatch(name):
                raise _refused_header(ascii(name)[2:-1], "is not a header name")
            if name.lower() in _OWNED:
                raise _refused_header(
                    name.decode("ascii"), "belongs to the connection and is set by it"
                )
            if len(self._known_names) < _MAX_KNOWN:
                self._known_names.add(name)


def build_head(
    method: bytes, path: bytes, host: bytes, headers: Sequence[Header], content_length: int
) -> bytes:
    """One request head, for callers without an origin; raises as ``RequestWriter.head`` does."""
    return RequestWriter(host).head(method, path, headers, content_length)


def _culprit(headers: Sequence[Header]) -> str:
    """The first header whose value may not be sent."""
    for name, value in headers:
        if not frozenset(_LINE_ENDERS).isdisjoint(value):
            return name.decode("ascii", "replace")
    return "unknown"


def _refused_header(what: str, problem: str) -> GatewayError:
    return GatewayError(
        f"Nothing was sent upstream: {what!r} {problem}. Mend the provider's headers or key.",
        code="invalid_upstream_header",
    )
