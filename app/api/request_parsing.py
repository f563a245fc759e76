"""Parsing of requests: the request's id and its body."""

from __future__ import annotations

import re
from itertools import count
from random import SystemRandom

import msgspec

from app.domain.chat import ChatRequest, Dialect, Json, PlainRequest
from app.domain.model_call import Headers
from app.errors import BadRequest

_decode = msgspec.json.Decoder().decode
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
_OURS_BEGIN = f"req_{SystemRandom().getrandbits(64):016x}"
_number = count(1)
_VENDOR_ID = b"request-id: "
_NOT_JSON = "the body is not valid JSON"
_NOT_READ: Json = {}


def request_id_of(presented: bytes | None) -> str:
    """The caller's own request id if it is well formed, else a new one."""
    if presented is not None and _REQUEST_ID.fullmatch(presented):
        return presented.decode("ascii")
    # Unique, not secret: this process's own beginning, and a number.
    return _OURS_BEGIN + str(next(_number))


def vendor_id_line(dialect: Dialect, request_id: str, vendors: bytes = b"") -> bytes:
    """The ``request-id`` header line of a Messages response, which the ``anthropic`` package reads.

    Empty in other dialects, and where ``vendors``, the vendor's forwarded lines, hold the vendor's own.
    """
    if dialect is not Dialect.MESSAGES or _VENDOR_ID in vendors:
        return b""
    return b"%s%s\r\n" % (_VENDOR_ID, request_id.encode())


def without_vendor_id(headers: Headers) -> Headers:
    """The vendor's headers for an error of the gateway's own, whose id is not that of the vendor's answer."""
    return tuple(header for header in headers if header[0] != b"request-id")


def parse(raw: bytes) -> dict[str, object]:
    """The body as a JSON object; raises ``BadRequest``."""
    try:
        body = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequest(f"{_NOT_JSON}: {exc}", code="invalid_json") from exc
    if not isinstance(body, dict):
        kind = type(body).__name__
        raise BadRequest(f"the body must be a JSON object, not {kind}", code="invalid_json")
    return body


def plain_request(
    dialect: Dialect, plain: PlainRequest, raw: bytes, forward: Headers
) -> ChatRequest:
    """The request of a plain body, which is decoded only on access."""
    return _Unread(
        dialect,
        plain.model,
        plain.stream,
        _NOT_READ,
        raw,
        plain.include_usage,
        forward,
        plain,
    )


class _Unread(ChatRequest):
    """A plain request: what was parsed is all that most turns need."""

    __slots__ = ("_read",)
    _read: Json

    @property
    def body(self) -> Json:
        """The parsed body, decoded on first access."""
        if self._read is _NOT_READ:
            self._read = parse(self.raw)
        return self._read

    @body.setter
    def body(self, body: Json) -> None:
        self._read = body
