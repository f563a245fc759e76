"""Fits a route's verifier in a process of its own: seconds of work that no request should share.

``python -m app.cache.refit BUILD_ID`` reads an archived state from standard input, fits it, and
writes the archive back. It ends with its work, or when nobody reads its answer.
"""

from __future__ import annotations

import os
import subprocess
import sys

from app.cache.decision import RouteState
from app.cache.route_archive import dump, load

_NICENESS = 10
_PATIENCE_S = 300.0


class Refitting:
    """One fit under way; ``run`` blocks, ``stop`` may be called from anywhere."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def run(self, state: RouteState, build_id: str) -> RouteState:
        """Fit a copy of ``state`` that nobody else uses; raises ``OSError`` or ``ValueError``."""
        command = [sys.executable, "-m", "app.cache.refit", build_id]
        sent = dump(state, build_id)
        with subprocess.Popen(  # noqa: S603 - our own command, no shell
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            self._process = process
            if self._stopped:
                process.kill()
            try:
                answered, _ = process.communicate(sent, timeout=_PATIENCE_S)
            except subprocess.TimeoutExpired as exc:
                process.kill()
                raise OSError(f"fitting took more than {_PATIENCE_S:g} s") from exc
        if process.returncode:
            raise OSError(f"fitting ended with status {process.returncode}")
        return load(answered, build_id)

    def stop(self) -> None:
        """End the fit, if one runs."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()


def main(build_id: str) -> None:
    """Read, fit, write."""
    os.nice(_NICENESS)
    state = load(sys.stdin.buffer.read(), build_id)
    state.refit()
    sys.stdout.buffer.write(dump(state, build_id))


if __name__ == "__main__":
    main(sys.argv[1])
