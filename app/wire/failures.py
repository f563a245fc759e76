"""Error bodies in the two vendors' shapes: parse an upstream's, serialise the client's.

The neutral kinds are those of ``UpstreamStatus``: ``invalid_request``, ``authentication``,
``permission``, ``not_found``, ``too_large``, ``rate_limit``, ``overloaded``, ``server``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

import msgspec

from app.domain.chat import Json
from app.errors import GatewayError, Unsupported, UpstreamStatus

_KIND_BY_STATUS = {
    400: "invalid_request",
    401: "authentication",
    402: "permission",
    403: "permission",
    404: "not_found",
    405: "invalid_request",
    408: "server",
    409: "invalid_request",
    413: "too_large",
    422: "invalid_request",
    429: "rate_limit",
    503: "overloaded",
    529: "overloaded",
}

_OPENAI_TYPE = {
    "invalid_request": "invalid_request_error",
    "authentication": "authentication_error",
    "permission": "permission_error",
    "not_found": "invalid_request_error",
    "too_large": "invalid_request_error",
    "rate_limit": "rate_limit_error",
    "overloaded": "server_error",
    "server": "server_error",
}

_ANTHROPIC_TYPE = {
    "invalid_request": "invalid_request_error",
    "authentication": "authentication_error",
    "permission": "permission_error",
    "not_found": "not_found_error",
    "too_large": "request_too_large",
    "rate_limit": "rate_limit_error",
    "overloaded": "overloaded_error",
    "server": "api_error",
}

_KIND_BY_TYPE = {
    "invalid_request_error": "invalid_request",
    "authentication_error": "authentication",
    "billing_error": "permission",
    "permission_error": "permission",
    "not_found_error": "not_found",
    "request_too_large": "too_large",
    "rate_limit_error": "rate_limit",
    "rate_limit_exceeded": "rate_limit",
    "insufficient_quota": "rate_limit",
    "tokens": "rate_limit",
    "requests": "rate_limit",
    "overloaded_error": "overloaded",
    "timeout_error": "server",
    "api_error": "server",
    "server_error": "server",
}

_STATUS_BY_KIND = {
    "invalid_request": 400,
    "authentication": 401,
    "permission": 403,
    "not_found": 404,
    "too_large": 413,
    "rate_limit": 429,
    "overloaded": 529,
    "server": 500,
}

_MAX_MESSAGE_CHARS = 2000
_MAX_CODE_CHARS = 64
_SERVER_ERROR = 500


def kind_of(error: GatewayError) -> str:
    """The neutral kind of any gateway error."""
    if isinstance(error, UpstreamStatus):
        return error.kind
    return _kind_by_status(error.status)


def _kind_by_status(status: int) -> str:
    known = _KIND_BY_STATUS.get(status)
    if known is not None:
        return known
    return "server" if status >= _SERVER_ERROR else "invalid_request"


def openai_error(error: GatewayError) -> dict[str, object]:
    """OpenAI's ``error`` object."""
    return {
        "message": error.message,
        "type": _OPENAI_TYPE.get(kind_of(error), "server_error"),
        "param": error.param,
        "code": _code(error),
    }


def anthropic_error(error: GatewayError, request_id: str) -> dict[str, object]:
    """Anthropic's error envelope; ``param`` is our extension, which its SDK ignores."""
    inner: dict[str, object] = {
        "type": _ANTHROPIC_TYPE.get(kind_of(error), "api_error"),
        "message": error.message,
        "code": _code(error),
    }
    if error.param is not None:
        inner["param"] = error.param
    if error.param == "thread" and isinstance(error, Unsupported):
        # The vendor's own code for a lost thread: its client then resends the whole history.
        inner["details"] = {"error_code": "thread_unsupported_request", "unsupported": ["model"]}
    return {"type": "error", "error": inner, "request_id": request_id or None}


def read_error_answer(
    status: int, body: bytes, headers: Mapping[bytes, bytes], now_s: Callable[[], float] = time.time
) -> UpstreamStatus:
    """Parse an upstream's error response, in either vendor's shape or in none."""
    inner = _error_object(body)
    message = _message(inner) or f"The upstream answered with status {status}."
    return UpstreamStatus(
        message,
        status=status,
        body=body,
        kind=_kind(status, inner),
        content_type=headers.get(b"content-type", b"application/json"),
        retry_after_s=retry_after_s(headers, now_s),
        param=_text(inner.get("param")) or None,
    )


def read_stream_error(inner: object, data: bytes = b"") -> UpstreamStatus:
    """An in-stream error, ``data`` its event; the status is derived from its kind or code."""
    obj = (
        inner
        if isinstance(inner, Mapping)
        else {"message": inner if isinstance(inner, str) else ""}
    )
    kind = _kind_by_type_or_code(obj)
    status = _STATUS_BY_KIND[kind]
    code = obj.get("code")
    if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600:  # noqa: PLR2004
        status, kind = code, _kind_by_status(code)
    return UpstreamStatus(
        _message(obj) or "The upstream reported an error inside its stream.",
        status=status,
        body=data,
        kind=kind,
        param=_text(obj.get("param")) or None,
    )


def _code(error: GatewayError) -> str:
    """The code for the client: the vendor's own where there is one, because clients switch on it.

    ``error.code`` stays ours, because it is a metric label.
    """
    if isinstance(error, UpstreamStatus):
        code = _error_object(error.body).get("code")
        if isinstance(code, str) and code and len(code) <= _MAX_CODE_CHARS and code.isascii():
            return code
    return error.code


def _error_object(body: bytes) -> Json:
    try:
        value: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return {}
    inner = value.get("error", value)
    if isinstance(inner, str):
        return {"message": inner}
    return inner if isinstance(inner, dict) else value


def _message(inner: Json) -> str:
    for key in ("message", "detail", "msg"):
        value = inner.get(key)
        if isinstance(value, str) and value:
            return value[:_MAX_MESSAGE_CHARS]
    return ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _kind(status: int, inner: Json) -> str:
    # The status decides, except where a vendor uses one status for several kinds.
    by_type = _KIND_BY_TYPE.get(_text(inner.get("type")))
    if status == 400 and by_type in {"too_large", "not_found", "authentication"}:  # noqa: PLR2004
        return by_type
    if by_type == "overloaded":
        return by_type
    return _kind_by_status(status)


def _kind_by_type_or_code(inner: Json) -> str:
    for key in ("type", "code"):
        kind = _KIND_BY_TYPE.get(_text(inner.get(key)))
        if kind is not None:
            return kind
    return "server"


def retry_after_s(
    headers: Mapping[bytes, bytes], now_s: Callable[[], float] = time.time
) -> float | None:
    """Seconds to wait by ``retry-after-ms`` or ``retry-after`` (seconds or a date), else None."""
    milliseconds = _number(headers.get(b"retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get(b"retry-after")
    if value is None:
        return None
    seconds = _number(value)
    if seconds is not None:
        return seconds
    try:
        moment = parsedate_to_datetime(value.decode("latin-1"))
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, moment.timestamp() - now_s())


def _number(value: bytes | None) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    # Only a finite, not negative time is a time (NaN compares false).
    return number if 0 <= number < float("inf") else None
