"""Migration of questions that an older build of the encoder embedded.

Vectors of two builds cannot be compared, so each build has a folder of its own. A process that starts with
another model finds the older folders and embeds their questions again, one at a time between requests. A
question leaves the older folder once it is in the new one, so a kill loses nothing, and removals reach both
meanwhile. Encrypted texts a gateway must read for this process (`app.stores.reembedding` asks for them). An
emptied folder is removed; what nobody can read (encrypted with another key, too long for this encoder,
another program's) stays in it.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from app.domain.vectors import QuestionFilter, StoredQuestion
from app.errors import StoreError
from app.stores.embedded_qdrant import MARKER, EmbeddedQdrant
from app.stores.sealed_vectors import is_sealed
from app.stores.vectors import COLLECTIONS, OlderPage, collection_name

_AT_ONCE: Final = 64
_ATTEMPTS: Final = 20
_ATTEMPT_EVERY_S: Final = 0.025


class _Marker(msgspec.Struct, frozen=True):
    build: str
    dimension: int


class OlderBuilds:
    """The folders of other builds beside ``current``; owned by the vector process, as that is."""

    def __init__(
        self,
        folder: Path,
        current: EmbeddedQdrant,
        embed: Callable[[str], bytes | None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open them. ``embed`` returns a text's vector of ``current``'s build, None where it is too long."""
        self._current, self._embed, self._clock = current, embed, clock
        self._stores = [
            store for path in _folders(folder, current) if (store := _open(path, clock))
        ]
        self._waiting: deque[tuple[str, StoredQuestion | None]] = deque()
        self._after: str | None = ""
        self._left: list[EmbeddedQdrant] = []
        """Processed and not empty: they hold encrypted or unreadable questions."""
        self.moved = 0

    def __bool__(self) -> bool:
        """Whether any is there."""
        return bool(self._stores or self._left)

    @property
    def moving(self) -> bool:
        """Whether ``step`` has more to do."""
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
        self._left.append(self._stores.pop(0))
        self._after = ""
        self._tidy()

    def _move(self, entry_id: str, question: StoredQuestion | None) -> None:
        store = self._stores[0]
        if question is None:
            return
        if question.expires_unix_s <= self._clock():
            store.remove((entry_id,))
        elif not is_sealed(question.text):
            vector = self._embed(question.text)
            if vector is not None:
                self._bring(store, entry_id, vector)

    def _bring(self, store: EmbeddedQdrant, entry_id: str, vector: bytes) -> bool:
        """Move the question under its new vector, if it is still there; returns whether it was."""
        question = store.fetch(entry_id)
        if question is None:
            return False
        if self._current.fetch(entry_id) is None:
            self._current.keep([(question, vector)])
        store.remove((entry_id,))
        self.moved += 1
        return True

    # ------------------------------------------------------------ what a gateway must read

    def strays(self, after: str, limit: int) -> OlderPage:
        """Sealed questions of the folders that were gone through, without their answers."""
        if not after:
            self._tidy()
        place, _, offset = after.partition(":")
        number = int(place or 0)
        found: list[StoredQuestion] = []
        while number < len(self._left) and not found:
            some, following = self._left[number].some(offset, limit)
            found = [q for _, q in some if q is not None and self._stray(q)]
            number, offset = (number, following) if following else (number + 1, "")
        over = number >= len(self._left)
        left = sum(store.count() for store in self._left)
        following = "" if over else f"{number}:{offset}"
        return OlderPage(tuple(found), following, self.moving, left, self.moved)

    def _stray(self, question: StoredQuestion) -> bool:
        return is_sealed(question.text) and question.expires_unix_s > self._clock()

    def bring(self, entry_id: str, vector: bytes) -> bool:
        """Bring a stray over, ``vector`` being that of its text; False where it is not there any more."""
        return any(self._bring(store, entry_id, vector) for store in self._left)

    def _tidy(self) -> None:
        """Remove the folders that are empty by now."""
        empty = [store for store in self._left if store.count() == 0]
        for store in empty:
            self._left.remove(store)
            store.close()
            shutil.rmtree(store.path, ignore_errors=True)

    def remove(self, ids: Sequence[str]) -> int:
        """Remove these wherever they still are; says how many were there."""
        gone = set(ids)
        self._waiting = deque(each for each in self._waiting if each[0] not in gone)
        return sum(store.remove(ids) for store in self._all())

    def remove_where(self, which: QuestionFilter) -> int:
        """Remove those that match; likewise."""
        self._waiting = deque(
            (entry_id, q) for entry_id, q in self._waiting if q is None or not which.matches(q)
        )
        return sum(store.remove_where(which) for store in self._all())

    def close(self) -> None:
        """Flush and give the folders up."""
        for store in self._all():
            store.close()
        self._stores.clear()
        self._left.clear()

    def _all(self) -> list[EmbeddedQdrant]:
        return [*self._stores, *self._left]


def _folders(folder: Path, current: EmbeddedQdrant) -> list[Path]:
    found = folder.glob(f"{COLLECTIONS}*")
    return sorted(p for p in found if p != current.path and (p / MARKER).is_file())


def _open(path: Path, clock: Callable[[], float]) -> EmbeddedQdrant | None:
    """The store in ``path``; None where it is not one of this program's, or another process has it."""
    try:
        marker = msgspec.json.decode((path / MARKER).read_bytes(), type=_Marker)
        if collection_name(marker.build) != path.name:
            return None
    except (OSError, msgspec.DecodeError):
        return None
    for _ in range(_ATTEMPTS):
        try:
            return EmbeddedQdrant(
                path.parent, build_id=marker.build, dimension=marker.dimension, clock=clock
            )
        except StoreError:  # the engine releases its lock a moment after it was closed
            time.sleep(_ATTEMPT_EVERY_S)
    return None
