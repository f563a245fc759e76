"""Writes request heads: never a byte that could end a header early or begin a second request.

A call costs about 2 us for six headers: names are checked once and remembered, values are checked
together by counting line ends in the finished block.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Final

from app.errors import GatewayError
from app.upstream.http1 import Header

_METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
_TARGET: Final = re.compile(rb"/[!-~]*")
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
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


@functools.lru_cache(maxsize=256)
def _name_problem(name: bytes) -> str:
    """Why ``name`` may not be sent, or ``""``; cached: the same names come with each call."""
    if not _TOKEN.fullmatch(name):
        return "is not a header name"
    if name.lower() in _OWNED:
        return "belongs to the connection and is set by it"
    return ""


@functools.lru_cache(maxsize=64)
def _target_ok(path: bytes) -> bool:
    return _TARGET.fullmatch(path) is not None


class RequestWriter:
    """Writes request heads for one origin; what never changes is formatted once."""

    __slots__ = ("_middle",)

    def __init__(self, host: bytes) -> None:
        """``host`` is the Host header: the name, and the port unless it is the scheme's own."""
        if not _HOST.fullmatch(host):
            raise _refused_header("host", "is not a host")
        self._middle = b" HTTP/1.1\r\nhost: " + host

    def head(
        self, method: bytes, path: bytes, headers: Sequence[Header], content_length: int
    ) -> bytes:
        """The bytes from the method to the blank line; ``content_length`` is in bytes.

        Raises GatewayError (``invalid_upstream_header``), which names the header and never its
        value, for CR, LF or NUL anywhere, a name that is no token, and the headers that this writer
        owns.
        """
        if method not in _METHODS:
            raise _refused_header("method", "is not one that can be sent")
        if not _target_ok(path):
            raise _refused_header("path", "must begin with / and hold visible ASCII only")
        lines = [method + b" " + path + self._middle]
        for name, value in headers:
            if problem := _name_problem(name):
                raise _refused_header(ascii(name)[2:-1], problem)
            lines.append(name + b": " + value)
        lines.append(b"content-length: %d\r\n\r\n" % content_length)
        head = b"\r\n".join(lines)
        # One count over the joined block instead of one search per value: any CR or LF beyond those
        # that we put there ourselves came in with a value.
        own = len(lines) + 2
        if head.count(b"\n") != own or head.count(b"\r") != own or b"\0" in head:
            raise _refused_header(_culprit(headers), "has a value with CR, LF or NUL")
        return head


def build_head(
    method: bytes, path: bytes, host: bytes, headers: Sequence[Header], content_length: int
) -> bytes:
    """One request head, for callers without an origin; raises as ``RequestWriter.head`` does."""
    return RequestWriter(host).head(method, path, headers, content_length)


def _culprit(headers: Sequence[Header]) -> str:
    """The first header whose value may not be sent."""
    for name, value in headers:
        if not {0, 10, 13}.isdisjoint(value):
            return name.decode("ascii", "replace")
    return "unknown"


def _refused_header(what: str, problem: str) -> GatewayError:
    return GatewayError(
        f"Nothing was sent upstream: {what!r} {problem}. Mend the provider's headers or key.",
        code="invalid_upstream_header",
    )
