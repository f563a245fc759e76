"""Who reads a run slowly, late or as somebody else."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from app.stores.event_log import EventLog
from tests.e2e.agent.test_agent_endpoint import body
from tests.e2e.agent.test_agent_loop import PATIENCE_S, agent
from tests.support.gateway import running_gateway
from tests.support.scripted_model import Speaking, scripted_model

pytestmark = pytest.mark.anyio
WORDS = 400


async def talks(speaking: Speaking) -> None:
    """Say many words."""
    for number in range(WORDS):
        await speaking.text(f"word {number} ")
    await speaking.finish()


async def test_a_reader_whose_events_have_left_the_log_is_told_so_and_the_run_goes_on() -> None:
    """It reads nothing while the run says more than is kept: its stream ends with a clear error."""
    held = asyncio.Event()

    async def much(speaking: Speaking) -> None:
        for _ in range(60):
            await speaking.text("x" * 60_000)
        await speaking.finish()
        held.set()

    async with scripted_model(much) as model, running_gateway(agent(model.url, [])) as gateway:
        runs = gateway.context.runs
        runs.events = EventLog(max_events=8)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", int(gateway.url.rpartition(":")[2]), limit=1 << 30
        )
        raw = json.dumps(body(forwardedProps={"agent": "desk", "on_disconnect": "detach"})).encode()
        head = f"POST /v1/agent HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
        writer.write(head.encode() + raw)
        async with asyncio.timeout(PATIENCE_S):
            await held.wait()
            live = runs.find("default", "r1")
            assert live is not None
            if live.task is not None:  # it is not over yet
                await live.task
            told = b""
            while not told.endswith(b"0\r\n\r\n"):
                piece = await reader.read(1 << 20)
                assert piece, told[-300:]
                told += piece
        assert b'"code":"events_expired"' in told
        assert told.count(b'"RUN_ERROR"') == 1
        writer.close()
        assert live.state == "finished"


@pytest.mark.parametrize(
    "last", ["r1:x", "r1:-1", "r1:", "other:3", "r1:3:4", "r1:\xb2", "r1:" + "9" * 30, "r1:99999"]
)
async def test_a_wrong_last_event_id_is_refused_by_name_or_waits_for_nothing(last) -> None:
    async with (
        scripted_model(talks) as model,
        running_gateway(agent(model.url, [])) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S) as client,
    ):
        await client.post("/v1/agent", json=body())
        reply = await client.get(
            "/v1/runs/r1/events", headers={"last-event-id": last.encode("latin-1")}
        )
        if reply.status_code == 200:
            assert not [line for line in reply.text.splitlines() if line[:5] == "data:"]
        else:
            assert reply.status_code == 400
            assert "last-event-id" in reply.text
