"""Compile the upstream, the load generator and the Go reference, when their source is newer.

They are C and Go because a measuring instrument in Python would measure itself: the prototypes of
this gateway serve 25,000 requests a second, and a client must be several times faster than that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


class ToolMissingError(RuntimeError):
    """A compiler is not installed; the text names it and the script that installs it."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """The paths of the compiled programs."""

    upstream: Path
    loadgen: Path


def build_dir() -> Path:
    """Where compiled files go: `bench/build`, which git ignores."""
    path = HERE / "build"
    path.mkdir(exist_ok=True)
    return path


def compile_instruments() -> Instruments:
    """Compile the two C programs; raises ToolMissingError without a C compiler."""
    return Instruments(upstream=_compile_c("upstream"), loadgen=_compile_c("loadgen"))


def compile_go(source: Path, name: str) -> Path:
    """Compile one Go file to `bench/build/NAME`; raises ToolMissingError without Go."""
    binary = build_dir() / name
    if _fresh(binary, source):
        return binary
    go = shutil.which("go")
    if go is None:
        raise ToolMissingError("go is not installed: run scripts/bench-setup")
    _run([go, "build", "-o", str(binary), str(source)], cwd=build_dir())
    return binary


def _compile_c(name: str) -> Path:
    source, binary = HERE / f"{name}.c", build_dir() / name
    if _fresh(binary, source):
        return binary
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise ToolMissingError("no C compiler: run scripts/bench-setup")
    # Compile beside and rename: a half-written program must never look fresh to another run.
    partial = binary.with_suffix(f".{os.getpid()}")
    flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra"]
    _run([compiler, *flags, "-o", str(partial), str(source)], cwd=build_dir())
    partial.replace(binary)
    return binary


def _fresh(binary: Path, source: Path) -> bool:
    return binary.exists() and binary.stat().st_mtime >= source.stat().st_mtime


def _run(argv: list[str], cwd: Path) -> None:
    # Go wants a cache folder; without HOME it would refuse.
    environment = {"GOFLAGS": "-mod=mod", "GO111MODULE": "off", **os.environ}
    done = subprocess.run(
        argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{done.stderr.strip()}")
