"""Errors of the simulated vendor, before they are written in a dialect."""

from __future__ import annotations


class RefusedError(Exception):
    """A request that is answered with an error: HTTP status, the vendor's kind, the field at fault.

    `kind` is one of the stable words below; each dialect maps it to its own `type` and `code`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request",
        param: str | None = None,
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.status = status
        self.kind = kind
        self.param = param
        self.retry_after_s: int | None = None


class PeerLeftError(Exception):
    """The client disconnected while its request was in progress."""
