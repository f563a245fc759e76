"""``/v1/agent`` and ``/v1/runs``: told in AG-UI's grammar; can be left, rejoined and cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from ag_ui.core import Event
from pydantic import TypeAdapter

from tests.e2e.agent.test_agent_loop import PATIENCE_S, agent, answers, echo, tool, two_calls
from tests.support.gateway import Running, running_gateway
from tests.support.scripted_model import ScriptedModel, Speaking, scripted_model
from tests.support.tool_server import Asked, ToolServer, tool_server

pytestmark = pytest.mark.anyio
EVENTS = TypeAdapter(Event)


def body(run_id: str = "r1", text: str = "hi", **more: object) -> dict[str, object]:
    """A ``RunAgentInput``."""
    messages = [{"id": "m1", "role": "user", "content": text}]
    return {"threadId": "t1", "runId": run_id, "messages": messages, **more}


def read(text: str) -> list[tuple[str, dict[str, object]]]:
    """(id, event) of each frame; every event must be one of the protocol's own."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in lines:
            event = json.loads(lines["data"])
            parsed = EVENTS.validate_python(event)
            assert parsed.model_extra in (None, {}), parsed.model_extra
            found.append((lines["id"], event))
    return found


def types(events: list[tuple[str, dict[str, object]]]) -> list[str]:
    """The events' types."""
    return [str(event["type"]) for _, event in events]


@contextlib.asynccontextmanager
async def desk(
    *scripts, a=None, b=None, **more
) -> AsyncIterator[tuple[Running, ToolServer, ScriptedModel]]:
    """A gateway with the agent ``desk``, its tools and its model."""
    async with (
        tool_server({"/a/": a or echo(), "/b/": b or echo()}) as tools,
        scripted_model(*scripts) as model,
        running_gateway(
            agent(model.url, [tool("a", tools.url), tool("b", tools.url)], **more)
        ) as gateway,
    ):
        yield gateway, tools, model


async def post(url: str, given: dict[str, object], query: str = "") -> httpx.Response:
    """Run to the end."""
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        return await client.post(f"{url}/v1/agent{query}", json=given)


async def test_a_run_is_told_in_the_protocol_s_grammar() -> None:
    async with desk(two_calls) as (gateway, _, _):
        response = await post(gateway.url, body())
        assert response.status_code == 200, response.text
        events = read(response.text)
        assert [event_id for event_id, _ in events] == [
            f"r1:{n}" for n in range(1, len(events) + 1)
        ]
        told = types(events)
        assert told[:3] == ["RUN_STARTED", "ACTIVITY_SNAPSHOT", "STEP_STARTED"]
        assert told[-1] == "RUN_FINISHED"
        assert told.count("STEP_STARTED") == told.count("STEP_FINISHED") == 2
        assert told.count("TOOL_CALL_START") == told.count("TOOL_CALL_END") == 2
        assert told.count("TOOL_CALL_RESULT") == 2
        assert told.count("TEXT_MESSAGE_START") == told.count("TEXT_MESSAGE_END") == 2
        statuses = [
            event["patch"][0]["value"] for _, event in events if event["type"] == "ACTIVITY_DELTA"
        ]
        assert statuses == ["Looking up 1 with a…", "Looking up 2 with b…"]
        finished = events[-1][1]
        assert finished["outcome"] == {"type": "success"}
        assert finished["usage"][0]["inputTokens"] == 20
        assert finished["metadata"]["timings"]["total"] > 0


async def test_the_run_s_record_reaches_the_traces() -> None:
    async with desk(two_calls) as (gateway, _, _):
        await post(gateway.url, body())
        trace = gateway.context.telemetry.traces.latest(1)[0]
        assert trace["dialect"] == "ag_ui"
        # side by side: which ends first is chance
        assert sorted(use["name"] for use in trace["tools"]) == ["a", "b"]


async def test_the_first_status_leaves_before_the_model_is_asked_for_anything() -> None:
    hold = asyncio.Event()

    async def silent(speaking: Speaking) -> None:
        await hold.wait()
        await answers(speaking)

    async with (
        desk(silent) as (gateway, _, _),
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
        client.stream("POST", f"{gateway.url}/v1/agent", json=body()) as response,
    ):
        pieces = response.aiter_bytes()
        first = await anext(pieces)
        assert b"RUN_STARTED" in first
        assert b"ACTIVITY_SNAPSHOT" in first
        hold.set()
        rest = b"".join([piece async for piece in pieces])
        assert b"RUN_FINISHED" in rest


async def test_a_client_that_leaves_cancels_tools_and_upstream() -> None:
    async def hang(asked: Asked) -> None:
        await asked.until_gone()

    async def calls(speaking: Speaking) -> None:
        await speaking.call(0, "a", '{"id": "1"}')
        await speaking.call(1, "b", "{")  # keeps the first sealed and the stream open
        await speaking.asked.until_gone()

    async with desk(calls, a=hang) as (gateway, tools, model):
        async with (
            httpx.AsyncClient(timeout=PATIENCE_S) as client,
            client.stream("POST", f"{gateway.url}/v1/agent", json=body()),
        ):
            asked = await asyncio.wait_for(tools.arrived.get(), PATIENCE_S)
        await asyncio.wait_for(asked.gone.wait(), PATIENCE_S)
        await asyncio.wait_for(model.asked[0].gone.wait(), PATIENCE_S)
        run = gateway.context.runs.find("default", "r1")
        assert run is not None
        while await run.log.more(run.log.last):
            pass
        assert run.state == "cancelled"
        told = [event for _, event in run.log.after(0)]
        opened = [event.id for event in told if type(event).__name__ == "CallOpened"]
        ended = [event.id for event in told if type(event).__name__ == "CallEnded"]
        assert sorted(opened) == sorted(ended)
        assert told[-1].cancelled


async def test_a_detached_run_goes_on_and_is_rejoined_without_gap_or_repeat() -> None:
    go_on = asyncio.Event()

    async def waits(asked: Asked) -> None:
        await go_on.wait()
        await asked.answer({"late": True})

    detached = body(forwardedProps={"on_disconnect": "detach"})
    async with (
        desk(two_calls, a=waits) as (gateway, _tools, _),
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
    ):
        seen = ""
        async with client.stream("POST", f"{gateway.url}/v1/agent", json=detached) as response:
            async for piece in response.aiter_text():
                seen += piece
                if "TOOL_CALL_RESULT" in seen:
                    break
        got = read(seen[: seen.rindex("\n\n") + 2])
        go_on.set()
        rejoined = await client.get(
            f"{gateway.url}/v1/runs/r1/events", headers={"last-event-id": got[-1][0]}
        )
        everything = got + read(rejoined.text)
        assert [event_id for event_id, _ in everything] == [
            f"r1:{n}" for n in range(1, len(everything) + 1)
        ]
        assert everything[-1][1]["type"] == "RUN_FINISHED"
        again = await client.get(f"{gateway.url}/v1/runs/r1/events?starting_after=0")
        assert read(again.text) == everything
        state = (await client.get(f"{gateway.url}/v1/runs/r1")).json()
        assert (state["state"], state["events"]) == ("finished", len(everything))


async def test_an_explicit_cancel_ends_the_run_for_every_watcher() -> None:
    async def hang(asked: Asked) -> None:
        await asked.until_gone()

    async with (
        desk(two_calls, a=hang, b=hang) as (gateway, tools, _),
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
    ):
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(post(gateway.url, body()))
            asked = await asyncio.wait_for(tools.arrived.get(), PATIENCE_S)
            state = (await client.post(f"{gateway.url}/v1/runs/r1/cancel")).json()
            assert state["state"] == "cancelled"
        events = read(watching.result().text)
        assert events[-1][1]["outcome"] == {"type": "cancelled"}
        assert types(events).count("TOOL_CALL_RESULT") == 2
        await asyncio.wait_for(asked.gone.wait(), PATIENCE_S)
        again = await client.post(f"{gateway.url}/v1/runs/r1/cancel")
        assert again.json()["state"] == "cancelled"


async def test_vercel_s_stream() -> None:
    async with desk(two_calls) as (gateway, _, _):
        response = await post(gateway.url, body(), "?format=vercel")
        assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
        lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        chunks = [json.loads(line) for line in lines[:-1]]
        assert [chunk["type"] for chunk in chunks][:2] == ["start", "data-status"]
        assert chunks[-1]["type"] == "finish"
        outputs = {
            c["toolCallId"]: c["output"] for c in chunks if c["type"] == "tool-output-available"
        }
        assert outputs == {"c0": {"got": "/a/1"}, "c1": {"got": "/b/2"}}
        inputs = {
            c["toolCallId"]: c["input"] for c in chunks if c["type"] == "tool-input-available"
        }
        assert inputs == {"c0": {"id": "1"}, "c1": {"id": "2"}}


async def test_the_client_s_own_tools_are_left_to_it() -> None:
    async def calls(speaking: Speaking) -> None:
        await speaking.call(0, "confirm", '{"id": "1"}')
        await speaking.call(1, "a", '{"id": "1"}')
        await speaking.finish("tool_calls")

    own = {"name": "confirm", "description": "Ask the person.", "parameters": {"type": "object"}}
    async with desk(calls) as (gateway, _, model):
        events = read((await post(gateway.url, body(tools=[own]))).text)
        assert events[-1][1]["outcome"] == {"type": "success", "pendingToolCallIds": ["c0"]}
        assert types(events).count("TOOL_CALL_RESULT") == 1
        assert len(model.bodies) == 1


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ({"runId": "r"}, 400, "invalid_request"),
        (body(forwardedProps={"agent": "ghost"}), 404, "agent_not_found"),
        (body(forwardedProps={"on_disconnect": "perhaps"}), 400, "invalid_request"),
        (body(run_id="a\nb"), 400, "invalid_request"),
    ],
)
async def test_bad_input_is_refused_by_name(given, status, code) -> None:
    async with desk(answers) as (gateway, _, _):
        response = await post(gateway.url, given)
        assert (response.status_code, response.json()["code"]) == (status, code)
        unknown = await post(gateway.url, body(), "?format=morse")
        assert unknown.json()["param"] == "format"


async def test_a_run_id_is_used_once_and_seen_by_its_tenant_alone() -> None:
    async with desk(answers) as (gateway, _, _):
        assert (await post(gateway.url, body())).status_code == 200
        assert (await post(gateway.url, body())).json()["code"] == "run_exists"
        assert gateway.context.runs.find("other", "r1") is None
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{gateway.url}/v1/runs/none")).json()[
                "code"
            ] == "run_not_found"
            wrong = await client.get(
                f"{gateway.url}/v1/runs/r1/events", headers={"last-event-id": "x:1"}
            )
            assert wrong.json()["param"] == "last-event-id"


async def test_an_upstream_failure_ends_the_run_with_an_error_event() -> None:
    async def cut(speaking: Speaking) -> None:
        await speaking.text("Well")
        speaking.asked.writer.transport.abort()

    async with desk(cut) as (gateway, _, _):
        events = read((await post(gateway.url, body())).text)
        assert types(events)[-1] == "RUN_ERROR"
        assert "TEXT_MESSAGE_END" in types(events)
        assert types(events)[-2] == "STEP_FINISHED"


async def test_a_history_with_an_unanswered_call_is_mended() -> None:
    history = [
        {"id": "1", "role": "user", "content": "hi"},
        {
            "id": "2",
            "role": "assistant",
            "toolCalls": [
                {"id": "x", "type": "function", "function": {"name": "a", "arguments": "{}"}}
            ],
        },
        {"id": "3", "role": "user", "content": "and now?"},
    ]
    async with desk(answers) as (gateway, _, model):
        events = read(
            (await post(gateway.url, {"threadId": "t", "runId": "r", "messages": history})).text
        )
        assert types(events)[-1] == "RUN_FINISHED"
        roles = [message["role"] for message in model.bodies[0]["messages"]]
        assert roles == ["system", "user", "assistant", "tool", "user"]
