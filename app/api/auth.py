"""Who calls: the gateway's own keys, from ``Authorization: Bearer`` or ``x-api-key``, and what they may.

A key is known by its SHA-256 digest, and digests are compared in constant time, so that the time an
answer takes says nothing about a key. What was looked up once is remembered by the key itself in a
table whose hash is keyed anew in each process: a guess reaches a comparison of bytes only when it
collides in all 64 bits of it. So an ordinary request is authenticated by one look into that table.

A call without a key belongs to the tenant ``default`` where keys are not required.
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
_REMEMBERED = 4096


class KeySource(Protocol):
    """Keys that come and go while the gateway runs."""

    def moved(self) -> bool:
        """Say whether they changed since this was last asked; asked for every request."""
        ...

    def read(self) -> Sequence[Key]:
        """All of them; raises ``StoreError``."""
        ...


@dataclass(slots=True)
class Caller:
    """Who calls."""

    tenant: str
    access: Access | None = None
    """None: nobody in particular, where keys are not required."""
    ends: bool = False
    """It was revoked, or will expire."""
    guard: Guard | None = None
    """What limits it; None: nothing does."""


def digest(key: str) -> bytes:
    """The form in which keys are kept and compared."""
    return sha256(key.encode()).digest()


def _unguarded(_tenant: str, _access: Access | None) -> None:
    """Limit nobody."""


def _untold(_why: str | None) -> None:
    """Tell nobody."""


class Authenticator:
    """Knows the keys; one event loop owns it."""

    def __init__(
        self,
        keys: Sequence[Key],
        *,
        required: bool,
        source: KeySource | None = None,
        guard: Callable[[str, Access | None], Guard | None] = _unguarded,
        wall_clock: Callable[[], float] = time.time,
        on_source: Callable[[str | None], None] = _untold,
    ) -> None:
        """Accept ``keys`` and those of ``source``; with ``required`` accept nobody else.

        ``guard`` gives what stands before a caller; ``wall_clock`` gives Unix seconds; ``on_source`` is
        told why ``source`` cannot be read, and None when it can.
        """
        self._required = required
        self._own = {key.digest: key for key in keys}
        self._source, self._wall_clock, self._on_source = source, wall_clock, on_source
        self._keys: dict[bytes, Key] = dict(self._own)
        self._closed = required or bool(keys)
        self._guard = guard
        self._anonymous = Caller(DEFAULT_TENANT, guard=guard(DEFAULT_TENANT, None))
        self._remembered: dict[bytes, Caller] = {}

    def caller(self, authorization: bytes | None, api_key: bytes | None) -> Caller:
        """The owner of the key in either header's value.

        Raises ``Unauthenticated`` for an unknown key where keys are required, or for none at all
        there, and for one that was revoked or has expired anywhere. Where keys are not required an
        unknown one is ignored: clients of the vendors always send something.
        """
        if self._source is not None and self._source.moved():
            self._read_again()
        if not self._keys and not self._required:
            return self._anonymous
        presented = api_key or _bearer(authorization)
        caller = self._remembered.get(presented) if presented else None
        if caller is None:
            caller = self._look_up(presented)
        if caller.ends and caller.access is not None:
            self._check(caller.access)
        return caller

    def admin(self, caller: Caller) -> Caller:
        """``caller``, if it may do what is not its tenant's alone.

        Where a key is required or any exists that takes a key with admin rights: raises
        ``Unauthenticated`` without a key and ``Forbidden`` without the right.
        """
        if not self._closed:
            return caller
        if caller.access is None:
            message = "this takes an admin key: send it as 'Authorization: Bearer KEY'"
            raise Unauthenticated(message, code="missing_api_key")
        if not caller.access.admin:
            message = "this takes an admin key: `slipstream keys new --admin` makes one"
            raise Forbidden(message, code="admin_key_required")
        return caller

    def is_admin(self, caller: Caller) -> bool:
        """Whether ``admin`` lets ``caller`` through."""
        return not self._closed or (caller.access is not None and caller.access.admin)

    def _look_up(self, presented: bytes | None) -> Caller:
        if presented:
            found = sha256(presented).digest()
            key = self._keys.get(found)
            if key is not None and compare_digest(key.digest, found):
                access = key.access
                ends = access.revoked or access.expires_unix_s is not None
                guard = self._guard(access.tenant, access)
                caller = Caller(access.tenant, access, ends, guard)
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

    def _check(self, access: Access) -> None:
        if access.revoked:
            raise Unauthenticated(f"the key {access.id} was revoked", code="revoked_api_key")
        expires_s = access.expires_unix_s
        if expires_s is not None and self._wall_clock() >= expires_s:
            raise Unauthenticated(f"the key {access.id} has expired", code="expired_api_key")

    def _read_again(self) -> None:
        """Take the source's keys anew. One that cannot be read opens nothing: its keys are unknown."""
        assert self._source is not None  # noqa: S101 - the caller asked it
        self._remembered.clear()
        try:
            stored = self._source.read()
        except StoreError as error:
            self._keys, self._closed = dict(self._own), True
            self._on_source(error.message)
            return
        self._keys = {key.digest: key for key in stored} | self._own
        self._closed = self._required or bool(self._keys)
        self._on_source(None)


def _bearer(authorization: bytes | None) -> bytes | None:
    if authorization is None or authorization[: len(_BEARER)].lower() != _BEARER:
        return None
    return authorization[len(_BEARER) :].strip()
