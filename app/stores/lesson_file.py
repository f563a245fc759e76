"""Speculation lessons shared by the workers of a host: one append-only file under the data directory.

A line is a lesson, encrypted where keys are configured. Appends hold the lock beside the file, so lines
never mix. A file that has grown too long is replaced by its newest half; readers notice that it is
another file and read it from the start. Lessons have ids, so none is learned twice.
"""

from __future__ import annotations

import fcntl
import os
from base64 import b85decode, b85encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from app.domain.seal import Seal
from app.errors import StoreError

_MOST_BYTES = 4 << 20
_ABOUT = b"lesson"


class LessonFile:
    """The file, and how far this worker has read it. May be used from one thread at a time."""

    def __init__(
        self,
        folder: Path,
        on_fault: Callable[[str], None],
        seal: Seal | None = None,
        *,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        """Open nothing yet; ``on_fault`` is called with the reason when the file cannot be used."""
        self._folder, self._on_fault, self._seal = folder, on_fault, seal
        self._most_bytes = most_bytes
        self._path = folder / "lessons.jsonl"
        self._read_to = 0
        self._file_id = 0

    def append(self, lines: Sequence[bytes]) -> None:
        """Append ``lines``, none of which contains a line end."""
        data = b"".join(self._sealed(line) + b"\n" for line in lines)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                with self._path.open("ab") as file:
                    file.write(data)
                if self._path.stat().st_size > self._most_bytes:
                    self._drop_older_half()
        except OSError as exc:
            self._on_fault(f"what agents learn cannot be kept in {self._folder}: {exc.strerror}")

    def read_new(self) -> list[bytes]:
        """Complete lines that were not read before, without damaged or foreign ones."""
        try:
            with self._path.open("rb") as file:
                about = os.fstat(file.fileno())
                if about.st_ino != self._file_id or about.st_size < self._read_to:
                    self._file_id, self._read_to = about.st_ino, 0
                file.seek(self._read_to)
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as exc:
            self._on_fault(f"what agents learned cannot be read in {self._folder}: {exc.strerror}")
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        return [line for line in map(self._unsealed, whole.splitlines()) if line]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / "lessons.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _drop_older_half(self) -> None:
        kept = self._path.read_bytes()[-self._most_bytes // 2 :]
        begun = self._path.with_suffix(".new")
        begun.write_bytes(kept[kept.find(b"\n") + 1 :])
        begun.replace(self._path)

    def _sealed(self, line: bytes) -> bytes:
        return line if self._seal is None else b85encode(self._seal.seal(line, _ABOUT))

    def _unsealed(self, line: bytes) -> bytes:
        if self._seal is None:
            return line
        with suppress(StoreError, ValueError):
            return self._seal.open(b85decode(line), _ABOUT)
        return b""
