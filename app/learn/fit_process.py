"""A model fit in a separate process: seconds of CPU that no request should wait for.

The process is a module of ours, run with ``python -m``: it reads a job from standard input, writes the
result (``serve_one_fit``) and exits.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

_NICENESS = 10


class FitProcess:
    """One fit after another in ``module``, each killed after ``patience_s``.

    ``run`` blocks; ``stop`` may be called from any thread.
    """

    def __init__(self, module: str, patience_s: float) -> None:
        """Nothing runs yet."""
        self._module, self._patience_s = module, patience_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def run(self, argument: str, job: bytes) -> bytes:
        """Fit ``job`` in the process and give its output; ``argument`` goes on its command line.

        Raises ``OSError`` where the process could not start, failed, took too long or was stopped.
        """
        with subprocess.Popen(  # noqa: S603 - our own command, no shell
            [sys.executable, "-m", self._module, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            self._process = process
            if self._stopped:
                process.kill()
            try:
                answered, _ = process.communicate(job, timeout=self._patience_s)
            except subprocess.TimeoutExpired as exc:
                process.kill()
                raise OSError(f"fitting took more than {self._patience_s:g} s") from exc
        if process.returncode:
            raise OSError(f"fitting ended with status {process.returncode}")
        return answered

    def stop(self) -> None:
        """End the fit, if one runs; later ones end at once."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()


def serve_one_fit(fit: Callable[[bytes], bytes]) -> None:
    """In the process: read the job, lower the priority, fit, write the result."""
    os.nice(_NICENESS)
    sys.stdout.buffer.write(fit(sys.stdin.buffer.read()))
