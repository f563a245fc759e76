"""What is read of a request before anything is decided: its id, and its body."""

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
_NOT_JSON = "the body is not valid JSON"
_NOT_READ: Json = {}


def request_id_of(presented: bytes | None) -> str:
    """The caller's own request id if it is well formed, else a new one."""
    if presented is not None and _REQUEST_ID.fullmatch(presented):
        return presented.decode("ascii")
    # Unique, not secret: this process's own beginning, and a number.
    return _OURS_BEGIN + str(next(_number))


def vendor_id_line(dialect: Dialect, request_id: str) -> bytes:
    """The line from which the ``anthropic`` package reads an error's request id; it asks for no ``x-``."""
    return b"request-id: %s\r\n" % request_id.encode() if dialect is Dialect.MESSAGES else b""


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
    """The request of a body that is plain: decoded only for who looks into it."""
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
    """A plain request: its reading says all that most turns ask."""

    __slots__ = ("_read",)
    _read: Json

    @property
    def body(self) -> Json:
        """The parsed body, read when somebody first asks."""
        if self._read is _NOT_READ:
            self._read = parse(self.raw)
        return self._read

    @body.setter
    def body(self, body: Json) -> None:
        self._read = body
