"""What is to be forgotten: one word for it in the cache, the log of invalidations and on the wire."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InvalidationFilter:
    """Entries that match all that is given; ``entry_id`` names one entry and then stands alone."""

    tenant: str
    model: str = ""
    tags: tuple[str, ...] = ()
    """Any of them."""
    entry_id: str = ""
