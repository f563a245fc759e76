"""Which deployment last read a prompt's long beginning: its vendor's prompt cache is warm there.

Only beginnings that vendors cache at all (about 1,024 tokens) are remembered, by their hash, for the five
minutes that vendors keep them. A bounded table; the least recently used goes.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

MINIMUM_CHARS = 4_000
_KEPT_S = 300.0
_MOST = 4_096


class WarmPrefixes:
    """Deployments by prefix; one event loop owns it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Know none."""
        self._clock = clock
        self._known: OrderedDict[int, tuple[str, float]] = OrderedDict()

    def of(self, prefix: int) -> str:
        """The deployment where ``prefix`` is warm; "" where there is none."""
        found = self._known.get(prefix)
        if found is None or self._clock() - found[1] > _KEPT_S:
            return ""
        return found[0]

    def sent(self, prefix: int, name: str) -> None:
        """``prefix`` goes to ``name`` now."""
        self._known[prefix] = (name, self._clock())
        self._known.move_to_end(prefix)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
