"""How long a pool waits before it opens connections ahead again.

An origin that accepts and hangs up at once must not get a busy loop, so each pause is twice the last. Where
requests use up what is opened the pause stays short: clients that leave end their upstream connections, and
the next client must not meet a cold one for it.
"""

from __future__ import annotations

import time
from typing import Final

_LEAST_S: Final = 0.1
_MOST_S: Final = 30.0


class WarmPause:
    """One pool's; its event loop owns it."""

    def __init__(self) -> None:
        """Begin with the shortest pause."""
        self.taken = False
        """A request took what rested, since ``begin``; the pool says so."""
        self.seconds = _LEAST_S
        self._began_s = 0.0

    def begin(self) -> None:
        """Connections are being opened."""
        self.taken = False
        self._began_s = time.monotonic()

    def over(self) -> None:
        """Settle the next pause by how this round went."""
        healthy = self.taken or time.monotonic() - self._began_s > _MOST_S
        self.seconds = _LEAST_S if healthy else min(2 * self.seconds, _MOST_S)
