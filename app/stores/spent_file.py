"""Spent money in a file, so that budgets survive a restart and hold for all workers of a host.

Additions count in this process at once. At most once a second, in a thread and under a lock, they are
merged into the file and those of other workers are read from it (read, add, write aside, rename). So
workers may together exceed a budget by about a second's spending; with Redis the sums are exact. A crash
loses at most the last second's additions.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

_EVERY_S = 1.0
_PRIVATE = 0o600
_log = logging.getLogger("slipstream.limits")
_Sums = dict[str, tuple[float, float]]
"""By key: until when it is kept (Unix seconds), and the sum in USD."""


class SpentFile:
    """The sums of one ``data_dir``; see ``app.api.admission.Sums``."""

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = time.time,
        *,
        on_fault: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """Keep the sums in ``folder``, made when something is first spent.

        ``on_fault`` is told why they cannot be read or written, and None when they can again.
        """
        self._folder, self._clock, self._on_fault = folder, clock, on_fault
        self._path = folder / "spent.json"
        self._shared: _Sums = {}
        self._own: _Sums = {}
        """Added here and not yet merged."""
        self._merging: _Sums = {}
        self._wake = asyncio.Event()
        self._failed = False

    async def add(self, key: bytes, amount: float, ttl_s: float) -> float:
        """Add to a sum and return it."""
        name = key.decode("utf-8", "replace")
        if amount:
            until_s, had = self._own.get(name, (self._clock() + ttl_s, 0.0))
            self._own[name] = (until_s, had + amount)
            self._wake.set()
        return sum(
            sums[name][1] for sums in (self._shared, self._merging, self._own) if name in sums
        )

    def load(self) -> None:
        """Read the sums of earlier runs."""
        try:
            self._shared = self._read()
        except OSError as exc:
            self._fail(exc)

    async def run(self) -> None:
        """Merge once a second until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_EVERY_S):
                    await self._wake.wait()
                await asyncio.sleep(_EVERY_S)
            except TimeoutError:
                pass
            self._wake.clear()
            await self.merge()

    async def merge(self) -> None:
        """Merge once."""
        self._merging, self._own = self._own, {}
        merging = dict(self._merging)
        try:
            if merging:
                self._shared = await asyncio.to_thread(self._write_merged, merging)
            elif self._path.exists():
                self._shared = await asyncio.to_thread(self._read)
        except OSError as exc:
            self._fail(exc)
            for name, (until_s, amount) in merging.items():
                self._own[name] = (until_s, amount + self._own.get(name, (0.0, 0.0))[1])
        else:
            if self._failed and merging:
                self._failed = False
                self._on_fault(None)
        self._merging = {}

    def _fail(self, exc: OSError) -> None:
        if not self._failed:
            _log.warning("spent_not_written", extra={"reason": str(exc.strerror)})
        self._failed = True
        self._on_fault(f"what was spent cannot be kept in {self._folder}: {exc.strerror}")

    def close(self) -> None:
        """Merge the rest synchronously."""
        left, self._own = self._own, {}
        if left:
            try:
                self._write_merged(left)
            except OSError as exc:
                _log.warning("spent_not_written", extra={"reason": str(exc.strerror)})

    def _read(self) -> _Sums:
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=_Sums)
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, UnicodeDecodeError):
            _log.warning("spent_unreadable", extra={"file": str(self._path)})
            return {}
        now_s = self._clock()
        return {name: each for name, each in found.items() if each[0] > now_s}

    def _write_merged(self, more: _Sums) -> _Sums:
        """Add ``more`` to the file; returns its sums."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            sums = self._read()
            for name, (until_s, amount) in more.items():
                sums[name] = (until_s, sums.get(name, (0.0, 0.0))[1] + amount)
            aside = self._path.with_suffix(".new")
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(sums))
            aside.replace(self._path)
        finally:
            os.close(lock)
        return sums
