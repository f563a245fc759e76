"""Another encoder, and a Qdrant server: what its older collections hold is brought over, and stays forgotten
where it was.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random
from uuid import UUID, uuid4
from zlib import crc32

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient

from app.domain.vectors import QuestionFilter, StoredQuestion
from app.errors import StoreError
from app.stores.qdrant import QdrantStore
from app.stores.qdrant_older import FROM, QUIET_S, OlderQdrantCollections
from app.stores.reembedding import LeftBehind, Reembedding
from app.stores.seal import Sealer
from app.stores.sealed_vectors import SealedVectors, plain_text
from app.stores.vectors import Busy, Found, TooLong, collection_name
from tests.contract.semantic.fake_qdrant import FakeQdrant, fake_qdrant

pytestmark = pytest.mark.anyio
OLD, NEW = "old/build:1", "new/build:2"


def vector(text: str) -> bytes:
    drawn = np.random.default_rng(crc32(text.encode())).normal(size=384)
    return (drawn / np.linalg.norm(drawn)).astype("<f4").tobytes()


class _Encoder:
    """The vector process's encoder, as `spare` asks it."""

    def __init__(self) -> None:
        self.busy = 0

    async def spare(self, text: str):
        if self.busy:
            self.busy -= 1
            return Busy()
        return TooLong(300) if text == "long" else Found(vector(text), ())


@dataclass
class World:
    """A server with a collection of each build, and what a gateway of the new one does about them."""

    server: FakeQdrant
    store: QdrantStore
    encoder: _Encoder = field(default_factory=_Encoder)
    moved: int = 0
    left: list[LeftBehind] = field(default_factory=list)

    @property
    def old(self) -> FakeQdrant:
        return self.server.older[0]

    def older(self) -> OlderQdrantCollections:
        return OlderQdrantCollections(self.store, self.encoder, rng=Random(0))

    async def bring(self, read=plain_text, older=None) -> None:
        def count(more: int) -> None:
            self.moved += more

        async def sleep(_: float) -> None:
            return

        made = Reembedding(
            older or self.older(), read, mine=lambda: True, on_moved=count, on_left=self.left.append,
            sleep=sleep,
        )  # fmt: skip
        assert await made.run_once()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with fake_qdrant(NEW, OLD) as server:
        store = QdrantStore(server.url, build_id=lambda: NEW)
        yield World(server, store)
        await store.aclose()


def question(text: str, **fields: object) -> StoredQuestion:
    now = round(time.time(), 3)
    values = {
        "id": uuid4().hex, "partition": "p", "tenant": "t", "model": "m", "tags": (),
        "kept_unix_s": now - 2 * QUIET_S, "expires_unix_s": now + 60, "text": text,
        "body": f"answer of {text}", **fields,
    }  # fmt: skip
    return StoredQuestion(**values)


async def kept_before(world: World, *texts: str, **fields: object) -> list[StoredQuestion]:
    """Kept by a gateway of the old build."""
    made = [question(text, **fields) for text in texts]
    before = QdrantStore(world.server.url, build_id=lambda: OLD)
    for each in made:
        await before.keep(each, vector("in another space"))
    await before.aclose()
    return made


async def test_everything_live_is_found_by_its_new_vector(world):
    texts = [f"question {n}?" for n in range(70)]  # more than a page
    kept = await kept_before(world, *texts)
    await kept_before(world, "expired?", expires_unix_s=time.time() - 1)
    world.encoder.busy = 2
    await world.bring()
    assert world.moved == len(kept)
    assert world.left == [LeftBehind()]
    for each in kept[::10]:
        near = (await world.store.nearest(vector(each.text), "p", 1))[0]
        assert near.question == each
        assert near.cosine == pytest.approx(1.0, abs=1e-4)
    assert len(world.old.points) == 1, "what has expired; the collection itself may be another's"


async def test_a_collection_that_others_still_keep_in_is_left_to_them(world):
    await kept_before(world, "old?")
    await kept_before(world, "new?", kept_unix_s=time.time())
    await world.bring()
    assert (world.moved, len(world.old.points)) == (0, 2)


async def test_what_was_brought_from_a_collection_is_not_taken_back_there(world):
    await kept_before(world, "one?")
    await world.bring()
    back = QdrantStore(world.server.url, build_id=lambda: OLD)
    await world.bring(older=OlderQdrantCollections(back, world.encoder, rng=Random(0)))
    await back.aclose()
    assert [p[FROM] for _, p in world.server.points.values()] == [collection_name(OLD)]
    assert not world.old.points


async def test_a_newer_answer_stays(world):
    (one,) = await kept_before(world, "one?")
    newer = question("one?", id=one.id, body="newer")
    await world.store.keep(newer, vector("one?"))
    await world.bring()
    assert (await world.store.fetch(one.id)).body == "newer"
    assert not world.old.points


async def test_removals_reach_both_and_what_is_removed_meanwhile_does_not_come_back(world):
    one, two, three = await kept_before(world, "one?", "two?", "three?")
    assert await world.store.remove((one.id,)) == 1
    assert await world.store.remove_where(QuestionFilter(tenant="t")) == 2
    await kept_before(world, "four?", id=two.id)
    removed = []

    class Slow(OlderQdrantCollections):
        async def _remove(self, name: str, point: str) -> None:
            removed.append(name)
            await super()._remove(name, point)

    older = Slow(world.store, world.encoder, rng=Random(0))
    world.server.on_put = world.old.points.clear
    await world.bring(older=older)
    assert removed == [world.server.name]
    assert (world.moved, world.server.points) == (0, {})
    assert await world.store.fetch(three.id) is None


async def test_what_is_sealed_is_read_with_its_key_or_counted(world):
    key, other = Sealer([b"k" * 32]), Sealer([b"o" * 32])
    before = QdrantStore(world.server.url, build_id=lambda: OLD)
    for text, seal in (("mine?", key), ("theirs?", other), ("long", key)):
        await SealedVectors(_Remembers(before), seal).keep(question(text), vector("elsewhere"))
    await before.aclose()
    await world.bring(SealedVectors(_Remembers(world.store), key).text_of)
    assert world.left == [LeftBehind(sealed=1, other=1)]
    ((_, payload),) = world.server.points.values()
    assert payload["text"] != "mine?", "it stays sealed"
    found = await SealedVectors(_Remembers(world.store), key).fetch(
        UUID(next(iter(world.server.points))).hex
    )
    assert (found.text, found.body) == ("mine?", "answer of mine?")


class _Remembers:
    """A store as `SealedVectors` wants it: it embeds nothing here."""

    def __init__(self, store: QdrantStore) -> None:
        self.keep, self.fetch, self.embed = store.keep, store.fetch, None
        self.remove, self.remove_where, self.count = store.remove, store.remove_where, store.count


async def test_a_key_that_may_not_list_collections_sees_no_older_ones(world):
    (one,) = await kept_before(world, "one?")
    world.server.listing = 403
    await world.bring()
    assert world.moved == 0
    assert await world.store.remove((one.id,)) == 0
    world.server.listing = 500
    with pytest.raises(StoreError):
        await world.store.remove((one.id,))


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
async def test_the_official_clients_own_engine_sees_it_the_same_way():
    """Not a server, but the vendor's reading of every call: filters, pages, selections, indexes."""
    client = AsyncQdrantClient(":memory:")
    stores = {
        build: QdrantStore("http://unused", build_id=lambda b=build: b) for build in (OLD, NEW)
    }
    for store in stores.values():
        await store.client.close()
        store.client = client
    kept = [question(f"question {n}?") for n in range(70)]
    lately = question("lately?", kept_unix_s=time.time())
    for each in kept:
        await stores[OLD].keep(each, vector("elsewhere"))
    await stores[OLD].keep(lately, vector("elsewhere"))
    heard, left = [], []

    async def sleep(_: float) -> None:
        return

    older = OlderQdrantCollections(stores[NEW], _Encoder(), rng=Random(0))
    made = Reembedding(
        older,
        plain_text,
        mine=lambda: True,
        on_moved=heard.append,
        on_left=left.append,
        sleep=sleep,
    )
    assert await made.run_once()
    assert heard == [], "somebody keeps there"
    assert await stores[NEW].remove((lately.id,)) == 1, "removals reach it"
    assert await made.run_once()
    assert (sum(heard), left) == (70, [LeftBehind(), LeftBehind()])
    for each in kept[::9]:
        near = (await stores[NEW].nearest(vector(each.text), "p", 1))[0]
        assert near.question == each
        assert near.cosine == pytest.approx(1.0, abs=1e-4)
    assert (await stores[OLD].count(), await stores[NEW].count()) == (0, 70)
    await client.close()
