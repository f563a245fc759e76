"""Every failure the gateway can name, as one tree, split by who can act on it.

::

    GatewayError
    ├── ClientError                 the caller can fix the request
    │   ├── BadRequest              400  malformed or contradictory input; ``param`` names the field
    │   ├── Unsupported             400  valid, but the target cannot carry the field ``param``
    │   ├── Unauthenticated         401  no key, or an unknown one
    │   ├── Forbidden               403  a known key without the right
    │   ├── NotFound                404  unknown model, run, entry or path
    │   ├── MethodNotAllowed        405  the path exists, the method does not
    │   ├── Conflict                409  e.g. an idempotency key used with another body
    │   ├── TooLarge                413  body, message or result over its limit
    │   ├── UnsupportedContentEncoding  415  a ``content-encoding`` that is not read
    │   └── RateLimited             429  ``retry_after_s`` says when
    ├── CacheOnlyMiss               504  the caller accepts only a cache hit, and there is none
    ├── Overloaded                  503  the operator can add capacity; ``retry_after_s``
    ├── ShuttingDown                503  the worker stops before the answer is complete: retry
    ├── DeadlineExceeded            504  the caller's or the operator's deadline has passed
    ├── UpstreamError               the provider's side
    │   ├── UpstreamStatus          the provider's own 4xx/5xx, its body kept for its own dialect
    │   ├── UpstreamTimeout         504  ``phase``: queue, connect, tls, first_byte, between_bytes, total
    │   ├── UpstreamRefused         502  DNS, connect or TLS failed: nothing was sent
    │   ├── UpstreamClosed          502  the connection ended before the message did
    │   └── UpstreamProtocol        502  the response is not HTTP, or not the dialect
    ├── ToolError                   a tool failed; the model and the client see it, the run goes on
    ├── StoreError                  Redis, Qdrant or disk; degradable: callers skip the store
    └── SettingsError               the operator can fix the configuration (defined in ``app.settings``)

``code`` is stable and of low cardinality: it is the metric label and the ``code`` of the answer. The message
says what, where and what to do, and never holds a prompt, an answer or a key.
"""

from __future__ import annotations

_SERVER_ERROR = 500


class GatewayError(Exception):
    """Base of all named failures; ``status`` is what a client gets when nothing was sent yet."""

    status: int = 500
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """``param``: the field at fault as a dotted path; ``retry_after_s``: when to retry, in seconds."""
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.param = param
        self.retry_after_s = retry_after_s


class ClientError(GatewayError):
    """The caller can fix the request."""

    status = 400
    code = "invalid_request"


class BadRequest(ClientError):
    """Malformed or contradictory input; ``param`` names the field."""


class Unsupported(ClientError):
    """Well formed, but the chosen target cannot carry the field that ``param`` names."""

    code = "unsupported_parameter"


class Unauthenticated(ClientError):
    """No gateway key, or one that is not known."""

    status = 401
    code = "invalid_api_key"


class Forbidden(ClientError):
    """A known key that lacks the right to do this."""

    status = 403
    code = "forbidden"


class NotFound(ClientError):
    """An unknown model, run, entry or path."""

    status = 404
    code = "not_found"


class MethodNotAllowed(ClientError):
    """The path exists, but not with this method."""

    status = 405
    code = "method_not_allowed"


class Conflict(ClientError):
    """The request contradicts an earlier one with the same idempotency key."""

    status = 409
    code = "conflict"


class TooLarge(ClientError):
    """A body, message or result over its limit."""

    status = 413
    code = "request_too_large"


class UnsupportedContentEncoding(ClientError):
    """The body's ``content-encoding`` is not supported."""

    status = 415
    code = "unsupported_content_encoding"


class RateLimited(ClientError):
    """Over a limit of the key or tenant; ``retry_after_s`` says when to come back."""

    status = 429
    code = "rate_limit_exceeded"
    limited: tuple[tuple[str, int, int, float, float], ...] = ()
    """For the vendors' headers: subject, limit, remaining, seconds until full, that instant (Unix)."""


class CacheOnlyMiss(GatewayError):
    """The caller sent ``x-slipstream-cache: only`` and nothing was cached."""

    status = 504
    code = "cache_only_miss"


class Overloaded(GatewayError):
    """No capacity now; ``retry_after_s`` says when to come back."""

    status = 503
    code = "overloaded"


class ShuttingDown(GatewayError):
    """The worker stops, and the answer was not complete within ``server.shutdown_grace_s``: retry."""

    status = 503
    code = "shutting_down"


class DeadlineExceeded(GatewayError):
    """The caller's or the operator's deadline has passed."""

    status = 504
    code = "deadline_exceeded"


class UpstreamError(GatewayError):
    """The provider's side failed."""

    status = 502
    code = "upstream_error"
    already_reported = False
    """The upstream's own in-stream error frame has already been sent to the client."""

    @property
    def metric_code(self) -> str:
        """The metric label: the code, or a more specific one from the provider's status."""
        return self.code


class UpstreamStatus(UpstreamError):
    """The provider answered with an error status of its own.

    ``body`` is the provider's answer as it came (forwarded to a client of the same dialect); ``kind`` is the
    neutral error type for other dialects (``invalid_request``, ``authentication``, ``permission``,
    ``not_found``, ``too_large``, ``rate_limit``, ``overloaded``, ``server``).
    """

    code = "upstream_status"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        body: bytes = b"",
        kind: str = "server",
        content_type: bytes = b"application/json",
        retry_after_s: float | None = None,
        param: str | None = None,
    ) -> None:
        """Keep the provider's status and body."""
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.status = status
        self.body = body
        self.kind = kind
        self.content_type = content_type

    @property
    def metric_code(self) -> str:
        """Rate limits and overload are counted apart from other statuses."""
        return f"upstream_{self.kind}" if self.kind in {"rate_limit", "overloaded"} else self.code

    @property
    def transient(self) -> bool:
        """Whether a retry, or another deployment, may succeed."""
        return self.status in {408, 409, 429} or self.status >= _SERVER_ERROR


class UpstreamTimeout(UpstreamError):
    """A phase of the upstream call took longer than its limit."""

    status = 504
    code = "upstream_timeout"

    def __init__(self, message: str, *, phase: str) -> None:
        """Keep the phase: queue, connect, tls, first_byte, between_bytes or total."""
        super().__init__(message)
        self.phase = phase


class UpstreamRefused(UpstreamError):
    """DNS, connect or TLS failed: nothing was sent, so a retry is safe."""

    code = "upstream_refused"


class UpstreamClosed(UpstreamError):
    """The connection ended before the message did."""

    code = "upstream_closed"


class UpstreamProtocol(UpstreamError):
    """The response is not HTTP, or not the dialect; the connection is not reused."""

    code = "upstream_protocol"


class ToolError(GatewayError):
    """A tool failed; the model and the client see it and the rest of the run goes on."""

    code = "tool_error"


class StoreError(GatewayError):
    """Redis, Qdrant or the disk failed; callers go on without the store and count it."""

    code = "store_error"
