"""The JavaScript packages that tests drive: installed once a process, exactly as locked."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
NODE_FOLDER = _ROOT / "tests" / "support" / "node"


@cache
def _installed() -> str:
    """Why the packages are not there; empty when they are."""
    made = subprocess.run(
        [_ROOT / "scripts" / "node-packages"], capture_output=True, text=True, check=False
    )
    return f"scripts/node-packages: {made.stderr.strip()[-200:]}" if made.returncode else ""


def node_packages() -> Path:
    """The folder that they are used from; skips the test, saying why, where they cannot be had."""
    if missing := _installed():
        pytest.skip(missing)
    return NODE_FOLDER
