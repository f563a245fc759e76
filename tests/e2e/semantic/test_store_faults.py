"""A store that is slow, full, away or holds another version's entries: requests go on, the fault is named."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from app.errors import StoreError
from app.stores.qdrant import sweeping
from tests.e2e.semantic.conftest import PATIENCE_S
from tests.e2e.semantic.test_vector_process import (
    CAPITAL,
    REWORDED,
    degraded,
    outcome,
    semantic_gateway,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def faults(made, kind: str) -> float:
    return made.running.context.telemetry.metrics.semantic_faults.child(kind).value


async def prepared(made) -> None:
    await made.open()
    made.answers.cache.budget_s = 10.0
    made.answers.max_per_s = 1e9


async def test_a_slow_store_is_named_until_it_answers_in_time_again(tmp_path):
    async with semantic_gateway(tmp_path) as made:
        await prepared(made)
        await made.ask(CAPITAL)
        cache = made.answers.cache
        cache.budget_s = 0.01
        os.kill(cache.store.pid, signal.SIGSTOP)
        try:
            for number in range(5):
                body = {"model": "small", "messages": [
                    {"role": "user", "content": f"What does the word w{number} mean?"}]}  # fmt: skip
                assert outcome(await made.http.post("/v1/chat/completions", json=body)) == "miss"
            assert "took over 10 ms" in (await degraded(made))["semantic_store"]
            assert faults(made, "store") == 1
        finally:
            os.kill(cache.store.pid, signal.SIGCONT)
        cache.budget_s, cache._suspended_until_s = 10.0, 0.0
        await asyncio.wait_for(made.answers.drained(), PATIENCE_S)
        assert outcome(await made.ask(REWORDED)) == "semantic"
        assert await degraded(made) == {}


async def test_a_full_store_is_named_and_what_it_holds_goes_on_being_served(tmp_path, monkeypatch):
    async with semantic_gateway(tmp_path) as made:
        await prepared(made)
        await made.ask(CAPITAL)
        memory = made.answers.cache.store

        async def full(_question, _vector):
            raise StoreError("Keep: No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(memory, "keep", full)
            assert outcome(await made.ask("What does the word ebb mean?")) == "miss"
            assert "No space left" in (await degraded(made))["semantic_store"]
            assert outcome(await made.ask(REWORDED)) == "semantic"
        assert outcome(await made.ask("What does the word tide mean?")) == "miss"
        assert await degraded(made) == {}


async def test_an_entry_of_another_version_is_passed_over(tmp_path):
    async with semantic_gateway(tmp_path) as made:
        await prepared(made)
        await made.ask(CAPITAL)
        memory = made.answers.cache.store
        (kept,), _ = await memory.page("default", "", 9)
        await memory.keep(replace(kept, body='{"v": 99}'), await memory.embed(CAPITAL))
        assert outcome(await made.ask(REWORDED)) == "miss"
        assert (await memory.fetch(kept.id)).body == '{"v": 99}', "it is left for who can read it"


async def test_an_invalidation_owed_is_done_after_a_restart(tmp_path):
    async with semantic_gateway(tmp_path) as made:
        await prepared(made)
        await made.ask(CAPITAL)
        memory = made.answers.cache.store

        async def gone(_which):
            raise StoreError("away")

        memory.remove_where = gone
        await made.http.post("/v1/cache/invalidate", json={"all": True})
        assert len(list((tmp_path / "semantic" / "owed").iterdir())) == 1
    async with semantic_gateway(tmp_path) as made:
        await prepared(made)
        assert outcome(await made.ask(REWORDED)) == "miss"
        assert await made.answers.cache.store.count() == 1, "the old one is gone, this one is kept"
        assert not list((tmp_path / "semantic" / "owed").iterdir())
        assert outcome(await made.ask(CAPITAL)) == "semantic"


async def test_a_servers_expired_entries_are_swept_and_a_failure_is_named():
    swept, told = asyncio.Event(), []

    class Store:
        times = 0

        async def sweep(self) -> None:
            self.times += 1
            if self.times == 1:
                raise StoreError("Qdrant: gone")
            swept.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(sweeping(Store(), 0.001, told.append))
        await asyncio.wait_for(swept.wait(), PATIENCE_S)
        task.cancel()
    assert told == ["what has expired could not be removed: Qdrant: gone"]
