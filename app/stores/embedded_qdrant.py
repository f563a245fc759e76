"""Questions in Qdrant's embedded engine: one folder, owned by one process.

The engine holds the interpreter's lock while it merges segments (seconds for tens of thousands of vectors),
so this class is for the vector process alone. Every write is in the engine's log at once and survives a kill.
Damaged or foreign files are put aside, never repaired by guessing, and never removed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

import msgspec
import numpy as np
import qdrant_edge as edge

from app.domain.vectors import Neighbour, QuestionFilter, StoredQuestion
from app.errors import StoreError
from app.stores.vectors import collection_name, payload_of, question_of

MARKER = "slipstream.json"
_OPTIMIZE_AFTER = 2_000
"""Points written since the last merge that make another worth its seconds."""
_ALL_BUT_THE_ANSWER = edge.PayloadSelector.Exclude(["body"])
_MANY = 200_000
_SEARCH, _SEARCH_MANY = edge.SearchParams(hnsw_ef=32), edge.SearchParams(hnsw_ef=64)
"""How wide the index is searched, up to `_MANY` questions and beyond. At 100,000, 32 finds 99.2 % of the
nearest ten in 0.34 ms of CPU, 64 finds 99.7 % in 0.47, and the engine's own 100 finds 99.8 % in 0.61."""


class EmbeddedQdrant:
    """Kept questions under ``folder``, at most ``max_points`` of them."""

    def __init__(
        self,
        folder: Path,
        *,
        build_id: str,
        dimension: int,
        max_points: int = 1_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open what is there, or begin anew beside what cannot be read.

        Raises ``StoreError`` when another process owns the folder or it cannot be written.
        """
        self._clock = clock
        self._max_points = max_points
        self._dimension = dimension
        self._written = 0
        self.moved_aside: list[str] = []
        self.path = folder / collection_name(build_id)
        self._shard = self._open(build_id)
        self._search = self._width()

    def _width(self) -> edge.SearchParams:
        return _SEARCH if self.count() <= _MANY else _SEARCH_MANY

    def _open(self, build_id: str) -> edge.EdgeShard:
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size=self._dimension, distance=edge.Distance.Cosine)
        )
        marker = self.path / MARKER
        wanted = msgspec.json.encode({"build": build_id, "dimension": self._dimension})
        try:
            if self.path.exists():
                if marker.is_file() and marker.read_bytes() == wanted:
                    shard = self._load(config)
                    if shard is not None:
                        return shard
                else:
                    self._put_aside("no marker of this program and encoder")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            shard = edge.EdgeShard.create(str(self.path), config)
            _index(shard)
            marker.write_bytes(wanted)
        except OSError as exc:
            raise StoreError(f"cannot write vectors to {self.path}: {exc.strerror}") from exc
        return shard

    def _load(self, config: edge.EdgeConfig) -> edge.EdgeShard | None:
        try:
            shard = edge.EdgeShard.load(str(self.path), config)
            shard.count(edge.CountRequest(exact=True))
        except BaseException as exc:  # the engine panics with a type below BaseException
            if isinstance(exc, (KeyboardInterrupt, SystemExit)):
                raise
            if "WouldBlock" in str(exc):
                raise StoreError(f"another process owns the vectors in {self.path}") from exc
            self._put_aside(str(exc)[:200])
            return None
        return shard

    def _put_aside(self, why: str) -> None:
        for number in range(1, 1_000):
            target = self.path.with_name(f"{self.path.name}.aside-{number}")
            if not target.exists():
                self.path.rename(target)
                self.moved_aside.append(f"{target.name}: {why}")
                return
        raise StoreError(f"too many damaged folders beside {self.path}: remove some")

    def nearest(
        self, vector: bytes, partition: str, k: int, *, exact: bool = False
    ) -> list[Neighbour]:
        """The ``k`` nearest live questions of ``partition``, nearest first.

        ``exact``: by comparing with every one of them, as a measure of what the index misses.
        """
        query = edge.QueryRequest(
            limit=k,
            query=edge.Query.Nearest(_floats(vector, self._dimension)),
            filter=edge.Filter(
                must=[
                    _equals("partition", partition),
                    edge.FieldCondition("expires", range=edge.RangeFloat(gt=self._clock())),
                ]
            ),
            with_payload=True,
            params=edge.SearchParams(exact=True) if exact else self._search,
        )
        found = []
        for point in self._shard.query(query):
            question = question_of(str(point.id), point.payload)
            if question is not None:
                found.append(Neighbour(question, float(point.score)))
        return found

    def keep(self, items: Sequence[tuple[StoredQuestion, bytes]]) -> None:
        """Keep each, in the log when this returns; makes room first where there is none."""
        if self._written % 256 + len(items) >= 256 or self._max_points < 256:  # noqa: PLR2004 - now and then
            self.make_room(len(items))
        points = [
            edge.Point(
                str(UUID(hex=question.id)), _floats(vector, self._dimension), payload_of(question)
            )
            for question, vector in items
        ]
        self._shard.update(edge.UpdateOperation.upsert_points(points))
        self._written += len(points)

    def fetch(self, entry_id: str) -> StoredQuestion | None:
        """The live question of that id."""
        for record in self._shard.retrieve(
            [str(UUID(hex=entry_id))], with_payload=True, with_vector=False
        ):
            question = question_of(entry_id, record.payload)
            if question is not None and question.expires_unix_s > self._clock():
                return question
        return None

    def page(self, tenant: str, after: str, limit: int) -> tuple[list[StoredQuestion], str]:
        """Live questions of ``tenant`` from the id ``after`` on, and where the next page begins."""
        live = edge.FieldCondition("expires", range=edge.RangeFloat(gt=self._clock()))
        records, following = self._shard.scroll(
            edge.ScrollRequest(
                offset=after or None,
                limit=limit,
                filter=edge.Filter(must=[_equals("tenant", tenant), live]),
                with_payload=True,
            )
        )
        found = (question_of(str(record.id), record.payload) for record in records)
        return [q for q in found if q is not None], str(following or "")

    def some(self, after: str, limit: int) -> tuple[list[tuple[str, StoredQuestion | None]], str]:
        """Anybody's questions by id without their answers, expired ones too, from ``after`` on; None for
        what cannot be read.
        """
        records, following = self._shard.scroll(
            edge.ScrollRequest(offset=after or None, limit=limit, with_payload=_ALL_BUT_THE_ANSWER)
        )
        bare = ((str(r.id), {"body": "", **(r.payload or {})}) for r in records)
        found = [(point.replace("-", ""), question_of(point, payload)) for point, payload in bare]
        return found, str(following or "")

    def remove(self, ids: Sequence[str]) -> int:
        """Remove these; says how many were there."""
        points: list[int | UUID | str] = [str(UUID(hex=each)) for each in ids]
        there = len(self._shard.retrieve(points, with_payload=False, with_vector=False))
        self._shard.update(edge.UpdateOperation.delete_points(points))
        return there

    def remove_where(self, which: QuestionFilter) -> int:
        """Remove those that match; says how many were there."""
        must: list[edge.FieldCondition] = []
        if which.tenant:
            must.append(_equals("tenant", which.tenant))
        if which.model:
            must.append(_equals("model", which.model))
        if which.tags:
            must.append(edge.FieldCondition("tags", match=edge.MatchAny(list(which.tags))))
        return self._remove_matching(edge.Filter(must=[*must]))

    def count(self) -> int:
        """How many are kept, expired ones that were not yet removed included."""
        return int(self._shard.count(edge.CountRequest(exact=True)))

    def make_room(self, wanted: int) -> None:
        """Remove what has expired; then, over the limit, a sixteenth of the rest, soonest to expire first."""
        gone = edge.Filter(
            must=[edge.FieldCondition("expires", range=edge.RangeFloat(lte=self._clock()))]
        )
        self._remove_matching(gone)
        over = self.count() + wanted - self._max_points
        if over <= 0:
            return
        doomed, _ = self._shard.scroll(
            edge.ScrollRequest(
                limit=max(over, self._max_points // 16),
                with_payload=False,
                order_by=edge.OrderBy("expires", edge.Direction.Asc),
            )
        )
        self._shard.update(edge.UpdateOperation.delete_points([str(r.id) for r in doomed]))

    def tend(self) -> None:
        """Flush, and merge segments where enough was written. Blocks for seconds: only when idle."""
        self._shard.flush()
        if self._written >= _OPTIMIZE_AFTER:
            self._written = 0
            self._shard.optimize()
            self._search = self._width()

    def close(self) -> None:
        """Flush and give the folder up."""
        self._shard.flush()
        self._shard.close()

    def _remove_matching(self, matching: edge.Filter) -> int:
        there = int(self._shard.count(edge.CountRequest(filter=matching, exact=True)))
        if there:
            self._shard.update(edge.UpdateOperation.delete_points_by_filter(matching))
        return there


def _index(shard: edge.EdgeShard) -> None:
    make = edge.UpdateOperation.create_field_index
    shard.update(make("partition", edge.KeywordIndexParams(is_tenant=True)))
    for name in ("tenant", "model", "tags"):
        shard.update(make(name, edge.PayloadSchemaType.Keyword))
    shard.update(make("expires", edge.PayloadSchemaType.Float))


def _equals(name: str, value: str) -> edge.FieldCondition:
    return edge.FieldCondition(name, match=edge.MatchValue(value))


def _floats(vector: bytes, dimension: int) -> list[float]:
    if len(vector) != 4 * dimension:
        raise StoreError(f"a vector of {len(vector)} bytes where {4 * dimension} are needed")
    floats: list[float] = np.frombuffer(vector, dtype="<f4").tolist()
    return floats
