"""The router's labels on disk: replaced atomically, read at start, shared by the workers of a host.

Each worker owns one file of the folder, ``labels-N.npz``, while it holds the lock beside it: the first free
N, so the files of ended workers are taken over. It writes its own (to a new file, then renamed) and reads
the others': every worker's next refit uses all labels. Damaged files, and those of other versions, are moved
aside and reported. No prompt's text is in a file (``app.classify.labels``).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from app.classify.labels import SavedLabel, from_bytes, to_bytes

_MOST_WORKERS = 256


class LabelFiles:
    """The folder, and this worker's file in it. One thread at a time may use it."""

    def __init__(self, folder: Path, topics: int, on_fault: Callable[[str], None]) -> None:
        """Claim a file in ``folder``; where that fails, ``on_fault`` is told and nothing is saved."""
        self._folder, self._topics, self._on_fault = folder, topics, on_fault
        self._lock: IO[bytes] | None = None
        self._own: Path | None = None
        self._read: dict[Path, tuple[int, list[SavedLabel]]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._claim_slot()
        except OSError as exc:
            on_fault(f"the router's labels cannot be kept in {folder}: {exc.strerror}")

    def _claim_slot(self) -> None:
        for number in range(_MOST_WORKERS):
            lock = (self._folder / f"labels-{number}.lock").open("wb")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            self._lock, self._own = lock, self._folder / f"labels-{number}.npz"
            return

    def own(self) -> list[SavedLabel]:
        """The labels of this worker's file, oldest first."""
        return [] if self._own is None or not self._own.exists() else self._load(self._own)

    def others(self) -> list[SavedLabel]:
        """The current labels of all other files; unchanged ones are not read again."""
        found: list[SavedLabel] = []
        for path in sorted(self._folder.glob("labels-*.npz")):
            if path == self._own:
                continue
            with suppress(OSError):
                changed = path.stat().st_mtime_ns
                if path not in self._read or self._read[path][0] != changed:
                    self._read[path] = (changed, self._load(path))
                found += self._read[path][1]
        return found

    def save(self, labels: Sequence[SavedLabel]) -> None:
        """Save ``labels`` to this worker's file; on an error the old file stays, and ``on_fault`` is told."""
        if self._own is None:
            return
        new = self._own.with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.write(to_bytes(labels))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._own)
        except OSError as exc:
            self._on_fault(f"the router's labels cannot be written to {self._own}: {exc.strerror}")

    def close(self) -> None:
        """Release the file for the next worker."""
        if self._lock is not None:
            self._lock.close()
            self._lock = self._own = None

    def _load(self, path: Path) -> list[SavedLabel]:
        try:
            return from_bytes(path.read_bytes(), topics=self._topics)
        except (ValueError, OSError) as exc:
            aside = path.with_suffix(".unreadable")
            with suppress(OSError):
                path.replace(aside)
            self._on_fault(f"{path.name} was put aside as {aside.name}: {exc}"[:300])
            return []


def read_all(folder: Path, topics: int) -> tuple[list[SavedLabel], list[str]]:
    """The labels of ``folder``'s readable files, and a message for each file that is not; changes nothing."""
    labels: list[SavedLabel] = []
    faults: list[str] = []
    for path in sorted(folder.glob("labels-*.npz")):
        try:
            labels += from_bytes(path.read_bytes(), topics=topics)
        except (ValueError, OSError) as exc:
            faults.append(f"{path} cannot be read: {exc}")
    return labels, faults
