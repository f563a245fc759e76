"""What happens to requests when the vector process is slow, dead, damaged or missing: they go on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from app.bootstrap_encoder import embedder_folder
from app.cache.semantic import SemanticQuery
from app.domain.vectors import StoredQuestion
from app.errors import StoreError
from app.stores.sidecar_client import VectorProcess
from app.stores.sidecar_start import launch
from tests.e2e.semantic.conftest import PATIENCE_S, PLAIN, Semantic, TopicModel
from tests.support.gateway import ROOT, configuration, running_gateway
from tests.support.tool_server import tool_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
CAPITAL = "What is the capital city of France?"
REWORDED = "What's the capital city of France?"


@asynccontextmanager
async def semantic_gateway(folder: Path, **sections: object):
    """A gateway whose data lives in ``folder``."""
    model = TopicModel()
    values = {"state": {"data_dir": str(folder)}, **sections}
    async with (
        tool_server({"/v1/chat/completions": model.answer}) as upstream,
        running_gateway(configuration(upstream.url, semantic=True, **values)) as running,
        httpx2.AsyncClient(verify=PLAIN, base_url=running.url, timeout=60) as http,
    ):
        yield Semantic(running, http, model)


def outcome(reply) -> str:
    assert reply.status_code == 200, reply.text
    return reply.headers["x-slipstream-cache"]


async def degraded(semantic: Semantic) -> dict[str, str]:
    return (await semantic.http.get("/readyz")).json()["degraded"]


async def test_a_killed_process_costs_hits_and_nothing_else_and_comes_back(tmp_path):
    async with semantic_gateway(tmp_path) as semantic:
        await semantic.open()
        memory = semantic.answers.cache.store
        semantic.answers.cache.budget_s = 10.0
        semantic.answers.max_per_s = 1e9
        await semantic.ask(CAPITAL)
        assert outcome(await semantic.ask(REWORDED)) == "semantic"
        lost = memory._connection.lost
        os.kill(memory.pid, signal.SIGKILL)
        await asyncio.wait_for(lost.wait(), PATIENCE_S)
        await asyncio.sleep(0)  # whoever looks after it hears of it in the same turn of the loop
        assert "semantic_cache" in await degraded(semantic)
        assert outcome(await semantic.ask("Which gases make up the air?")) == "miss"
        await semantic.there()
        assert await degraded(semantic) == {}
        assert outcome(await semantic.ask(REWORDED)) == "semantic", "what was stored is still there"


async def test_a_process_that_was_begun_early_is_taken_over_and_not_begun_twice(tmp_path):
    """A server begins it before it loads the gateway that will look after it."""
    model, states = embedder_folder(), []
    begun = launch(tmp_path, model, 1_000)
    assert begun is not None
    memory = VectorProcess(tmp_path, model, on_state=states.append, begun=begun)
    await memory.start()
    try:
        await asyncio.wait_for(memory.there.wait(), PATIENCE_S)
        assert memory.pid == begun.process.pid
        nicer = os.getpriority(os.PRIO_PROCESS, memory.pid)
        assert nicer == min(19, os.nice(0) + 10), "once it has loaded, requests come first"
        assert launch(tmp_path, model, 1_000) is None, "somebody has it"
        assert states == ["is starting", None]
        lost = memory._connection.lost
        begun.process.kill()
        await asyncio.wait_for(lost.wait(), PATIENCE_S)
        await asyncio.sleep(0)
        await asyncio.wait_for(memory.there.wait(), PATIENCE_S)
        assert memory.pid != begun.process.pid, "it is looked after like any other"
    finally:
        await memory.aclose()
    assert begun.process.poll() is not None


async def test_a_process_that_hangs_holds_nobody_up_beyond_the_budget(tmp_path):
    async with semantic_gateway(tmp_path) as semantic:
        await semantic.open()
        cache = semantic.answers.cache
        os.kill(cache.store.pid, signal.SIGSTOP)
        try:
            cache.budget_s = 0.02
            waited = []
            for number in range(7):
                started = time.perf_counter()
                look = await cache.lookup(_asked_of(number))
                waited.append(time.perf_counter() - started)
                assert look.outcome == "late"
            assert cache._suspended_until_s > 0, "after a few in a row it is not even asked"
            assert min(waited[-2:]) < 0.02
            body = {"model": "small", "messages": [{"role": "user", "content": CAPITAL}]}
            reply = await semantic.http.post("/v1/chat/completions", json=body)
            assert outcome(reply) == "miss"
        finally:
            os.kill(cache.store.pid, signal.SIGCONT)


def _asked_of(number: int) -> SemanticQuery:
    text = f"What is the question of number {number}?"
    return SemanticQuery("0" * 32, "p", "default\x00small", text, "default", time.time())


async def test_what_was_kept_survives_a_restart(tmp_path):
    async with semantic_gateway(tmp_path) as semantic:
        await semantic.open()
        await semantic.ask(CAPITAL)
    async with semantic_gateway(tmp_path) as semantic:
        await semantic.there()
        route = await semantic.answers.cache.routes.load("default\x00small")
        assert route.state.mode == "open", "so does the evidence"
        assert route.state.labels == 1
        route.state.audit_rate = 0.0
        semantic.answers.cache.budget_s = 10.0
        semantic.answers.max_per_s = 1e9
        assert outcome(await semantic.ask(REWORDED)) == "semantic"


async def test_damaged_files_are_put_aside_and_named(tmp_path):
    async with semantic_gateway(tmp_path) as semantic:
        await semantic.there()
    store = next((tmp_path / "semantic").glob("questions-*"))
    (store / "edge_config.json").write_text("{not json")
    async with semantic_gateway(tmp_path) as semantic:
        await semantic.open()
        semantic.answers.cache.budget_s = 10.0
        semantic.answers.max_per_s = 1e9
        assert store.name in semantic.answers.cache.store.moved_aside[0]
        assert store.name in (await degraded(semantic))["semantic_files"]
        assert len(list((tmp_path / "semantic").glob("questions-*.aside-*"))) == 1
        await semantic.ask(CAPITAL)
        assert outcome(await semantic.ask(REWORDED)) == "semantic"


async def test_without_a_semantic_cache_nothing_of_it_runs(tmp_path):
    cache = {"semantic": {"enabled": False}}
    async with semantic_gateway(tmp_path, cache=cache) as semantic:
        assert semantic.running.context.edge.gateway.semantic is None
        body = {"model": "small", "messages": [{"role": "user", "content": CAPITAL}]}
        assert outcome(await semantic.http.post("/v1/chat/completions", json=body)) == "miss"
        told = (await semantic.http.get("/v1/cache/stats")).json()["semantic"]
        assert told == {"enabled": False}
        assert not (tmp_path / "semantic").exists()


async def test_the_process_ends_with_a_parent_that_was_killed(tmp_path):
    """The parent is another Python process; it starts the vector process and is killed."""
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from app.stores.sidecar_client import VectorProcess\n"
        "async def main():\n"
        f"    it = VectorProcess(Path({str(tmp_path)!r}), Path(sys.prefix) / 'embedder',"
        " on_state=lambda why: None)\n"
        "    await it.start()\n"
        "    await it.there.wait()\n"
        "    print(it.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen(  # noqa: ASYNC220 - milliseconds, and nobody else is on this loop
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        pid = int(await asyncio.to_thread(parent.stdout.readline))
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    until = time.monotonic() + PATIENCE_S
    while _runs(pid):
        assert time.monotonic() < until, "the vector process outlived its parent"
        await asyncio.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_workers_of_one_folder_share_a_process_and_one_takes_over(tmp_path):
    owner = asyncio.Event()
    model = Path(sys.prefix) / "embedder"
    first = VectorProcess(tmp_path, model, on_state=lambda _: None)
    second = VectorProcess(
        tmp_path, model, on_state=lambda why: owner.set() if why is None and second.pid else None
    )
    try:
        await first.start()
        await asyncio.wait_for(first.there.wait(), PATIENCE_S)
        await second.start()
        await asyncio.wait_for(second.there.wait(), PATIENCE_S)
        assert (first.pid is None, second.pid) == (False, None)
        now = time.time()
        kept = StoredQuestion("ab" * 16, "p", "t", "m", (), now, now + 60, "why is it so?", "{}")
        await first.keep(kept, await first.embed(kept.text))
        found = await second.recall("why is it so?", "p", 8)
        assert [near.question.id for near in found.near] == [kept.id]
        await first.aclose()
        await asyncio.wait_for(owner.wait(), PATIENCE_S)
        assert await second.count() == 1
    finally:
        await first.aclose()
        await second.aclose()


async def test_a_missing_model_is_named_and_requests_go_on_without(tmp_path):
    named = asyncio.Event()
    process = VectorProcess(
        tmp_path,
        tmp_path / "nothing",
        on_state=lambda why: named.set() if "build-embedder" in (why or "") else None,
    )
    await process.start()
    try:
        await asyncio.wait_for(named.wait(), PATIENCE_S)
        with pytest.raises(StoreError, match="away"):
            await process.embed("anything")
    finally:
        await process.aclose()
