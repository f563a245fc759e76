"""Who calls: the gateway's own keys, from ``Authorization: Bearer`` or ``x-api-key``, and the tenant
they decide.

Keys are compared as SHA-256 digests, so that the time a comparison takes says nothing about a key. A
call without a key belongs to the tenant ``default`` where keys are not required.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from app.errors import RateLimited, Unauthenticated

DEFAULT_TENANT = "default"
_BEARER = b"bearer "
_REMEMBERED = 4096


@dataclass(slots=True)
class Caller:
    """A known key's owner, with the token bucket of its request limit."""

    tenant: str
    name: str = ""
    requests_per_minute: int | None = None
    tokens: float = 0.0
    filled_at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the configuration, as its digest."""

    digest: bytes
    tenant: str
    name: str = ""
    requests_per_minute: int | None = None


def digest(key: str) -> bytes:
    """The form in which keys are kept and compared."""
    return sha256(key.encode()).digest()


class Authenticator:
    """Knows the keys; one event loop owns it."""

    def __init__(
        self,
        keys: Sequence[Key],
        *,
        required: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Accept ``keys``; with ``required`` accept nobody else."""
        self._required = required
        self._clock = clock
        self._callers = {
            key.digest: Caller(
                key.tenant,
                key.name,
                key.requests_per_minute,
                float(key.requests_per_minute or 0),
                clock(),
            )
            for key in keys
        }
        self._anonymous = Caller(DEFAULT_TENANT)
        self._remembered: dict[bytes, Caller] = {}

    def caller(self, authorization: bytes | None, api_key: bytes | None) -> Caller:
        """The owner of the key in either header's value.

        Raises ``Unauthenticated`` for an unknown key where keys are required, or for none at all there, and
        ``RateLimited`` when the owner's requests come faster than its limit. Where keys are not required an
        unknown one is ignored: clients of the vendors always send something.
        """
        if not self._callers and not self._required:
            return self._anonymous
        presented = api_key or _bearer(authorization)
        caller = self._remembered.get(presented) if presented else None
        if caller is None:
            caller = self._look_up(presented)
        if caller.requests_per_minute is not None:
            self._take(caller)
        return caller

    def _look_up(self, presented: bytes | None) -> Caller:
        if presented:
            caller = self._callers.get(sha256(presented).digest())
            if caller is not None:
                if len(self._remembered) >= _REMEMBERED:
                    self._remembered.clear()
                self._remembered[presented] = caller
                return caller
        if not self._required:
            return self._anonymous
        if presented:
            message = "the key is not one of this gateway's: check Authorization or x-api-key"
            raise Unauthenticated(message)
        message = (
            "no key: send the gateway's key as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
        )
        raise Unauthenticated(message, code="missing_api_key")

    def _take(self, caller: Caller) -> None:
        limit = caller.requests_per_minute or 0
        now = self._clock()
        per_s = limit / 60
        caller.tokens = min(float(limit), caller.tokens + (now - caller.filled_at_s) * per_s)
        caller.filled_at_s = now
        if caller.tokens < 1:
            message = f"more than {limit} requests a minute with this key: wait, or ask for a higher limit"
            raise RateLimited(message, retry_after_s=(1 - caller.tokens) / per_s)
        caller.tokens -= 1


def _bearer(authorization: bytes | None) -> bytes | None:
    if authorization is None or authorization[: len(_BEARER)].lower() != _BEARER:
        return None
    return authorization[len(_BEARER) :].strip()
