"""Take our own secrets out of what an upstream says in an error: careless ones tell the key back."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.events import Event, Frames
from app.domain.model_call import Headers
from app.errors import UpstreamError, UpstreamStatus

_HARMLESS = frozenset({b"user-agent", b"anthropic-version", b"anthropic-beta", b"openai-beta"})
_BEARER = b"Bearer "
_SHORTEST = 8
"""A shorter value is no secret, and would be found in ordinary words."""
_SHOWN = b"[redacted]"


def redact(body: bytes, headers: Headers) -> bytes:
    """``body`` without the values of ``headers`` that the upstream was sent."""
    for name, value in headers:
        secret = value.removeprefix(_BEARER)
        if name not in _HARMLESS and len(secret) >= _SHORTEST:
            # JSON may spell a slash with a backslash before it.
            body = body.replace(secret, _SHOWN).replace(secret.replace(b"/", b"\\/"), _SHOWN)
    return body


def redact_failure(
    failure: UpstreamError, events: Sequence[Event], headers: Headers
) -> list[Event]:
    """``events`` that told ``failure`` in a stream, and ``failure`` itself, without those values."""
    failure.message = redact(failure.message.encode(), headers).decode("utf-8", "replace")
    failure.args = (failure.message,)
    if isinstance(failure, UpstreamStatus):
        failure.body = redact(failure.body, headers)
    return [
        Frames(redact(event.data, headers), event.count) if type(event) is Frames else event
        for event in events
    ]
