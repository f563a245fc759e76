"""Other people's packages for this benchmark: pinned, in folders of their own under the benchmark's
cache, never in the project's environment or lock.
"""

from __future__ import annotations

from pathlib import Path

from bench.targets.base import UnavailableError, cache_dir, run_install

RIVALS = ("langgraph==1.2.22", "llama-index-workflows==2.26.1")
TRACED = ("mpmath==1.3.0",)
TRACED_ALONE = ("bfcl-eval==2026.3.23",)
"""Installed without what it depends on: only its simulated tools are run, not its model clients."""


def python_with(name: str, packages: tuple[str, ...], alone: tuple[str, ...] = ()) -> Path:
    """An interpreter that has exactly these packages; raises ``UnavailableError`` with the reason."""
    folder = cache_dir() / name
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join((*packages, *alone))
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return python
    run_install(["python3", "-m", "venv", "--clear", str(folder)], folder.parent)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run_install([*pip, *packages], folder)
    if alone:
        run_install([*pip, "--no-deps", *alone], folder)
    stamp.write_text(wanted)
    return python


__all__ = ["RIVALS", "TRACED", "TRACED_ALONE", "UnavailableError", "python_with"]
