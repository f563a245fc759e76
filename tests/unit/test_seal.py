"""What is kept outside the process is read by nobody without the key, and cannot be swapped."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.vectors import (
    Neighbour,
    QuestionFilter,
    StoredQuestion,
    TextTooLong,
    VectorSearchResult,
)
from app.errors import StoreError
from app.settings import SettingsError
from app.stores.seal import Sealer
from app.stores.sealed_vectors import SealedVectors
from tests.support.gateway import configuration, settings_of

ONE, TWO = b"1" * 32, b"2" * 32


@given(st.binary(max_size=300), st.binary(max_size=40))
def test_what_was_sealed_is_opened_and_shows_nothing(data, about):
    sealer = Sealer([ONE])
    sealed = sealer.seal(data, about)
    assert sealer.open(sealed, about) == data
    assert sealed != sealer.seal(data, about)
    if len(data) > 3:
        assert data not in sealed


@given(st.binary(max_size=60), st.data())
def test_a_changed_value_is_not_opened(data, draw):
    sealer = Sealer([ONE])
    sealed = bytearray(sealer.seal(data, b"a"))
    index = draw.draw(st.integers(0, len(sealed) - 1))
    sealed[index] ^= draw.draw(st.integers(1, 255))
    with pytest.raises(StoreError):
        sealer.open(bytes(sealed), b"a")


@pytest.mark.parametrize("data", [b"", b"plain", b"sl1", b"sl1" + b"x" * 40, b'{"text": "hello"}'])
def test_what_was_never_sealed_is_not_opened(data):
    with pytest.raises(StoreError):
        Sealer([ONE]).open(data, b"a")


def test_values_cannot_be_swapped_and_keys_can_be_changed():
    old, both, new = Sealer([ONE]), Sealer([TWO, ONE]), Sealer([TWO])
    sealed = old.seal(b"answer", b"entry-1")
    with pytest.raises(StoreError):
        old.open(sealed, b"entry-2")
    assert both.open(sealed, b"entry-1") == b"answer"
    with pytest.raises(StoreError):
        new.open(sealed, b"entry-1")
    assert new.open(both.seal(b"x", b""), b"") == b"x"


class Store:
    """A memory that keeps what it is given, as it is given."""

    build_id = "b"

    def __init__(self) -> None:
        self.kept: dict[str, StoredQuestion] = {}

    async def keep(self, question: StoredQuestion, _: bytes) -> None:
        self.kept[question.id] = question

    async def fetch(self, entry_id: str) -> StoredQuestion | None:
        return self.kept.get(entry_id)

    async def nearest(self, *_: object):
        return tuple(Neighbour(each, 1.0) for each in self.kept.values())

    async def recall(self, text: str, *_: object):
        if text == "long":
            return TextTooLong(1000)
        return VectorSearchResult(b"v", await self.nearest())

    async def embed(self, _: str) -> bytes:
        return b"v"

    async def remove(self, ids: tuple[str, ...]) -> int:
        return len(ids)

    async def remove_where(self, _: QuestionFilter) -> int:
        return 0

    async def count(self) -> int:
        return len(self.kept)


@pytest.mark.anyio
async def test_a_store_of_questions_sees_neither_question_nor_answer():
    question = StoredQuestion(
        "0" * 32, "p", "acme", "m", (), 1.0, 2.0, "Who is Zoë?", '{"a": "Zoë"}'
    )
    store = Store()
    sealed = SealedVectors(store, Sealer([ONE]))
    await sealed.keep(question, b"v")
    kept = store.kept[question.id]
    assert not any(word in kept.text + kept.body for word in ("Who is", "Zoë", '{"a"'))
    assert await sealed.fetch(question.id) == question
    recalled = await sealed.recall("x", "p", 3)
    assert [each.question for each in recalled.near] == [question]
    assert isinstance(await sealed.recall("long", "p", 3), TextTooLong)
    # One tenant's entry passed off as another's, a clear one, and another key's: as good as absent.
    for forged in (replace(kept, tenant="other"), question, replace(kept, body=kept.text)):
        store.kept = {question.id: forged}
        assert await sealed.fetch(question.id) is None
        assert await sealed.nearest(b"v", "p", 3) == ()
    store.kept = {question.id: kept}
    assert await SealedVectors(store, Sealer([TWO])).fetch(question.id) is None


def test_a_secret_that_can_be_guessed_is_a_configuration_error():
    with pytest.raises(SettingsError):
        settings_of(configuration("http://h", state={"encryption_keys": ["short"]}))
