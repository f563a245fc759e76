"""Converts the keys and limits of the settings to domain values."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from app.domain.access import Access, Key, Limits
from app.domain.seal import Seal
from app.settings import LimitSettings, Settings


def keys_of(settings: Settings) -> list[Key]:
    """The configured keys. Usage is counted by tenant and name, so that a key can be replaced."""
    return [
        Key(
            sha256(key.key.get_secret_value().encode()).digest(),
            Access(
                id=f"config-{number}",
                tenant=key.tenant,
                name=key.name,
                family=f"config:{key.tenant}:{key.name or number}",
                models=_names(key.models),
                tools=_names(key.tools),
                agents=_names(key.agents),
                admin=key.admin,
                limits=limits_of(key),
            ),
        )
        for number, key in enumerate(settings.auth.keys, 1)
    ]


def seal_of(settings: Settings) -> Seal | None:
    """The encryption of stored data; None if no key is configured."""
    secrets = [each.get_secret_value().encode() for each in settings.state.encryption_keys]
    if not secrets:
        return None
    from app.stores.seal import Sealer  # OpenSSL: only who encrypts loads it

    return Sealer(secrets)


def limits_of(limits: LimitSettings) -> Limits:
    """The limits of a settings section."""
    return Limits(
        limits.requests_per_minute,
        limits.tokens_per_minute,
        limits.concurrent_requests,
        limits.usd_per_day,
        limits.usd_per_month,
    )


def _names(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
