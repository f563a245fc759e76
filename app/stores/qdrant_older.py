"""Questions of other encoders in a Qdrant server, to be re-embedded by `app.stores.reembedding`.

The collections are not this gateway's alone: during a rolling update others still search the old one. So
a collection that was written to in the last ten minutes is left for a later pass, a question that was
moved names its origin and is not moved back by a gateway that still has that encoder, and an emptied
collection is not removed.

Removals go to the older collections first and to the current one then (`QdrantStore.remove`). A question
that left the older one while it was being moved is therefore removed from the new one again: it was
invalidated, or another gateway was as fast, and a cache may lose what it must not bring back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Final
from uuid import UUID

import numpy as np
from qdrant_client import models

from app.domain.vectors import StoredQuestion
from app.stores.qdrant import QdrantStore
from app.stores.sidecar_client import VectorProcess
from app.stores.vectors import Found, Number, OlderPage, Reply, question_of

QUIET_S: Final = 600.0
FROM: Final = "from"
"""The payload's field that names the collection which a question was brought from."""
_ALL_BUT_THE_ANSWER: Final = models.PayloadSelectorExclude(exclude=["body"])


class OlderQdrantCollections:
    """The older collections of ``store``'s server."""

    def __init__(
        self,
        store: QdrantStore,
        process: VectorProcess,
        *,
        rng: Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Own neither. ``rng`` orders a page, so that gateways of several machines rarely do the same."""
        self._store, self._process, self._rng, self._clock = store, process, rng, clock
        self._names: tuple[str, ...] = ()
        self._from: dict[str, str] = {}
        self._moved = 0

    async def older(self, after: str, limit: int) -> OlderPage:
        """Live questions of the collections that nobody writes to any more, without their answers."""
        if not after:
            found = await self._store.older()
            self._names = tuple([name for name in found if not await self._in_use(name)])
        place, _, offset = after.partition(":")
        number = int(place or 0)
        if number >= len(self._names):
            return OlderPage((), "", moving=False, left=0, moved=self._moved)
        name, current = self._names[number], await self._store.collection()
        records, following = await self._store.do(
            self._store.client.scroll(
                name, limit=limit, offset=offset or None, with_payload=_ALL_BUT_THE_ANSWER
            )
        )
        self._from.clear()
        questions = []
        for record in records:
            payload = {**(record.payload or {}), "body": ""}
            question = question_of(str(record.id), payload)
            if question is None or payload.get(FROM) == current:
                continue
            if question.expires_unix_s > self._clock():
                questions.append(question)
                self._from[question.id] = name
        self._rng.shuffle(questions)
        next_up = f"{number}:{following}" if following else f"{number + 1}:"
        over = not following and number + 1 == len(self._names)
        return OlderPage(
            tuple(questions), "" if over else next_up, moving=False, left=0, moved=self._moved
        )

    async def anew(self, question: StoredQuestion, text: str) -> Reply:
        """Keep ``question`` at the vector of its ``text``, and take it out of the older collection."""
        made = await self._process.spare(text)
        name = self._from.get(question.id)
        if not isinstance(made, Found) or name is None:
            return made
        store, client, point = self._store, self._store.client, str(UUID(hex=question.id))
        current = await store.collection()
        there = await store.do(client.retrieve(name, [point]))
        if not there:
            return Number(0)
        newer = await store.do(client.retrieve(current, [point], with_payload=False))
        if not newer:
            vector: list[float] = np.frombuffer(made.vector, dtype="<f4").tolist()
            payload = {**(there[0].payload or {}), FROM: name}
            kept = models.PointStruct(id=point, vector=vector, payload=payload)
            await store.do(client.upsert(current, [kept], wait=True))
            if not await store.do(client.retrieve(name, [point], with_payload=False)):
                await self._remove(current, point)
                return Number(0)
        await self._remove(name, point)
        self._moved += 1
        return made

    async def _remove(self, name: str, point: str) -> None:
        selector = models.PointIdsList(points=[point])
        await self._store.do(self._store.client.delete(name, selector, wait=True))

    async def _in_use(self, name: str) -> bool:
        """Whether somebody kept something there lately."""
        client = self._store.client
        kind = models.PayloadSchemaType.FLOAT  # some servers only filter by what is indexed
        await self._store.do(client.create_payload_index(name, "kept", kind, wait=True))
        since = models.Range(gt=self._clock() - QUIET_S)
        lately = models.Filter(must=[models.FieldCondition(key="kept", range=since)])
        return (await self._store.do(client.count(name, lately, exact=True))).count > 0
