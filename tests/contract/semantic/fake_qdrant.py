"""A Qdrant server as far as the store asks one: its REST calls over a real socket, points in a dict.

There is no server binary to test against here. The engine is tested through the embedded one, which
is Qdrant's own core; this holds the client side: paths, bodies, filters and answers of the REST calls.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import numpy as np

from app.stores.vectors import collection_name
from tests.support.tool_server import Asked, tool_server


def matches(payload: dict[str, object], condition: dict[str, object] | None) -> bool:
    """Whether a point's payload meets a filter of the forms that the store sends."""
    for must in (condition or {}).get("must") or ():
        value = payload.get(must["key"])
        values = value if isinstance(value, list) else [value]
        match, limits = must.get("match"), must.get("range")
        if match and "value" in match and match["value"] not in values:
            return False
        if match and "any" in match and not set(match["any"]) & set(values):
            return False
        if limits and limits.get("gt") is not None and not value > limits["gt"]:
            return False
        if limits and limits.get("lte") is not None and not value <= limits["lte"]:
            return False
    return True


@dataclass(slots=True)
class FakeQdrant:
    """One collection at ``url``."""

    name: str
    url: str = ""
    exists: bool = False
    indexes: dict[str, object] = field(default_factory=dict)
    points: dict[str, tuple[np.ndarray, dict[str, object]]] = field(default_factory=dict)
    size: int = 384
    """Of the vectors that the collection holds."""
    fail: int | None = None
    """Answer everything with this status."""
    listing: int = 200
    """The status of the answer to which collections there are."""
    on_put: Callable[[], None] = lambda: None
    """Called before points are put in."""
    older: list[FakeQdrant] = field(default_factory=list)
    """Other collections of the same server."""

    async def serve(self, asked: Asked) -> None:
        """One call."""
        if self.fail is not None:
            await asked.answer({"status": {"error": "told to"}}, self.fail)
            return
        body = json.loads(asked.body) if asked.body else {}
        if asked.target.partition("?")[0] == "/collections":
            names = [each.name for each in (self, *self.older) if each.exists]
            listed = {"collections": [{"name": name} for name in names]}
            answer = {"result": listed, "status": "ok", "time": 0.0}
            await asked.answer(answer, self.listing)
            return
        path = asked.target.partition("?")[0].removeprefix(f"/collections/{self.name}")
        result = getattr(self, "_" + (f"{asked.method}{path}".replace("/", "_").lower()))(body)
        await asked.answer({"result": result, "status": "ok", "time": 0.0})

    def _get_exists(self, _):
        return {"exists": self.exists}

    def _get(self, _):
        optimizer = {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000}
        optimizer |= {"default_segment_number": 0, "flush_interval_sec": 5}
        return {
            "status": "green", "optimizer_status": "ok", "indexed_vectors_count": 0,
            "points_count": len(self.points), "segments_count": 1, "payload_schema": {},
            "config": {
                "params": {"vectors": {"size": self.size, "distance": "Cosine"}},
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
                "optimizer_config": optimizer,
            },
        }  # fmt: skip

    def _put(self, body):
        assert body["vectors"] == {"size": 384, "distance": "Cosine"}
        self.exists = True
        return True

    def _put_index(self, body):
        self.indexes[body["field_name"]] = body["field_schema"]
        return {"operation_id": 1, "status": "completed"}

    def _put_points(self, body):
        self.on_put()
        for point in body["points"]:
            vector = np.array(point["vector"])
            self.points[point["id"]] = (vector / np.linalg.norm(vector), point["payload"])
        return {"operation_id": 1, "status": "completed"}

    def _post_points(self, body):
        found = [(i, self.points[i][1]) for i in body["ids"] if i in self.points]
        return [{"id": i, "payload": p if body.get("with_payload") else None} for i, p in found]

    def _post_points_query(self, body):
        query = body["query"]
        asked = np.array(query["nearest"] if isinstance(query, dict) else query)
        near = sorted(
            (
                {"id": i, "version": 1, "score": float(v @ asked), "payload": p}
                for i, (v, p) in self.points.items()
                if matches(p, body.get("filter"))
            ),
            key=lambda point: -point["score"],
        )
        return {"points": near[: body["limit"]]}

    def _post_points_scroll(self, body):
        there = sorted(i for i, (_, p) in self.points.items() if matches(p, body.get("filter")))
        there = [i for i in there if i >= (body.get("offset") or "")]
        shown, rest = there[: body["limit"]], there[body["limit"] :]
        records = [{"id": i, "payload": self.points[i][1]} for i in shown]
        return {"points": records, "next_page_offset": rest[0] if rest else None}

    def _post_points_count(self, body):
        return {"count": sum(matches(p, body.get("filter")) for _, p in self.points.values())}

    def _post_points_delete(self, body):
        doomed = body.get("points")
        if doomed is None:
            doomed = [i for i, (_, p) in self.points.items() if matches(p, body["filter"])]
        for point in doomed:
            self.points.pop(point, None)
        return {"operation_id": 1, "status": "completed"}


@contextlib.asynccontextmanager
async def fake_qdrant(build_id: str, *older: str) -> AsyncIterator[FakeQdrant]:
    """Serve an empty one; beside it, collections of these ``older`` builds."""
    fake = FakeQdrant(collection_name(build_id))
    fake.older = [FakeQdrant(collection_name(each), exists=True) for each in older]
    points = ("", "/query", "/count", "/scroll", "/delete")
    paths = ("", "/exists", "/index", *(f"/points{each}" for each in points))
    routes = {
        f"/collections/{each.name}{path}": each.serve
        for each in (fake, *fake.older)
        for path in paths
    }
    async with tool_server({"/collections": fake.serve, **routes}) as server:
        fake.url = server.url
        yield fake
