"""Removals that the store could not do while it was away, persisted until it has done them.

Until then nothing is served by meaning, also after a restart: each removal lies in a file of its own, so
that the workers of one folder need no lock. A removal is idempotent. One that cannot be read any more may
have named anything, so everything is removed then.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import msgspec

from app.domain.vectors import QuestionFilter

_SUFFIX: Final = ".owed"


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    ids: tuple[str, ...] = ()
    tenant: str = ""
    model: str = ""
    tags: tuple[str, ...] = ()
    everything: bool = False


def _ignore(_fault: str) -> None:
    """Ignore faults: without a folder there are none."""


class PendingRemovals:
    """The removals still to be done, oldest first."""

    def __init__(self, folder: Path | None, on_fault: Callable[[str], None] = _ignore) -> None:
        """Read those of earlier runs; ``folder`` None: in memory alone."""
        self._folder, self._on_fault = folder, on_fault
        self._removals: list[tuple[Path | None, QuestionFilter | tuple[str, ...]]] = []
        for path in sorted(folder.glob(f"*{_SUFFIX}")) if folder is not None else ():
            try:
                self._removals.append((path, _read(path.read_bytes())))
            except (OSError, msgspec.MsgspecError) as exc:
                self._removals.append((path, QuestionFilter()))
                on_fault(
                    f"a pending removal cannot be read, so everything is removed: {path.name}: {exc}"
                )

    def __bool__(self) -> bool:
        """Whether any is left."""
        return bool(self._removals)

    def oldest(self) -> QuestionFilter | tuple[str, ...]:
        """The oldest: a filter, or ids."""
        return self._removals[0][1]

    def add(self, what: QuestionFilter | tuple[str, ...]) -> None:
        """Add a removal, persistently; a folder that cannot be written is reported as a fault, not raised."""
        path = None if self._folder is None else self._folder / f"{uuid4().hex}{_SUFFIX}"
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                fresh = path.with_suffix(".new")
                fresh.write_bytes(_text(what))
                fresh.replace(path)
            except OSError as exc:
                self._on_fault(f"a pending removal cannot be written: {exc.strerror}")
        self._removals.append((path, what))

    def remove_oldest(self) -> None:
        """Mark the oldest as done."""
        path, _ = self._removals.pop(0)
        if path is not None:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _text(what: QuestionFilter | tuple[str, ...]) -> bytes:
    if isinstance(what, QuestionFilter):
        everything = what == QuestionFilter()
        return msgspec.json.encode(
            _Written((), what.tenant, what.model, what.tags, everything=everything)
        )
    return msgspec.json.encode(_Written(what))


def _read(data: bytes) -> QuestionFilter | tuple[str, ...]:
    read = msgspec.json.decode(data, type=_Written)
    if read.ids:
        return read.ids
    which = QuestionFilter(read.tenant, read.model, read.tags)
    if which == QuestionFilter() and not read.everything:
        raise msgspec.ValidationError("it names nothing")
    return which
