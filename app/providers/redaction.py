"""Redact our secrets from upstream errors: some upstreams echo the key."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.events import Event, Frames
from app.domain.model_call import Headers
from app.errors import UpstreamError, UpstreamStatus

_HARMLESS = frozenset({b"user-agent", b"anthropic-version", b"anthropic-beta", b"openai-beta"})
_BEARER = b"Bearer "
_SHORTEST = 8
"""Shorter values are not secrets, and would match ordinary words."""
_SHOWN = b"[redacted]"


def redact(body: bytes, headers: Headers) -> bytes:
    """``body`` with the secret values of ``headers`` that were sent upstream replaced."""
    for name, value in headers:
        secret = value.removeprefix(_BEARER)
        if name not in _HARMLESS and len(secret) >= _SHORTEST:
            # JSON may escape a slash with a backslash.
            body = body.replace(secret, _SHOWN).replace(secret.replace(b"/", b"\\/"), _SHOWN)
    return body


def redact_failure(
    failure: UpstreamError, events: Sequence[Event], headers: Headers
) -> list[Event]:
    """Redact ``failure`` in place; returns the ``events`` that reported it, redacted."""
    failure.message = redact(failure.message.encode(), headers).decode("utf-8", "replace")
    failure.args = (failure.message,)
    if isinstance(failure, UpstreamStatus):
        failure.body = redact(failure.body, headers)
    return [
        Frames(redact(event.data, headers), event.count) if type(event) is Frames else event
        for event in events
    ]
