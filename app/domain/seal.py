"""The port of encryption at rest; ``app.stores.seal`` implements it."""

from __future__ import annotations

from typing import Protocol


class Seal(Protocol):
    """Authenticated encryption of data stored outside this process."""

    def seal(self, data: bytes, about: bytes) -> bytes:
        """Encrypt ``data`` with ``about`` as associated data."""
        ...

    def open(self, data: bytes, about: bytes) -> bytes:
        """Decrypt; raises ``StoreError`` for data that is not sealed, altered, or about something else."""
        ...
