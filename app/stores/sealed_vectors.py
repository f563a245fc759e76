"""Encrypts the texts and answers of questions before they reach a vector store.

What is searched by stays readable: vectors, partition, tenant, model, tags, times. A vector reveals
something of its text to whoever has the encoder; the text itself and the answer cannot be read.
"""

from __future__ import annotations

from base64 import b85decode, b85encode
from dataclasses import replace
from typing import Protocol

from app.domain.seal import Seal
from app.domain.vectors import (
    Embedder,
    Neighbour,
    StoredQuestion,
    TextTooLong,
    VectorSearchResult,
    VectorStore,
)
from app.errors import StoreError


class Memory(VectorStore, Embedder, Protocol):
    """What is sealed: the same that ``app.cache.semantic`` asks for."""

    @property
    def build_id(self) -> str:
        """Names the encoder; "" while it is away."""
        ...

    async def recall(self, text: str, partition: str, k: int) -> VectorSearchResult | TextTooLong:
        """The vector of ``text`` and its neighbours."""
        ...


_MARK = b"sl1"


def is_sealed(text: str) -> bool:
    """Whether ``text``, as a store has it, was sealed by a gateway."""
    try:
        return b85decode(text).startswith(_MARK)
    except ValueError:
        return False


def plain_text(question: StoredQuestion) -> str | None:
    """The text of a question as the store has it, to who has no key; None for a sealed one."""
    return None if is_sealed(question.text) else question.text


class SealedVectors:
    """A ``Memory`` over another, which sees sealed texts only."""

    def __init__(self, inner: Memory, seal: Seal) -> None:
        """Keep in ``inner``."""
        self._inner, self._seal = inner, seal
        self.embed = inner.embed
        self.remove, self.remove_where, self.count = inner.remove, inner.remove_where, inner.count

    @property
    def build_id(self) -> str:
        """Names the encoder; "" while it is away."""
        return self._inner.build_id

    async def recall(self, text: str, partition: str, k: int) -> VectorSearchResult | TextTooLong:
        """The vector of ``text`` and its neighbours; those that cannot be opened are left out."""
        found = await self._inner.recall(text, partition, k)
        if isinstance(found, TextTooLong):
            return found
        return VectorSearchResult(found.vector, self._opened(found.near))

    async def nearest(self, vector: bytes, partition: str, k: int) -> tuple[Neighbour, ...]:
        """The ``k`` nearest live questions of ``partition``; likewise."""
        return self._opened(await self._inner.nearest(vector, partition, k))

    async def keep(self, question: StoredQuestion, vector: bytes) -> None:
        """Keep ``question``, sealed."""
        sealed = replace(
            question,
            text=self._sealed(question, question.text, b"text"),
            body=self._sealed(question, question.body, b"body"),
        )
        await self._inner.keep(sealed, vector)

    async def fetch(self, entry_id: str) -> StoredQuestion | None:
        """The live question of that id; None also where it cannot be opened."""
        found = await self._inner.fetch(entry_id)
        return None if found is None else self._open(found)

    async def page(
        self, tenant: str, after: str, limit: int
    ) -> tuple[tuple[StoredQuestion, ...], str]:
        """A page of ``tenant``'s live questions; those that cannot be opened are left out."""
        found, following = await self._inner.page(tenant, after, limit)
        opened = (self._open(question) for question in found)
        return tuple(question for question in opened if question is not None), following

    def text_of(self, question: StoredQuestion) -> str | None:
        """The text of a question as the store has it; None where no key opens it."""
        try:
            about = _about(question, b"text")
            return self._seal.open(b85decode(question.text), about).decode()
        except (StoreError, ValueError):
            return None

    def _opened(self, near: tuple[Neighbour, ...]) -> tuple[Neighbour, ...]:
        found = ((self._open(each.question), each.cosine) for each in near)
        return tuple(Neighbour(question, cosine) for question, cosine in found if question)

    def _open(self, question: StoredQuestion) -> StoredQuestion | None:
        try:
            text = self._seal.open(b85decode(question.text), _about(question, b"text"))
            body = self._seal.open(b85decode(question.body), _about(question, b"body"))
        except (StoreError, ValueError):
            return None
        return replace(question, text=text.decode(), body=body.decode())

    def _sealed(self, question: StoredQuestion, text: str, part: bytes) -> str:
        data = text.encode("utf-8", "replace")
        return b85encode(self._seal.seal(data, _about(question, part))).decode("ascii")


def _about(question: StoredQuestion, part: bytes) -> bytes:
    return b"\0".join(
        (
            b"question",
            part,
            question.id.encode(),
            question.tenant.encode(),
            question.partition.encode(),
        )
    )
