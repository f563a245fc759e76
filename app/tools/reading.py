"""What a tool's server answered, as data: its text in UTF-8, without the secrets that it was sent.

A server in a debugging mood, or one that forwards an error, tells a request back with its headers. What
it says goes on to a model, a client and the console, so the values of the call's own headers and query that
carry a secret are taken out first.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from app.domain.tools import places

_BOM = codecs.BOM_UTF8
_SECRET = re.compile(r"auth|key|token|secret|passw|cookie|credential|signature", re.IGNORECASE)
"""What is in the name of a header or of a pair of a query that holds one."""
_SHORTEST_SECRET = 8
"""A shorter value is no secret, and would be found in ordinary words."""
_REDACTED = b"[redacted]"
_CHARSET = re.compile(rb"charset\s*=\s*\"?([A-Za-z0-9_.:-]+)", re.IGNORECASE)
_TEXT_CODECS = ("utf", "iso8859", "latin", "cp", "shift_jis", "euc", "gb", "big5", "koi8", "mac")
"""The beginnings of the codecs' names that are character sets; the others are games, or slow."""


def secrets_of(headers: Mapping[str, str], url: str) -> tuple[bytes, ...]:
    """What of a call's declared headers and URL may never be told back, longest first."""
    values = [value for name, value in headers.items() if _SECRET.search(name)]
    values += [value for name, value in parse_qsl(url.partition("?")[2]) if _SECRET.search(name)]
    user = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
    values.append(user.partition(":")[2])
    words = {word for value in values if not places(value) for word in (value, *value.split())}
    kept = [word.encode() for word in words if len(word) >= _SHORTEST_SECRET]
    return tuple(sorted(kept, key=len, reverse=True))


def without(secrets: tuple[bytes, ...], body: bytes) -> bytes:
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
