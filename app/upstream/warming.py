"""The pause before a pool opens warm connections again.

An origin that accepts and hangs up at once must not get a busy loop, so each pause is twice the last. Where
requests use up what is opened the pause stays short: clients that leave end their upstream connections, and
the next client must not meet a cold one for it.
"""

from __future__ import annotations

import time
from typing import Final

_MIN_S: Final = 0.1
_MAX_S: Final = 30.0


class WarmPause:
    """The pause of one pool; its event loop owns it."""

    def __init__(self) -> None:
        """Begin with the shortest pause."""
        self.connection_used = False
        """A request has used an idle connection since ``begin``; the pool sets it."""
        self.seconds = _MIN_S
        self._began_s = 0.0

    def begin(self) -> None:
        """Note that connections are being opened."""
        self.connection_used = False
        self._began_s = time.monotonic()

    def finish(self) -> None:
        """Set the next pause: the shortest if the connections were used or lasted, else twice the last."""
        healthy = self.connection_used or time.monotonic() - self._began_s > _MAX_S
        self.seconds = _MIN_S if healthy else min(2 * self.seconds, _MAX_S)
