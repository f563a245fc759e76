"""Whole error responses for connections whose request is not known yet, built once."""

from __future__ import annotations


def _refusal(status: bytes, kind: bytes, code: bytes, message: bytes, more: bytes = b"") -> bytes:
    """A whole error response that every dialect's clients can read."""
    error = b'{"message":"%s","type":"%s","param":null,"code":"%s"}' % (message, kind, code)
    body = b'{"type":"error","error":%s}' % error
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s"
    return head % (status, len(body), more) + b"connection: close\r\n\r\n" + body


TIMEOUT_RESPONSE = _refusal(
    b"408 Request Timeout",
    b"timeout_error",
    b"request_timeout",
    b"the request was not whole in time: send it faster",
    b"retry-after: 1\r\n",
)
"""For a client that sends too slowly."""
TOO_LARGE_RESPONSE = _refusal(
    b"431 Request Header Fields Too Large",
    b"invalid_request_error",
    b"head_too_large",
    b"the head is over 64 KiB",
)
"""For a client whose request head is too long."""
