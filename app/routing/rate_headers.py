"""Vendors' rate-limit headers: how long to hold a deployment.

Two families are read: ``x-ratelimit-remaining-requests`` with ``x-ratelimit-reset-requests: 6m0s``
(OpenAI and those who copy it), and ``anthropic-ratelimit-requests-remaining`` with an RFC 3339 instant in
``-reset``. Anything that does not parse is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_SPELLINGS = (
    (b"x-ratelimit-remaining-", b"", b"x-ratelimit-reset-"),
    (b"anthropic-ratelimit-", b"-remaining", b"anthropic-ratelimit-"),
)


def hold_s(headers: Iterable[tuple[bytes, bytes]], now_unix_s: float) -> float | None:
    """Seconds until the spent limits reset; None while every limit has something left."""
    named = dict(headers)
    longest: float | None = None
    for name, value in named.items():
        for prefix, suffix, reset in _SPELLINGS:
            if not (name.startswith(prefix) and name.endswith(suffix) and value.strip() == b"0"):
                continue
            what = name[len(prefix) : len(name) - len(suffix)]
            tail = b"-reset" if suffix else b""
            wait_s = _wait_s(named.get(reset + what + tail, b""), now_unix_s)
            if wait_s is not None:
                longest = wait_s if longest is None else max(longest, wait_s)
    return longest


def _wait_s(value: bytes, now_unix_s: float) -> float | None:
    """The seconds that ``6m0s``, ``0.5`` or an RFC 3339 instant means; None for anything else."""
    text = value.decode("ascii", "replace").strip()[:64]
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        return max(0.0, float(text)) if "-" not in text else _until(text, now_unix_s)
    except (ValueError, OverflowError):
        return None


def _until(text: str, now_unix_s: float) -> float:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(text)
    return max(0.0, at.timestamp() - now_unix_s)
