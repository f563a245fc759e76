"""What a store of questions by meaning keeps and gives: plain values, shared by the cache and the stores.

A vector travels as bytes (float32, little-endian, of unit length): it crosses a socket more often
than it is computed with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredQuestion:
    """One answered question."""

    id: str
    """32 hexadecimal digits; keeping another under the same id replaces it."""
    partition: str
    """Only questions of the same partition may meet."""
    tenant: str
    model: str
    """The configured model's name that answered."""
    tags: tuple[str, ...]
    kept_unix_s: float
    expires_unix_s: float
    text: str
    body: str
    """The answer and whatever belongs to it; its meaning is the keeper's own."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A kept question near another, `cosine` in [-1, 1]."""

    question: StoredQuestion
    cosine: float


@dataclass(frozen=True, slots=True)
class VectorSearchResult:
    """A text's vector and the kept questions nearest to it, nearest first."""

    vector: bytes
    near: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True)
class TextTooLong:
    """A text over the encoder's window: it has no vector, and must not be matched by one."""

    tokens: int


@dataclass(frozen=True, slots=True)
class QuestionFilter:
    """Kept questions that match every field that is given; nothing given matches all."""

    tenant: str = ""
    model: str = ""
    tags: tuple[str, ...] = ()

    def matches(self, question: StoredQuestion) -> bool:
        """Whether ``question`` is one of these."""
        return (
            (not self.tenant or question.tenant == self.tenant)
            and (not self.model or question.model == self.model)
            and (not self.tags or not set(self.tags).isdisjoint(question.tags))
        )


class Embedder(Protocol):
    """Texts to vectors. Failures raise ``StoreError``; callers go on without."""

    async def embed(self, text: str) -> bytes | TextTooLong:
        """The vector of ``text``, or that it is too long to be read whole."""
        ...


class VectorStore(Protocol):
    """Kept questions by meaning. Failures raise ``StoreError``; callers go on without.

    What was kept is found by the next ``nearest``; what was removed is not. A cancelled call may or
    may not have had its effect, and each may be repeated.
    """

    async def nearest(self, vector: bytes, partition: str, k: int) -> tuple[Neighbour, ...]:
        """The ``k`` nearest live questions of ``partition``, nearest first."""
        ...

    async def keep(self, question: StoredQuestion, vector: bytes) -> None:
        """Keep ``question``, in place of an older one of its id."""
        ...

    async def fetch(self, entry_id: str) -> StoredQuestion | None:
        """The live question of that id."""
        ...

    async def page(
        self, tenant: str, after: str, limit: int
    ) -> tuple[tuple[StoredQuestion, ...], str]:
        """At most ``limit`` live questions of ``tenant`` in the order of their ids, and where the next page
        begins ("" at the end). ``after``: what the page before said, "" for the first.
        """
        ...

    async def remove(self, ids: tuple[str, ...]) -> int:
        """Remove these; says how many were there."""
        ...

    async def remove_where(self, which: QuestionFilter) -> int:
        """Remove those that match; says how many were there."""
        ...

    async def count(self) -> int:
        """How many are kept, expired ones that were not yet removed included."""
        ...
