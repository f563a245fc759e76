"""Another encoder: what was kept under the old one is brought over, and nothing removed comes back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from app.domain.vectors import QuestionFilter
from app.stores.embedded_qdrant import EmbeddedQdrant
from app.stores.older_builds import OlderBuilds
from app.stores.reembedding import LeftBehind, Reembedding
from app.stores.seal import Sealer
from app.stores.sealed_vectors import SealedVectors
from app.stores.sidecar import Worker
from app.stores.vectors import Busy, Found, Recall, Remove, RemoveWhere, Spare
from app.stores.vectors import Older as AskOlder
from tests.contract.semantic.test_embedded_engine import question, vector

NOW_S = 1_000.0
TEXTS = ("one?", "two?", "three?")


def embed(text: str) -> bytes | None:
    return None if text == "long" else vector(sum(text.encode()))


@pytest.fixture
def kept(tmp_path):
    """Three questions under an old build of another dimension, and an expired one."""
    old = EmbeddedQdrant(tmp_path, build_id="old:1", dimension=4, clock=lambda: NOW_S)
    made = [question(2_000.0, text=text, tags=("t",) if text == "two?" else ()) for text in TEXTS]
    for each in [*made, question(999.0, text="expired?")]:
        old.keep([(each, bytes(16))])
    old.close()
    return made


@pytest.fixture
def store(tmp_path):
    made = EmbeddedQdrant(tmp_path, build_id="new:2", dimension=8, clock=lambda: NOW_S)
    yield made
    made.close()


def moved(older: OlderBuilds) -> None:
    for _ in range(100):
        older.step()
    assert not older


def older_than(store: EmbeddedQdrant) -> OlderBuilds:
    return OlderBuilds(store.path.parent, store, embed, clock=lambda: NOW_S)


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
    assert older.remove_where(QuestionFilter(tags=("t",))) == 1
    moved(older)
    assert [store.fetch(each.id) is not None for each in kept] == [False, False, True]


class _Kept:
    """A store's `keep` alone."""

    remove = remove_where = count = embed = None

    def __init__(self, store: EmbeddedQdrant) -> None:
        self._store = store

    async def keep(self, sealed, at) -> None:
        self._store.keep([(sealed, at)])


KEY, OTHER_KEY = Sealer([b"k" * 32]), Sealer([b"o" * 32])


async def sealed_in(folder, seals: dict[str, Sealer]) -> dict[str, str]:
    """Questions of an old build, sealed by these; their ids."""
    old = EmbeddedQdrant(folder, build_id="old:1", dimension=8, clock=lambda: NOW_S)
    made = {text: question(2_000.0, text=text, body=f"answer of {text}") for text in seals}
    for number, (text, seal) in enumerate(seals.items()):
        await SealedVectors(_Kept(old), seal).keep(made[text], vector(number))
    old.close()
    return {text: each.id for text, each in made.items()}


def left_in(folder) -> int:
    again = EmbeddedQdrant(folder, build_id="old:1", dimension=8, clock=lambda: NOW_S)
    try:
        return again.count()
    finally:
        again.close()


@pytest.mark.anyio
async def test_what_cannot_be_read_here_stays_where_it_is(tmp_path, store):
    old = EmbeddedQdrant(tmp_path, build_id="old:1", dimension=8, clock=lambda: NOW_S)
    old.keep([(question(2_000.0, text="long"), vector(1))])
    old.close()
    await sealed_in(tmp_path, {"secret?": KEY})
    older = older_than(store)
    for _ in range(100):
        older.step()
    assert not older.moving
    older.close()
    assert store.count() == 0
    assert left_in(tmp_path) == 2


class _Process:
    """The vector process's side of the socket, in this one."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.busy = worker, 0

    async def older(self, after: str, limit: int):
        return self.worker.answer(AskOlder(after, limit))

    async def anew(self, asked, text: str):
        if self.busy:
            self.busy -= 1
            return Busy()
        return self.worker.answer(Spare(text, asked.id))


@dataclass
class _Heard:
    moved: int = 0
    left: list[LeftBehind] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)


def bringing(source, heard: _Heard, seal: Sealer) -> Reembedding:
    async def sleep(for_s: float) -> None:
        heard.slept.append(for_s)

    def moved(count: int) -> None:
        heard.moved += count

    return Reembedding(
        source, SealedVectors(_Kept(None), seal).text_of, mine=lambda: True, on_moved=moved,
        on_left=heard.left.append, sleep=sleep,
    )  # fmt: skip


def worker_over(store) -> Worker:
    worker = Worker(_Encoder(), store)
    worker.busy_at_s -= 10  # nobody has asked for a while
    worker.older = older_than(store)
    return worker


@pytest.mark.anyio
async def test_what_a_gateway_has_sealed_it_reads_and_the_folder_goes(tmp_path, store):
    seals = {f"secret {n}?": KEY for n in range(70)}  # more than a page
    ids = await sealed_in(tmp_path, seals)
    worker, heard = worker_over(store), _Heard()
    process = _Process(worker)
    bring = bringing(process, heard, KEY)
    assert not await bring.run_once(), "the process has not gone through the folder yet"
    while worker.move():
        pass
    process.busy = 3
    assert await bring.run_once()
    assert heard.slept.count(0.1) == 3, "it waits while others want the process"
    assert heard.moved == len(ids)
    assert heard.left == [LeftBehind()]
    found = store.nearest(embed("secret 3?"), "p", 1)[0]
    assert found.question.id == ids["secret 3?"]
    assert found.cosine == pytest.approx(1.0, abs=1e-5)
    assert SealedVectors(_Kept(store), KEY)._open(found.question).body == "answer of secret 3?"
    assert [p.name for p in tmp_path.glob("questions-*")] == [store.path.name]


@pytest.mark.anyio
async def test_what_no_key_opens_stays_and_is_counted(tmp_path, store):
    await sealed_in(tmp_path, {"mine?": KEY, "theirs?": OTHER_KEY, "long": KEY})
    worker, heard = worker_over(store), _Heard()
    while worker.move():
        pass
    assert await bringing(_Process(worker), heard, KEY).run_once()
    assert heard.moved == store.count() == 1
    assert heard.left == [LeftBehind(sealed=1, other=1)]
    worker.older.close()
    assert left_in(tmp_path) == 2


@pytest.mark.anyio
async def test_a_gateway_that_ends_in_the_middle_loses_nothing_that_it_sealed(tmp_path, store):
    ids = await sealed_in(tmp_path, {f"secret {n}?": KEY for n in range(5)})
    worker = worker_over(store)
    while worker.move():
        pass
    process = _Process(worker)
    page = await process.older("", 2)
    await process.anew(page.questions[0], "secret 0?")
    worker.older.close()
    again, heard = worker_over(store), _Heard()
    while again.move():
        pass
    await bringing(_Process(again), heard, KEY).run_once()
    assert heard.moved == 4
    assert all(store.fetch(each) for each in ids.values())


@pytest.mark.anyio
async def test_a_sealed_question_that_is_removed_meanwhile_does_not_come_back(tmp_path, store):
    ids = await sealed_in(tmp_path, {"secret?": KEY})
    worker = worker_over(store)
    while worker.move():
        pass
    process = _Process(worker)
    page = await process.older("", 8)
    assert worker.answer(Remove((ids["secret?"],))).value == 1
    worker.busy_at_s -= 10
    assert (await process.anew(page.questions[0], "secret?")).value == 0
    assert store.count() == 0


def test_what_can_wait_waits_for_quiet_but_not_for_ever(store):
    worker = worker_over(store)
    assert isinstance(worker.answer(Spare("a?", "")), Found)
    assert isinstance(worker.answer(Recall("b?", "p", 1, NOW_S)), Found)
    assert isinstance(worker.answer(Spare("a?", "")), Busy)
    worker._spared_at_s -= 1.0  # requests went on coming
    assert isinstance(worker.answer(Spare("a?", "")), Found)
    assert isinstance(worker.answer(Spare("a?", "")), Busy)


class _Encoder:
    """Embeds as the tests do."""

    build_id = "new:2"

    window_tokens = 256

    def __init__(self) -> None:
        self.embedded = []

    def pieces(self, text: str) -> tuple[int, ...]:
        return (0,) * 300 if text == "long" else tuple(text.lower().encode())

    def vector_of(self, pieces: tuple[int, ...]) -> np.ndarray:
        self.embedded.append(bytes(pieces).decode())
        return np.frombuffer(vector(sum(pieces)), "<f4")


def test_what_the_encoder_reads_alike_is_embedded_once(store):
    worker = worker_over(store)
    first, again = (worker.answer(Recall(text, "p", 1, NOW_S)) for text in ("Why so?", "why so?"))
    assert first.vector == again.vector
    assert worker._embedder.embedded == ["why so?"]


def test_the_process_moves_between_requests_and_removes_from_both(kept, store):
    worker = Worker(_Encoder(), store)
    worker.older = older_than(store)
    worker.older.step()
    assert worker.answer(Remove((kept[0].id,))).value == 1
    assert worker.answer(RemoveWhere(QuestionFilter(tags=("t",)))).value == 1
    while worker.move():
        pass
    found = worker.answer(Recall("three?", "p", 4, NOW_S))
    assert [near.question.id for near in found.near] == [kept[2].id]
