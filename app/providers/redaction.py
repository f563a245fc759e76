"""Take our own secrets out of what an upstream says in an error: careless ones tell the key back."""

from __future__ import annotations

from app.domain.model_call import Headers

_HARMLESS = frozenset({b"user-agent", b"anthropic-version", b"anthropic-beta", b"openai-beta"})
_BEARER = b"Bearer "
_SHORTEST = 8
"""A shorter value is no secret, and would be found in ordinary words."""
_SHOWN = b"[redacted]"


def redacted(body: bytes, headers: Headers) -> bytes:
    """``body`` without the values of ``headers`` that the upstream was sent."""
    for name, value in headers:
        secret = value.removeprefix(_BEARER)
        if name not in _HARMLESS and len(secret) >= _SHORTEST:
            body = body.replace(secret, _SHOWN)
    return body
