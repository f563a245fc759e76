"""What the machine did meanwhile: CPU of a process tree, CPU of everybody else, memory, names.

CPU is read from schedstat (nanoseconds, all threads of all processes of a tree). What others used
is the machine's busy time less all that is ours; a slice in which others took much says little.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_BUSY_FIELDS = (0, 1, 2, 5, 6, 7)
"""user, nice, system, irq, softirq, steal of the first line of /proc/stat."""


def process_tree(pid: int) -> set[int]:
    """The process and all that descend from it, as far as they still run."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            parent = _parent_of(entry)
            if parent is not None:
                children.setdefault(parent, []).append(int(entry.name))
    found, waiting = set[int](), [pid]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += children.get(one, [])
    return found


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU time that these processes' living threads have used."""
    total = 0
    for pid in pids:
        for task in _listed(_PROC / str(pid) / "task"):
            fields = _text(task / "schedstat").split()
            total += int(fields[0]) if fields else 0
    return total


def busy_ns() -> int:
    """CPU time that the whole machine has spent, stolen time included; 10 ms steps."""
    fields = _text(_PROC / "stat").split("\n", 1)[0].split()[1:]
    ticks = sum(int(fields[i]) for i in _BUSY_FIELDS)
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def pss_kib(pids: Iterable[int]) -> int:
    """Proportional set size: shared pages are divided among those who share them."""
    total = 0
    for pid in pids:
        for line in _text(_PROC / str(pid) / "smaps_rollup").splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def cpus() -> tuple[int, int]:
    """The CPU for the measured server, and the one for the load and the upstream."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def cpu_name() -> str:
    """The processor's name and how many of it there are."""
    for line in _text(_PROC / "cpuinfo").splitlines():
        if line.startswith("model name"):
            return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} CPUs"
    return f"{platform.machine()}, {os.cpu_count()} CPUs"


def system_name() -> str:
    """The kernel and the Python."""
    return f"{platform.system()} {platform.release()}, Python {platform.python_version()}"


def program_version(argv: list[str]) -> str:
    """The first line that a program says about its version; empty when it does not run."""
    if shutil.which(argv[0]) is None:
        return ""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else ""


def _parent_of(process: Path) -> int | None:
    # The command's name stands in brackets and may itself hold brackets and spaces.
    fields = _text(process / "stat").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else None


def _text(path: Path) -> str:
    """A file of /proc; empty when its process just ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _listed(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []
