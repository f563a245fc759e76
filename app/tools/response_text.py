"""A tool server's response as UTF-8 text, with the secrets of its own request redacted.

A server in debug mode, or one that forwards an error, echoes the request with its headers. The response
goes to a model, a client and the console, so secret values of the call's headers and query are redacted.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from app.domain.tools import template_fields

_BOM = codecs.BOM_UTF8
_SECRET = re.compile(r"auth|key|token|secret|passw|cookie|credential|signature", re.IGNORECASE)
"""Matches the names of headers and query parameters that hold a secret."""
_SHORTEST_SECRET = 8
"""A shorter value is not redacted: it would match ordinary words."""
_REDACTED = b"[redacted]"
_CHARSET = re.compile(rb"charset\s*=\s*\"?([A-Za-z0-9_.:-]+)", re.IGNORECASE)
_TEXT_CODECS = ("utf", "iso8859", "latin", "cp", "shift_jis", "euc", "gb", "big5", "koi8", "mac")
"""The beginnings of the codecs' names that are character sets; the others are games, or slow."""


def secrets_of(headers: Mapping[str, str], url: str) -> tuple[bytes, ...]:
    """Secret values of a call's declared headers and URL, longest first."""
    values = [value for name, value in headers.items() if _SECRET.search(name)]
    values += [value for name, value in parse_qsl(url.partition("?")[2]) if _SECRET.search(name)]
    user = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
    values.append(user.partition(":")[2])
    words = {
        word for value in values if not template_fields(value) for word in (value, *value.split())
    }
    kept = [word.encode() for word in words if len(word) >= _SHORTEST_SECRET]
    return tuple(sorted(kept, key=len, reverse=True))


def redact(secrets: tuple[bytes, ...], body: bytes) -> bytes:
    """``body`` with each of ``secrets`` replaced."""
    for secret in secrets:
        if secret in body:
            body = body.replace(secret, _REDACTED)
        slashed = secret.replace(b"/", b"\\/")  # as JSON may spell it
        if slashed is not secret and slashed in body:
            body = body.replace(slashed, _REDACTED)
    return body


def in_utf8(body: bytes, content_type: bytes) -> bytes:
    """``body`` in UTF-8, from the character set that its type declares, without a byte order mark."""
    declared = _CHARSET.search(content_type)
    if declared is not None:
        try:
            name = codecs.lookup(declared[1].decode()).name
        except LookupError:
            name = "utf-8"
        if name not in {"utf-8", "ascii"} and name.startswith(_TEXT_CODECS):
            return body.decode(name, "replace").encode()
    return body.removeprefix(_BOM)
