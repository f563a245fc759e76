"""Who a caller is and what it may do: the value behind a gateway key, without the key itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a key or a tenant may use; None: as much as it likes."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Prompt and output tokens of calls that reached a model; kept answers cost none."""
    concurrent_requests: int | None = None
    """Requests being answered at once, streams above all."""
    usd_per_day: float | None = None
    """Money for calls within one UTC day."""
    usd_per_month: float | None = None
    """Money for calls within one UTC month."""

    @property
    def any(self) -> bool:
        """Say whether anything is limited."""
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
    """What a key stands for. ``None`` for a set of names means all of them."""

    id: str
    """Public: it stands in the key, in lists and in logs."""
    tenant: str
    name: str = ""
    family: str = ""
    """The first key of a chain of rotations: limits are counted for the chain, not for each link."""
    models: frozenset[str] | None = None
    """Names that it may send as ``model``, ``auto`` among them if it may be routed."""
    tools: frozenset[str] | None = None
    """Tools of the gateway's that agents may call for it."""
    agents: frozenset[str] | None = None
    """Agents that it may run."""
    admin: bool = False
    """It may see and change what is not its tenant's alone."""
    expires_unix_s: float | None = None
    revoked: bool = False
    limits: Limits = UNLIMITED

    @property
    def usage_key(self) -> str:
        """Under what name its use is counted."""
        return self.family or self.id


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is known: its SHA-256 and what it stands for."""

    digest: bytes
    access: Access
    created_unix_s: float = 0.0
