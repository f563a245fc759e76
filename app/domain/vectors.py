"""Values and ports of the vector store of questions, shared by the cache and the stores.

A vector is bytes (float32, little-endian, unit length), because it crosses a socket more often than it is
computed with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredQuestion:
    """One answered question."""

    id: str
    """32 hexadecimal digits; storing another under the same id replaces it."""
    partition: str
    """Only questions of the same partition are compared."""
    tenant: str
    model: str
    """The configured model's name that answered."""
    tags: tuple[str, ...]
    kept_unix_s: float
    expires_unix_s: float
    text: str
    body: str
    """The answer and its metadata, opaque to the store."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A stored question near another, `cosine` in [-1, 1]."""

    question: StoredQuestion
    cosine: float


@dataclass(frozen=True, slots=True)
class VectorSearchResult:
    """A text's vector and the stored questions nearest to it, nearest first."""

    vector: bytes
    near: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True)
class TextTooLong:
    """A text that exceeds the encoder's window: it has no vector."""

    tokens: int


@dataclass(frozen=True, slots=True)
class QuestionFilter:
    """Selects stored questions that match every given field; an empty filter matches all."""

    tenant: str = ""
    model: str = ""
    tags: tuple[str, ...] = ()

    def matches(self, question: StoredQuestion) -> bool:
        """Whether ``question`` matches."""
        return (
            (not self.tenant or question.tenant == self.tenant)
            and (not self.model or question.model == self.model)
            and (not self.tags or not set(self.tags).isdisjoint(question.tags))
        )


class Embedder(Protocol):
    """Embeds texts. Failures raise ``StoreError``; callers continue without."""

    async def embed(self, text: str) -> bytes | TextTooLong:
        """The vector of ``text``, or ``TextTooLong``."""
        ...


class VectorStore(Protocol):
    """A vector store of questions. Failures raise ``StoreError``; callers continue without.

    Writes are visible to the next ``nearest``. A cancelled call may or may not have had its effect, and every
    call may be repeated.
    """

    async def nearest(self, vector: bytes, partition: str, k: int) -> tuple[Neighbour, ...]:
        """The ``k`` nearest live questions of ``partition``, nearest first."""
        ...

    async def keep(self, question: StoredQuestion, vector: bytes) -> None:
        """Store ``question``, replacing one of the same id."""
        ...

    async def fetch(self, entry_id: str) -> StoredQuestion | None:
        """The live question of that id."""
        ...

    async def page(
        self, tenant: str, after: str, limit: int
    ) -> tuple[tuple[StoredQuestion, ...], str]:
        """At most ``limit`` live questions of ``tenant`` in the order of their ids, and where the next page
        begins ("" at the end). ``after``: the value returned with the previous page, "" for the first.
        """
        ...

    async def remove(self, ids: tuple[str, ...]) -> int:
        """Remove these; returns how many existed."""
        ...

    async def remove_where(self, which: QuestionFilter) -> int:
        """Remove those that match; returns how many existed."""
        ...

    async def count(self) -> int:
        """The number stored, including expired ones that were not yet removed."""
        ...
