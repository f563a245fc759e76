"""Which deployment last received a prompt's long prefix: its vendor's prompt cache is warm there.

Only prefixes that vendors cache at all (about 1,024 tokens) are recorded, by their hash, for the five minutes
that vendors keep them. A bounded LRU table.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

MIN_PREFIX_CHARS = 4_000
_TTL_S = 300.0
_MAX_PREFIXES = 4_096


class WarmPrefixes:
    """Deployments by prefix hash; owned by one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty."""
        self._clock = clock
        self._deployments: OrderedDict[int, tuple[str, float]] = OrderedDict()

    def deployment_for(self, prefix: int) -> str:
        """The deployment where ``prefix`` is warm; "" where there is none."""
        found = self._deployments.get(prefix)
        if found is None or self._clock() - found[1] > _TTL_S:
            return ""
        return found[0]

    def record(self, prefix: int, name: str) -> None:
        """``prefix`` is being sent to ``name``."""
        self._deployments[prefix] = (name, self._clock())
        self._deployments.move_to_end(prefix)
        if len(self._deployments) > _MAX_PREFIXES:
            self._deployments.popitem(last=False)
