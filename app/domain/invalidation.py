"""Which cache entries to invalidate: shared by the caches, the invalidation log and its wire format."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InvalidationFilter:
    """Entries that match all that is given; ``entry_id`` selects one entry and is then the only criterion."""

    tenant: str
    model: str = ""
    tags: tuple[str, ...] = ()
    """Any of them."""
    entry_id: str = ""
