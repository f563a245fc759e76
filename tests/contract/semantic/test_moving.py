"""Another encoder: what was kept under the old one is brought over, and nothing removed comes back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.domain.vectors import Which
from app.stores.edge import EdgeStore
from app.stores.moving import Older
from app.stores.onnx_embedder import Embedded
from app.stores.seal import Sealer
from app.stores.sealed_vectors import SealedVectors
from app.stores.sidecar import Worker
from app.stores.vectors import Recall, Remove, RemoveWhere
from tests.contract.semantic.test_embedded_engine import question, vector

NOW_S = 1_000.0
TEXTS = ("one?", "two?", "three?")


def embed(text: str) -> bytes | None:
    return None if text == "long" else vector(sum(text.encode()))


@pytest.fixture
def kept(tmp_path):
    """Three questions under an old build of another dimension, and an expired one."""
    old = EdgeStore(tmp_path, build_id="old:1", dimension=4, clock=lambda: NOW_S)
    made = [question(2_000.0, text=text, tags=("t",) if text == "two?" else ()) for text in TEXTS]
    for each in [*made, question(999.0, text="expired?")]:
        old.keep([(each, bytes(16))])
    old.close()
    return made


@pytest.fixture
def store(tmp_path):
    made = EdgeStore(tmp_path, build_id="new:2", dimension=8, clock=lambda: NOW_S)
    yield made
    made.close()


def moved(older: Older) -> None:
    for _ in range(100):
        older.step()
    assert not older


def older_than(store: EdgeStore) -> Older:
    return Older(store.path.parent, store, embed, clock=lambda: NOW_S)


def test_everything_live_is_found_by_its_new_vector_and_the_old_folder_goes(kept, store):
    moved(older_than(store))
    for each in kept:
        near = store.nearest(embed(each.text), "p", 1)
        assert near[0].question == each
        assert near[0].cosine == pytest.approx(1.0, abs=1e-5)
    assert store.count() == len(kept)
    assert [p.name for p in store.path.parent.glob("questions-*")] == [store.path.name]


def test_a_process_that_ends_in_the_middle_loses_nothing(kept, store):
    first = older_than(store)
    for _ in range(4):  # one to look, one for what has expired, whose turn is anywhere
        first.step()
        if store.count():
            break
    first.close()
    assert store.count() == 1
    moved(older_than(store))
    assert {each.id for each in kept} == {e.id for e in kept if store.fetch(e.id) is not None}


def test_a_newer_answer_is_not_replaced_by_the_older_one(kept, store):
    newer = replace(kept[0], body="newer")
    store.keep([(newer, embed(newer.text))])
    moved(older_than(store))
    assert store.fetch(newer.id).body == "newer"


def test_what_is_removed_meanwhile_does_not_come_back(kept, store):
    older = older_than(store)
    older.step()
    assert older.remove((kept[0].id,)) == 1
    assert older.remove_where(Which(tags=("t",))) == 1
    moved(older)
    assert [store.fetch(each.id) is not None for each in kept] == [False, False, True]


@pytest.mark.anyio
async def test_what_cannot_be_read_here_stays_where_it_is(tmp_path, store):
    old = EdgeStore(tmp_path, build_id="old:1", dimension=8, clock=lambda: NOW_S)
    old.keep([(question(2_000.0, text="long"), vector(1))])

    class Inner:
        """Keeps in the old store."""

        remove = remove_where = count = embed = None

        async def keep(self, sealed, at) -> None:
            old.keep([(sealed, at)])

    secret = question(2_000.0, text="secret?")
    await SealedVectors(Inner(), Sealer([b"k" * 32])).keep(secret, vector(2))
    old.close()
    moved(older_than(store))
    assert store.count() == 0
    again = EdgeStore(tmp_path, build_id="old:1", dimension=8, clock=lambda: NOW_S)
    assert again.count() == 2
    again.close()


class _Encoder:
    """Embeds as the tests do."""

    build_id = "new:2"

    def vector(self, text: str):
        return embed(text)

    def embed_with_tokens(self, text: str) -> Embedded:
        made = np.frombuffer(embed(text), "<f4")
        return Embedded(made, made[None], np.zeros(1, np.int64))


def test_the_process_moves_between_requests_and_removes_from_both(kept, store):
    worker = Worker(_Encoder(), store)
    worker.older = older_than(store)
    worker.older.step()
    assert worker.answer(Remove((kept[0].id,))).value == 1
    assert worker.answer(RemoveWhere(Which(tags=("t",)))).value == 1
    while worker.move():
        pass
    found = worker.answer(Recall("three?", "p", 4, NOW_S))
    assert [near.question.id for near in found.near] == [kept[2].id]
