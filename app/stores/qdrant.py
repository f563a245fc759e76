"""Questions in a Qdrant server or cluster, and the combination of that store with the embedding process.

Over the official client; each failure that it can raise becomes ``StoreError``. Removals and writes wait
until the server has applied them, so the next search, from any gateway, sees them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeVar
from uuid import UUID

import numpy as np
from qdrant_client import AsyncQdrantClient, models

from app.domain.vectors import (
    Neighbour,
    QuestionFilter,
    StoredQuestion,
    TextTooLong,
    VectorSearchResult,
)
from app.errors import StoreError
from app.stores.sidecar_client import VectorProcess
from app.stores.vectors import COLLECTIONS, collection_name, payload_of, question_of

T = TypeVar("T")
_TIMEOUT_S = 2
_DIMENSION = 384
"""Of the encoder's vectors."""
_FORBIDDEN = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class QdrantStore:
    """A ``VectorStore`` in one collection, made where it is missing."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        build_id: Callable[[], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is asked yet. ``build_id`` names the encoder, "" while unknown."""
        self.client = AsyncQdrantClient(
            url=url,
            api_key=api_key,
            timeout=_TIMEOUT_S,
            check_compatibility=False,
        )
        self._build_id, self._clock = build_id, clock
        self._ready: dict[str, str] = {}

    async def nearest(self, vector: bytes, partition: str, k: int) -> tuple[Neighbour, ...]:
        """The ``k`` nearest live questions of ``partition``, nearest first."""
        live = models.Filter(
            must=[
                _equals("partition", partition),
                models.FieldCondition(key="expires", range=models.Range(gt=self._clock())),
            ]
        )
        found = await self.do(
            self.client.query_points(
                await self.collection(),
                query=_floats(vector),
                query_filter=live,
                limit=k,
                with_payload=True,
            )
        )
        read = ((question_of(str(p.id), p.payload), p.score) for p in found.points)
        return tuple(Neighbour(q, float(score)) for q, score in read if q is not None)

    async def keep(self, question: StoredQuestion, vector: bytes) -> None:
        """Keep ``question``, in place of an older one of its id."""
        point = models.PointStruct(
            id=str(UUID(hex=question.id)), vector=_floats(vector), payload=payload_of(question)
        )
        await self.do(self.client.upsert(await self.collection(), [point], wait=True))

    async def fetch(self, entry_id: str) -> StoredQuestion | None:
        """The live question of that id."""
        records = await self.do(
            self.client.retrieve(await self.collection(), [str(UUID(hex=entry_id))])
        )
        found = [question_of(str(record.id), record.payload) for record in records]
        return next((q for q in found if q and q.expires_unix_s > self._clock()), None)

    async def page(
        self, tenant: str, after: str, limit: int
    ) -> tuple[tuple[StoredQuestion, ...], str]:
        """Live questions of ``tenant`` from the id ``after`` on, and where the next page begins."""
        live = models.FieldCondition(key="expires", range=models.Range(gt=self._clock()))
        records, following = await self.do(
            self.client.scroll(
                await self.collection(),
                scroll_filter=models.Filter(must=[_equals("tenant", tenant), live]),
                limit=limit,
                offset=after or None,
            )
        )
        found = (question_of(str(record.id), record.payload) for record in records)
        return tuple(q for q in found if q is not None), str(following or "")

    async def remove(self, ids: tuple[str, ...]) -> int:
        """Remove these; says how many were there."""
        points: list[int | str | UUID] = [str(UUID(hex=each)) for each in ids]
        selector, there = models.PointIdsList(points=points), 0
        for name in await self._all():
            there += len(await self.do(self.client.retrieve(name, points, with_payload=False)))
            await self.do(self.client.delete(name, selector, wait=True))
        return there

    async def remove_where(self, which: QuestionFilter) -> int:
        """Remove those that match; says how many were there."""
        must = []
        if which.tenant:
            must.append(_equals("tenant", which.tenant))
        if which.model:
            must.append(_equals("model", which.model))
        if which.tags:
            match = models.MatchAny(any=list(which.tags))
            must.append(models.FieldCondition(key="tags", match=match))
        matching = models.Filter(must=[*must])
        selector, there = models.FilterSelector(filter=matching), 0
        for name in await self._all():
            there += (await self.do(self.client.count(name, matching, exact=True))).count
            await self.do(self.client.delete(name, selector, wait=True))
        return there

    async def count(self) -> int:
        """How many are kept, expired ones that were not yet removed included."""
        return (await self.do(self.client.count(await self.collection(), exact=True))).count

    async def sweep(self) -> None:
        """Remove what has expired."""
        gone = models.FieldCondition(key="expires", range=models.Range(lte=self._clock()))
        selector = models.FilterSelector(filter=models.Filter(must=[gone]))
        await self.do(self.client.delete(await self.collection(), selector, wait=True))

    async def aclose(self) -> None:
        """Close the client's connections; idempotent."""
        await self.client.close()

    async def older(self) -> tuple[str, ...]:
        """The collections of this program's other encoders; none where the key may not list them."""
        current = await self.collection()
        try:
            listed = await self.do(self.client.get_collections())
        except StoreError as exc:
            if getattr(exc.__cause__, "status_code", 0) in _FORBIDDEN:
                return ()
            raise
        ours = (each.name for each in listed.collections if each.name.startswith(COLLECTIONS))
        named = collection_name(
            self._build_id()
        )  # by whom it was made, where that is not the current
        return tuple(sorted(name for name in ours if name not in {current, named}))

    async def _all(self) -> tuple[str, ...]:
        """Where removals reach: the older ones first, as what is being brought over would come back."""
        return (*await self.older(), await self.collection())

    async def collection(self) -> str:
        """The one in force, made where it is missing."""
        build_id = self._build_id()
        if not build_id:
            raise StoreError("the encoder is not there yet", code="store_away")
        name = collection_name(build_id)
        if name not in self._ready:
            self._ready[name] = await self._opened(name)
        return self._ready[name]

    async def _opened(self, name: str) -> str:
        """The collection of that name, or one beside it where it holds vectors of another size."""
        if not await self.do(self.client.collection_exists(name)):
            await self._make(name)
            return name
        info = await self.do(self.client.get_collection(name))
        vectors = info.config.params.vectors
        if isinstance(vectors, models.VectorParams) and vectors.size == _DIMENSION:
            return name
        beside = f"{name}-d{_DIMENSION}"  # whoever made the other one is left to it
        if not await self.do(self.client.collection_exists(beside)):
            await self._make(beside)
        return beside

    async def _make(self, name: str) -> None:
        size = models.VectorParams(size=_DIMENSION, distance=models.Distance.COSINE)
        await self.do(self.client.create_collection(name, vectors_config=size))
        tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        await self.do(self.client.create_payload_index(name, "partition", tenant))
        keyword, number = models.PayloadSchemaType.KEYWORD, models.PayloadSchemaType.FLOAT
        for field in ("tenant", "model", "tags"):
            await self.do(self.client.create_payload_index(name, field, keyword))
        await self.do(self.client.create_payload_index(name, "expires", number))

    async def do(self, call: Awaitable[T]) -> T:
        """Await ``call`` of the client; whatever it raises becomes ``StoreError``."""
        try:
            return await call
        except Exception as exc:  # the client lets its transports' own errors through
            raise StoreError(f"Qdrant: {type(exc).__name__}: {str(exc)[:200]}") from exc


async def sweeping(store: QdrantStore, period_s: float, on_fault: Callable[[str], None]) -> None:
    """Remove what has expired, every ``period_s``, until cancelled: a server does not do so by itself."""
    while True:
        await asyncio.sleep(period_s)
        try:
            await store.sweep()
        except StoreError as exc:
            if exc.code != "store_away":  # the encoder is still starting: nothing to name
                on_fault(f"what has expired could not be removed: {exc.message}")


class RemoteVectors:
    """The encoder of the vector process over a ``QdrantStore``: two round trips, one budget."""

    def __init__(self, process: VectorProcess, store: QdrantStore) -> None:
        """Own neither."""
        self._process, self._store = process, store
        self.nearest, self.keep, self.fetch = store.nearest, store.keep, store.fetch
        self.remove, self.remove_where, self.count = store.remove, store.remove_where, store.count
        self.embed, self.page = process.embed, store.page

    @property
    def build_id(self) -> str:
        """The encoder's, "" while it is away."""
        return self._process.build_id

    async def recall(self, text: str, partition: str, k: int) -> VectorSearchResult | TextTooLong:
        """The vector of ``text`` and the ``k`` nearest live questions of ``partition``."""
        vector = await self._process.embed(text)
        if isinstance(vector, TextTooLong):
            return vector
        return VectorSearchResult(vector, await self._store.nearest(vector, partition, k))


def _equals(name: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=name, match=models.MatchValue(value=value))


def _floats(vector: bytes) -> list[float]:
    floats: list[float] = np.frombuffer(vector, dtype="<f4").tolist()
    return floats
