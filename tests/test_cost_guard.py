"""A request's cost may not grow unnoticed; a ratio within one run, for times depend on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.timeout(300)
def test_a_request_costs_no_multiple_of_a_bare_pass_through():
    """In a process of its own, as `make bench-guard` runs it: nothing else takes the CPU of its client."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.guard", "--rounds", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
