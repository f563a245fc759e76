"""A gateway that starts with another encoder over what it had sealed: it is found again, or named."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import pytest

from app.domain.vectors import StoredQuestion
from app.stores.embedded_qdrant import EmbeddedQdrant
from app.stores.seal import Sealer
from app.stores.sealed_vectors import SealedVectors
from tests.e2e.semantic.conftest import PATIENCE_S
from tests.e2e.semantic.test_vector_process import degraded, semantic_gateway

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
KEY, OTHER = "k" * 40, "o" * 40
TEXT = "What is the capital city of France?"


class _Kept:
    """A store of another encoder's vectors."""

    remove = remove_where = count = embed = None

    def __init__(self, store: EmbeddedQdrant) -> None:
        self._store = store

    async def keep(self, question: StoredQuestion, vector: bytes) -> None:
        self._store.keep([(question, vector)])


def kept(text: str) -> StoredQuestion:
    now = round(time.time(), 3)
    return StoredQuestion(uuid4().hex, "p", "default", "small", (), now, now + 600, text, "{}")


async def test_what_was_sealed_is_found_again_and_what_no_key_opens_is_named(tmp_path):
    folder = tmp_path / "semantic"
    folder.mkdir()
    old = EmbeddedQdrant(folder, build_id="old:1", dimension=8)
    mine, theirs = kept(TEXT), kept("Who wrote it?")
    for question, key in ((mine, KEY), (theirs, OTHER)):
        await SealedVectors(_Kept(old), Sealer([key.encode()])).keep(question, bytes(32))
    old.close()
    state = {"data_dir": str(tmp_path), "encryption_keys": [KEY]}
    async with semantic_gateway(tmp_path, state=state) as semantic:
        memory = semantic.answers.cache.store

        async def named() -> None:
            while "semantic_older" not in await degraded(semantic):  # noqa: ASYNC110 - a process's work
                await asyncio.sleep(0.05)

        await asyncio.wait_for(named(), PATIENCE_S)
        assert "1 sealed with no key" in (await degraded(semantic))["semantic_older"]
        vector = await memory.embed(TEXT)
        (near,) = await memory.nearest(vector, "p", 8)
        assert near.question == mine
        assert near.cosine == pytest.approx(1.0, abs=1e-4)
        told = (await semantic.http.get("/metrics")).text
        assert "slipstream_semantic_moved_total 1.0" in told
