"""Starts the vector process.

Imports next to nothing, so that a gateway can start it before it loads itself: the process takes as long as
the gateway to come up, and both do so at once. ``sidecar_client`` supervises it from then on.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO

_MAX_SOCKET_PATH = 100  # the kernel's limit is 107 bytes
_ENV = Path("/usr/bin/env")
_HUGE_PAGES = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"
"""Huge pages for the weights, where the kernel gives them on request: an embedding reads all 11 MB of them,
mostly from memory, and takes 3 to 9 % less CPU with them. Ignored before glibc 2.35."""


@dataclass(frozen=True, slots=True)
class StartedProcess:
    """A running vector process, and the lock to own it."""

    lock: int
    """A descriptor that holds the folder's lock."""
    process: subprocess.Popen[bytes]
    log_file: IO[bytes]
    """Its standard error."""


def socket_of(folder: Path) -> Path:
    """Where the process of ``folder`` listens."""
    wanted = folder / "vectors.sock"
    if len(str(wanted.absolute())) <= _MAX_SOCKET_PATH:
        return wanted
    name = blake2b(str(folder.absolute()).encode(), digest_size=12).hexdigest()
    return Path(tempfile.gettempdir()) / f"slipstream-{os.getuid()}-{name}.sock"


def launch(folder: Path, model: Path, max_entries: int) -> StartedProcess | None:
    """Start the process of ``folder``; None where another worker owns it or it cannot be started, which
    ``sidecar_client`` reports later.
    """
    with suppress(OSError), socket.socket(socket.AF_UNIX) as other:
        other.connect(str(socket_of(folder)))
        return None
    try:
        lock = take_lock(folder)
        return (
            None
            if lock is None
            else StartedProcess(lock, *start(folder, model, max_entries, niceness=0))
        )
    except OSError:
        return None


def take_lock(folder: Path) -> int | None:
    """A descriptor that holds the lock of ``folder``, created if need be; None where another holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def start(
    folder: Path, model: Path, max_entries: int, *, niceness: int
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Start the process; returns it and its standard error. It ends when its standard input is closed.

    ``niceness`` holds while it loads.
    """
    log_file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by whoever ends the process
    command = [str(_ENV), _HUGE_PAGES] if _ENV.exists() else []  # replaces itself by what follows
    command += [sys.executable, "-m", "app.stores.sidecar", str(socket_of(folder))]
    command += [str(folder), str(model), str(max_entries), str(niceness)]
    process = subprocess.Popen(  # noqa: S603 - our own command, no shell
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log_file
    )
    return process, log_file
