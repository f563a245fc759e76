"""Authentication: the gateway's own keys, from ``Authorization: Bearer`` or ``x-api-key``.

Keys are stored as SHA-256 digests, which are compared in constant time, so that response times reveal nothing
about a key. A key that was verified once is found in a dict by its bytes: Python's string hash is keyed per
process, so a guess reaches a comparison of bytes only if it collides in all 64 bits. An ordinary request is
therefore authenticated by one dict lookup.

If keys are not required, a call without one belongs to the tenant ``default``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Protocol

from app.domain.access import Access, Key
from app.errors import Forbidden, StoreError, Unauthenticated

if TYPE_CHECKING:
    from app.api.admission import Guard

DEFAULT_TENANT = "default"
_BEARER = b"bearer "
_MAX_CALLERS = 4096


class KeySource(Protocol):
    """Stored keys, which may change while the gateway runs."""

    def moved(self) -> bool:
        """Whether they changed since the last call; called for every request."""
        ...

    def read(self) -> Sequence[Key]:
        """Read all keys; raises ``StoreError``."""
        ...


@dataclass(slots=True)
class Caller:
    """An authenticated (or anonymous) client."""

    tenant: str
    access: Access | None = None
    """None: anonymous, where keys are not required."""
    may_expire: bool = False
    """Its key was revoked or has an expiry date, so it is checked on every call."""
    guard: Guard | None = None
    """Its limits; None: it has none."""


def digest(key: str) -> bytes:
    """The form in which keys are stored and compared."""
    return sha256(key.encode()).digest()


def _no_guard(_tenant: str, _access: Access | None) -> None:
    """No guard for anybody."""


def _ignore_source_error(_why: str | None) -> None:
    """Do nothing."""


class Authenticator:
    """Maps keys to callers; owned by one event loop."""

    def __init__(
        self,
        keys: Sequence[Key],
        *,
        required: bool,
        source: KeySource | None = None,
        guard: Callable[[str, Access | None], Guard | None] = _no_guard,
        wall_clock: Callable[[], float] = time.time,
        on_source: Callable[[str | None], None] = _ignore_source_error,
    ) -> None:
        """Accept ``keys`` and those of ``source``; with ``required`` nobody else.

        ``guard`` returns the limits of a caller; ``wall_clock`` gives Unix seconds; ``on_source`` is called
        with the reason why ``source`` cannot be read, and with None when it can be read again.
        """
        self._required = required
        self._own = {key.digest: key for key in keys}
        self._source, self._wall_clock, self._on_source = source, wall_clock, on_source
        self._keys: dict[bytes, Key] = dict(self._own)
        self._admin_key_needed = required or bool(keys)
        self._guard = guard
        self._anonymous = Caller(DEFAULT_TENANT, guard=guard(DEFAULT_TENANT, None))
        self._callers: dict[bytes, Caller] = {}

    def caller(self, authorization: bytes | None, api_key: bytes | None) -> Caller:
        """The owner of the key in either header.

        Raises ``Unauthenticated`` for a missing or unknown key if keys are required, and for a revoked or
        expired one in any case. If keys are not required, an unknown one is ignored: vendors' clients always
        send one.
        """
        if self._source is not None and self._source.moved():
            self._reload()
        if not self._keys and not self._required:
            return self._anonymous
        presented = api_key or _bearer(authorization)
        caller = self._callers.get(presented) if presented else None
        if caller is None:
            caller = self._look_up(presented)
        if caller.may_expire and caller.access is not None:
            self._check(caller.access)
        return caller

    def admin(self, caller: Caller) -> Caller:
        """``caller``, if it may use routes that concern more than its tenant.

        If keys are required, or any exists, that needs an admin key: raises ``Unauthenticated`` without a key
        and ``Forbidden`` without admin rights.
        """
        if not self._admin_key_needed:
            return caller
        if caller.access is None:
            message = "this route needs an admin key: send it as 'Authorization: Bearer KEY'"
            raise Unauthenticated(message, code="missing_api_key")
        if not caller.access.admin:
            message = "this route needs an admin key: `slipstream keys new --admin` creates one"
            raise Forbidden(message, code="admin_key_required")
        return caller

    def is_admin(self, caller: Caller) -> bool:
        """Whether ``admin`` accepts ``caller``."""
        return not self._admin_key_needed or (caller.access is not None and caller.access.admin)

    def _look_up(self, presented: bytes | None) -> Caller:
        if presented:
            found = sha256(presented).digest()
            key = self._keys.get(found)
            if key is not None and compare_digest(key.digest, found):
                access = key.access
                ends = access.revoked or access.expires_unix_s is not None
                guard = self._guard(access.tenant, access)
                caller = Caller(access.tenant, access, ends, guard)
                if len(self._callers) >= _MAX_CALLERS:
                    self._callers.clear()
                self._callers[presented] = caller
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

    def _check(self, access: Access) -> None:
        if access.revoked:
            raise Unauthenticated(f"the key {access.id} was revoked", code="revoked_api_key")
        expires_s = access.expires_unix_s
        if expires_s is not None and self._wall_clock() >= expires_s:
            raise Unauthenticated(f"the key {access.id} has expired", code="expired_api_key")

    def _reload(self) -> None:
        """Read the source's keys again. If that fails, none of its keys is accepted."""
        assert self._source is not None  # noqa: S101 - the caller asked it
        self._callers.clear()
        try:
            stored = self._source.read()
        except StoreError as error:
            self._keys, self._admin_key_needed = dict(self._own), True
            self._on_source(error.message)
            return
        self._keys = {key.digest: key for key in stored} | self._own
        self._admin_key_needed = self._required or bool(self._keys)
        self._on_source(None)


def _bearer(authorization: bytes | None) -> bytes | None:
    if authorization is None or authorization[: len(_BEARER)].lower() != _BEARER:
        return None
    return authorization[len(_BEARER) :].strip()
