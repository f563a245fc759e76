"""The identity and permissions behind a gateway key, without the key itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Usage limits of a key or a tenant; None: unlimited."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Prompt and output tokens of calls that reached a model; cached answers cost none."""
    concurrent_requests: int | None = None
    """Requests in flight at once, streams included."""
    usd_per_day: float | None = None
    """Cost of upstream calls within one UTC day."""
    usd_per_month: float | None = None
    """Cost of upstream calls within one UTC month."""

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return any(
            limit is not None
            for limit in (
                self.requests_per_minute,
                self.tokens_per_minute,
                self.concurrent_requests,
                self.usd_per_day,
                self.usd_per_month,
            )
        )


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Access:
    """What a key grants. ``None`` for a set of names means all of them."""

    id: str
    """Public: part of the key, shown in lists and logs."""
    tenant: str
    name: str = ""
    family: str = ""
    """Id of the first key in a chain of rotations: limits are counted for the chain."""
    models: frozenset[str] | None = None
    """Values allowed as ``model``; ``auto`` must be included to allow routing."""
    tools: frozenset[str] | None = None
    """Gateway tools that agents may call for it."""
    agents: frozenset[str] | None = None
    """Agents that it may run."""
    admin: bool = False
    """May read and change data beyond its own tenant."""
    expires_unix_s: float | None = None
    revoked: bool = False
    limits: Limits = UNLIMITED

    @property
    def usage_key(self) -> str:
        """The id under which its usage is counted."""
        return self.family or self.id


@dataclass(frozen=True, slots=True)
class Key:
    """A stored key: its SHA-256 and what it grants."""

    digest: bytes
    access: Access
    created_unix_s: float = 0.0
