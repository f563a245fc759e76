"""A fit in a process of its own: seconds of work that no request should share.

The process is a module of ours, run with ``python -m``: it reads a job from standard input, writes what it
made of it (``answer_once``), and ends with its work, or when nobody reads its answer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

_NICENESS = 10


class FitProcess:
    """One fit after another in ``module``, each given up after ``patience_s``.

    ``ask`` blocks, ``stop`` may be called from anywhere.
    """

    def __init__(self, module: str, patience_s: float) -> None:
        """Nothing runs yet."""
        self._module, self._patience_s = module, patience_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def ask(self, argument: str, job: bytes) -> bytes:
        """What the process makes of ``job``; ``argument`` is its command line's.

        Raises ``OSError`` where the process could not be had, failed, took too long or was stopped.
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


def answer_once(fit: Callable[[bytes], bytes]) -> None:
    """The process's side: read the job, step back behind the requests, fit, write."""
    os.nice(_NICENESS)
    sys.stdout.buffer.write(fit(sys.stdin.buffer.read()))
