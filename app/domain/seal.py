"""The port of encryption at rest; ``app.stores.seal`` is what stands behind it."""

from __future__ import annotations

from typing import Protocol


class Seal(Protocol):
    """Encryption of what is kept outside this process."""

    def seal(self, data: bytes, about: bytes) -> bytes:
        """``data`` sealed, and tied to what it is ``about``."""
        ...

    def open(self, data: bytes, about: bytes) -> bytes:
        """What was sealed; raises ``StoreError`` where it was not, was changed or is about something else."""
        ...
