"""Fit a route's verifier in a process of its own: seconds of CPU that no request should share.

``python -m app.cache.refit BUILD_ID`` reads an archived state from standard input, fits it, and
writes the archive back. It ends with its work, or when nobody reads its answer.
"""

from __future__ import annotations

import sys

from app.cache.route_archive import dump, load
from app.cache.route_state import RouteState
from app.learn.fit_process import FitProcess, serve_one_fit

_TIMEOUT_S = 300.0


class RefitProcess:
    """One fit; ``run`` blocks, ``stop`` may be called from any thread."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._fitting = FitProcess("app.cache.refit", _TIMEOUT_S)
        self.stop = self._fitting.stop

    def run(self, state: RouteState, build_id: str) -> RouteState:
        """Fit ``state``, which must not change meanwhile; raises ``OSError`` or ``ValueError``."""
        return load(self._fitting.run(build_id, dump(state, build_id)), build_id)


def main(build_id: str) -> None:
    """Read, fit, write."""

    def fitted(archived: bytes) -> bytes:
        state = load(archived, build_id)
        state.refit()
        return dump(state, build_id)

    serve_one_fit(fitted)


if __name__ == "__main__":
    main(sys.argv[1])
