"""What every store of questions promises: the embedded engine in its process, and a Qdrant server."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from app.domain.vectors import QuestionFilter, StoredQuestion
from app.errors import StoreError
from app.stores.qdrant import QdrantStore
from app.stores.sidecar_client import VectorProcess
from app.stores.vectors import collection_name
from tests.contract.semantic.fake_qdrant import FakeQdrant, fake_qdrant
from tests.support.tool_server import tool_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
BUILD = "test/build:1"


@pytest.fixture(scope="module", params=["embedded", "server"])
async def store(request, tmp_path_factory):
    """Each store, open for the module; tests use partitions and tenants of their own."""
    if request.param == "server":
        async with fake_qdrant(BUILD) as fake:
            made = QdrantStore(fake.url, build_id=lambda: BUILD)
            yield made
            await made.aclose()
        return
    process = VectorProcess(
        tmp_path_factory.mktemp("vectors"),
        Path(sys.prefix) / "embedder",
        on_state=lambda _: None,
    )
    await process.start()
    await asyncio.wait_for(process.there.wait(), 60)
    yield process
    await process.aclose()


@pytest.fixture
def partition() -> str:
    return uuid4().hex


def vector(*head: float) -> bytes:
    """A unit vector that begins so."""
    full = np.zeros(384, dtype="<f4")
    full[: len(head)] = head
    return (full / np.linalg.norm(full)).tobytes()


def question(partition: str, **fields: object) -> StoredQuestion:
    now = round(time.time(), 3)  # one of the ways there keeps no more digits
    values = {
        "id": uuid4().hex, "partition": partition, "tenant": partition, "model": "small",
        "tags": (), "kept_unix_s": now, "expires_unix_s": now + 60, "text": "why?", "body": "{}",
        **fields,
    }  # fmt: skip
    return StoredQuestion(**values)


async def test_what_was_kept_is_found_whole_nearest_first(store, partition):
    near = question(partition, text="nah dran: ü", tags=("a", "b"), body='{"x": 1}')
    far = question(partition)
    await store.keep(far, vector(1, 1))
    await store.keep(near, vector(1, 0.1))
    found = await store.nearest(vector(1), partition, 8)
    assert [each.question for each in found] == [near, far]
    assert found[0].cosine == pytest.approx(1 / np.sqrt(1.01), abs=1e-4)
    assert len(await store.nearest(vector(1), partition, 1)) == 1
    assert await store.fetch(near.id) == near


async def test_another_partition_is_never_seen(store, partition):
    await store.keep(question(partition), vector(1))
    assert await store.nearest(vector(1), partition + "x", 8) == ()
    assert await store.nearest(vector(1), uuid4().hex, 8) == ()


async def test_what_has_expired_is_not_found(store, partition):
    old = question(partition, expires_unix_s=time.time() - 1)
    await store.keep(old, vector(1))
    assert await store.nearest(vector(1), partition, 8) == ()
    assert await store.fetch(old.id) is None


async def test_the_same_id_replaces(store, partition):
    first = question(partition, text="first")
    await store.keep(first, vector(1))
    second = question(partition, id=first.id, text="second")
    await store.keep(second, vector(0, 1))
    found = await store.nearest(vector(1), partition, 8)
    assert [each.question.text for each in found] == ["second"]


async def test_what_was_removed_is_gone_at_once_and_counted_once(store, partition):
    one, two = question(partition), question(partition)
    before = await store.count()
    await store.keep(one, vector(1))
    await store.keep(two, vector(1))
    assert await store.count() == before + 2
    assert await store.remove((one.id, uuid4().hex)) == 1
    assert await store.remove((one.id,)) == 0
    assert [n.question.id for n in await store.nearest(vector(1), partition, 8)] == [two.id]


@pytest.mark.parametrize(
    ("which", "left"),
    [
        ({}, set()),
        ({"model": "small"}, {"c"}),
        ({"tags": ("x", "z")}, {"b", "c"}),
        ({"model": "large", "tags": ("x",)}, {"a", "b", "c"}),
    ],
    ids=str,
)
async def test_removing_what_matches_leaves_the_rest(store, partition, which, left):
    kept = {
        "a": question(partition, tags=("x", "y")),
        "b": question(partition, tags=("y",)),
        "c": question(partition, model="large"),
    }
    other = question(partition, tenant=uuid4().hex, tags=("x",))
    for each in (*kept.values(), other):
        await store.keep(each, vector(1))
    gone = await store.remove_where(QuestionFilter(tenant=partition, **which))
    found = {n.question.id for n in await store.nearest(vector(1), partition, 8)}
    assert found == {kept[name].id for name in left} | {other.id}, "another tenant's stay"
    assert gone == 3 - len(left)


async def test_a_server_that_fails_or_is_gone_is_a_store_error():
    async with fake_qdrant(BUILD) as fake:
        store = QdrantStore(fake.url, build_id=lambda: BUILD)
        assert await store.count() == 0
        assert fake.indexes["partition"] == {"type": "keyword", "is_tenant": True}
        fake.fail = 500
        with pytest.raises(StoreError):
            await store.nearest(vector(1), "p", 8)
    with pytest.raises(StoreError):
        await store.count()
    await store.aclose()


async def test_pages_hold_every_live_question_of_a_tenant_once(store, partition):
    now = time.time()
    kept = [question(partition) for _ in range(7)]
    gone = question(partition, expires_unix_s=now - 1)
    other = question(partition, tenant="somebody else")
    for number, each in enumerate([*kept, gone, other]):
        await store.keep(each, vector(1, number))
    seen, after = [], ""
    while True:
        page, after = await store.page(partition, after, 3)
        assert len(page) <= 3
        seen += [each.id for each in page]
        if not after:
            break
    assert sorted(seen) == sorted(each.id for each in kept)


@pytest.mark.parametrize("size", [384, 768])
async def test_a_collection_that_somebody_else_made_is_used_or_left_alone(partition, size):
    """Without our indexes it is good all the same; with vectors of another size it is left to its maker,
    and one beside it is used.
    """
    name = collection_name(BUILD)
    there, beside = FakeQdrant(name, exists=True, size=size), FakeQdrant(f"{name}-d384")

    async def route(asked):
        found = beside if asked.target.startswith(f"/collections/{beside.name}") else there
        await found.serve(asked)

    points = ("", "/query")
    paths = ("", "/exists", "/index", *(f"/points{each}" for each in points))
    roots = [f"/collections/{each.name}" for each in (there, beside)]
    async with tool_server({root + path: route for root in roots for path in paths}) as server:
        made = QdrantStore(server.url, build_id=lambda: BUILD)
        kept = question(partition)
        await made.keep(kept, vector(1.0))
        found = await made.nearest(vector(1.0), partition, 1)
        await made.aclose()
    assert [each.question.id for each in found] == [kept.id]
    assert (len(there.points), len(beside.points)) == ((1, 0) if size == 384 else (0, 1))
