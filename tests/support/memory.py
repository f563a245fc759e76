"""What this process held at most: the kernel's own count, so that no allocator's habit hides it."""

from __future__ import annotations

from pathlib import Path

import pytest

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class PeakMemory:
    """Growth of the resident memory since this was made, at its highest."""

    def __init__(self) -> None:
        """Begin to count; skips the test where the kernel does not."""
        try:
            _CLEAR.write_text("5")  # proc(5): resets the peak
        except OSError:
            pytest.skip("the kernel does not let this process reset its peak of memory")
        self._before = _bytes("VmRSS")

    def grown_bytes(self) -> int:
        """How far the peak lies above the beginning."""
        return _bytes("VmHWM") - self._before


def _bytes(name: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024
