"""The embedded engine's own promises: room is made by time and size, and foreign files are left whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from app.domain.vectors import StoredQuestion
from app.stores.embedded_qdrant import EmbeddedQdrant
from app.stores.vectors import collection_name

BUILD = "test/build:1"


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[EmbeddedQdrant]:
    made = EmbeddedQdrant(tmp_path, build_id=BUILD, dimension=8, max_points=32, clock=clock)
    yield made
    made.close()


def vector(seed: int) -> bytes:
    drawn = np.random.default_rng(seed).normal(size=8).astype("<f4")
    return (drawn / np.linalg.norm(drawn)).astype("<f4").tobytes()


def question(expires_s: float, **more: object) -> StoredQuestion:
    values = {
        "id": uuid4().hex, "partition": "p", "tenant": "t", "model": "m", "tags": (),
        "kept_unix_s": 0.0, "expires_unix_s": expires_s, "text": "why?", "body": "{}", **more,
    }  # fmt: skip
    return StoredQuestion(**values)


def test_what_has_expired_is_not_shown_and_goes_when_room_is_made(store, clock):
    short, long = question(1_010.0), question(2_000.0)
    store.keep([(short, vector(1)), (long, vector(2))])
    clock.now_s = 1_011.0
    assert [n.question.id for n in store.nearest(vector(1), "p", 8)] == [long.id]
    assert store.fetch(short.id) is None
    store.make_room(0)
    assert store.count() == 1


def test_it_never_keeps_more_than_its_most_and_drops_what_expires_soonest(store):
    kept = [question(2_000.0 + i) for i in range(100)]
    for i, each in enumerate(kept):
        store.keep([(each, vector(i))])
        assert store.count() <= 32
    there = {each.id for each in kept if store.fetch(each.id) is not None}
    assert {each.id for each in kept[-25:]} <= there
    assert not {each.id for each in kept[:60]} & there


@pytest.mark.parametrize(
    "foreign", ["no marker", "another build", "another dimension", "no segments"]
)
def test_foreign_or_damaged_files_are_put_aside_whole_and_named(tmp_path, clock, foreign):
    path = tmp_path / collection_name(BUILD)
    if foreign == "no segments":
        first = EmbeddedQdrant(tmp_path, build_id=BUILD, dimension=8, clock=clock)
        first.keep([(question(9_000.0), vector(1))])
        first.close()
        (path / "edge_config.json").write_bytes(b"\x00" * 64)
    else:
        path.mkdir()
        (path / "somebody's").write_text("data")
        marker = {
            "another build": b'{"build":"other","dimension":8}',
            "another dimension": b'{"build":"test/build:1","dimension":9}',
        }.get(foreign)
        if marker:
            (path / "slipstream.json").write_bytes(marker)
    before = sorted(p.name for p in path.rglob("*") if p.is_file())
    made = EmbeddedQdrant(tmp_path, build_id=BUILD, dimension=8, clock=clock)
    assert made.moved_aside[0].startswith(f"{path.name}.aside-1: ")
    made.keep([(question(9_000.0), vector(1))])
    assert made.count() == 1
    made.close()
    aside = tmp_path / f"{path.name}.aside-1"
    assert sorted(p.name for p in aside.rglob("*") if p.is_file()) == before


def test_a_point_of_another_program_is_passed_over(store):
    store.keep([(question(9_000.0, body="\x00 not ours"), vector(1))])
    assert len(store.nearest(vector(1), "p", 8)) == 1, "its body is the keeper's matter"


def test_a_search_finds_what_comparing_with_every_question_finds(tmp_path, clock):
    """Few questions are compared one by one; ``exact`` is the measure of larger indexes."""
    store = EmbeddedQdrant(tmp_path / "many", build_id=BUILD, dimension=8, clock=clock)
    vectors = {f"{n:032x}": vector(n) for n in range(1, 201)}
    store.keep([(question(2_000.0, id=key), made) for key, made in vectors.items()])
    asked = np.frombuffer(vector(999), dtype="<f4")
    cosines = {key: float(asked @ np.frombuffer(v, dtype="<f4")) for key, v in vectors.items()}
    nearest = sorted(cosines, key=lambda key: -cosines[key])[:10]
    for exact in (False, True):
        found = store.nearest(asked.tobytes(), "p", 10, exact=exact)
        assert [each.question.id for each in found] == nearest
    store.close()
