"""Questions kept under another build of the encoder, brought to the one in force.

Vectors of two builds mean nothing to each other, so each build has a folder of its own. A process that
starts with another model finds the older folders and embeds what they hold anew, one question at a
time between requests. A question leaves the older folder once it is in the new one, so a kill in the
middle loses nothing, and removals reach both meanwhile. A folder that is empty by then is removed; what
cannot be read here (sealed by the gateway, too long for this encoder, another program's) stays in it.
"""

from __future__ import annotations

import shutil
import time
from base64 import b85decode
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from app.domain.vectors import KeptQuestion, Which
from app.errors import StoreError
from app.stores.edge import MARKER, EdgeStore
from app.stores.vectors import SCHEMA, collection_name

_AT_ONCE: Final = 64
_ATTEMPTS: Final = 20
_ATTEMPT_EVERY_S: Final = 0.025
_SEALED: Final = b"sl1"


class _Marker(msgspec.Struct, frozen=True):
    build: str
    dimension: int


class Older:
    """The folders of other builds beside ``current``; owned by the vector process, as that is."""

    def __init__(
        self,
        folder: Path,
        current: EdgeStore,
        embed: Callable[[str], bytes | None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open them. ``embed`` gives a text's vector in ``current``'s build, None where it is too long."""
        self._current, self._embed, self._clock = current, embed, clock
        self._stores = [store for path in _folders(folder, current) if (store := _open(path))]
        self._waiting: deque[tuple[str, KeptQuestion | None]] = deque()
        self._after: str | None = ""

    def __bool__(self) -> bool:
        """Whether there is anything to move."""
        return bool(self._stores)

    def step(self) -> None:
        """Move one question, or look for more; milliseconds."""
        if not self._stores:
            return
        if self._waiting:
            self._move(*self._waiting.popleft())
            return
        if self._after is not None:
            found, following = self._stores[0].some(self._after, _AT_ONCE)
            self._waiting.extend(found)
            self._after = following or None
            if found:
                return
        self._leave(self._stores.pop(0))
        self._after = ""

    def _move(self, entry_id: str, question: KeptQuestion | None) -> None:
        if question is None or _is_sealed(question.text):
            return
        stale = question.expires_unix_s <= self._clock()
        if not stale and self._current.fetch(entry_id) is None:
            vector = self._embed(question.text)
            if vector is None:
                return
            self._current.keep([(question, vector)])
        self._stores[0].remove((entry_id,))

    def _leave(self, store: EdgeStore) -> None:
        empty = store.count() == 0
        store.close()
        if empty:
            shutil.rmtree(store.path, ignore_errors=True)

    def remove(self, ids: Sequence[str]) -> int:
        """Remove these wherever they still are; says how many were there."""
        gone = set(ids)
        self._waiting = deque(each for each in self._waiting if each[0] not in gone)
        return sum(store.remove(ids) for store in self._stores)

    def remove_where(self, which: Which) -> int:
        """Remove those that match; likewise."""
        self._waiting = deque(
            (entry_id, q) for entry_id, q in self._waiting if q is None or not which.matches(q)
        )
        return sum(store.remove_where(which) for store in self._stores)

    def close(self) -> None:
        """Flush and give the folders up."""
        for store in self._stores:
            store.close()
        self._stores.clear()


def _folders(folder: Path, current: EdgeStore) -> list[Path]:
    found = folder.glob(f"questions-v{SCHEMA}-*")
    return sorted(p for p in found if p != current.path and (p / MARKER).is_file())


def _open(path: Path) -> EdgeStore | None:
    """The store in ``path``; None where it is not one of this program's, or another process has it."""
    try:
        marker = msgspec.json.decode((path / MARKER).read_bytes(), type=_Marker)
        if collection_name(marker.build) != path.name:
            return None
    except (OSError, msgspec.DecodeError):
        return None
    for _ in range(_ATTEMPTS):
        try:
            return EdgeStore(path.parent, build_id=marker.build, dimension=marker.dimension)
        except StoreError:  # the engine gives its lock up a moment after it was closed
            time.sleep(_ATTEMPT_EVERY_S)
    return None


def _is_sealed(text: str) -> bool:
    try:
        return b85decode(text).startswith(_SEALED)
    except ValueError:
        return False
