"""A person in the loop: a run ends with a question, another goes on from the answer."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from tests.e2e.agent.test_agent_clients import PATIENCE_S
from tests.e2e.agent.test_agent_endpoint import body, post, read, types
from tests.e2e.agent.test_agent_loop import agent, answers, chat, echo, results, said, tool
from tests.support.gateway import running_gateway
from tests.support.node_packages import NODE_FOLDER, node_packages
from tests.support.scripted_model import Speaking, scripted_model
from tests.support.tool_server import tool_server

pytestmark = pytest.mark.anyio


async def two_calls(speaking: Speaking) -> None:
    """Look something up and restart something; then answer."""
    if any(m["role"] == "tool" for m in speaking.body["messages"]):
        await answers(speaking)
        return
    await speaking.call(0, "look", '{"id": "1"}')
    await speaking.call(1, "restart", '{"id": "2"}')
    await speaking.finish("tool_calls")


@contextlib.asynccontextmanager
async def desk(**more: object):
    """A gateway whose agent may look, and restart what a person approves."""
    async with (
        tool_server({"/look/": echo(), "/restart/": echo()}) as tools,
        scripted_model(two_calls) as model,
        running_gateway(
            agent(
                model.url,
                [tool("look", tools.url), tool("restart", tools.url, approval=True)],
                **more,
            )
        ) as gateway,
    ):
        yield gateway, tools, model


def history() -> list[dict[str, object]]:
    """What a client holds after the first run."""
    calls = [
        {"id": each, "type": "function", "function": {"name": name, "arguments": '{"id": "9"}'}}
        for each, name in (("c0", "look"), ("c1", "restart"))
    ]
    return [
        {"id": "m1", "role": "user", "content": "hi"},
        {"id": "m2", "role": "assistant", "toolCalls": calls},
        {"id": "m3", "role": "tool", "toolCallId": "c0", "content": '{"got":"/look/1"}'},
    ]


YES = {"approved": True}


def resumed(payload: object, *, run_id: str = "r2", status: str = "resolved", interrupt="r1:c1"):
    """The second run's input."""
    entry = {"interruptId": interrupt, "status": status, "payload": payload}
    return {"threadId": "t1", "runId": run_id, "messages": history(), "resume": [entry]}


async def test_a_call_that_needs_approval_is_asked_for_and_made_when_it_is_given() -> None:
    async with desk() as (gateway, tools, model):
        events = read((await post(gateway.url, body())).text)
        outcome = events[-1][1]["outcome"]
        (interrupt,) = outcome["interrupts"]
        assert (outcome["type"], interrupt["id"], interrupt["toolCallId"]) == (
            "interrupt",
            "r1:c1",
            "c1",
        )
        assert interrupt["metadata"] == {"toolCallName": "restart", "arguments": {"id": "2"}}
        assert interrupt["responseSchema"]["required"] == ["approved"]
        assert types(events).count("TOOL_CALL_RESULT") == 1
        assert [asked.target for asked in tools.asked] == ["/look/1"]
        assert len(model.bodies) == 1

        events = read((await post(gateway.url, resumed({"approved": True}))).text)
        assert events[-1][1]["outcome"] == {"type": "success"}
        # what was approved is made, not what the history that came back says
        assert [asked.target for asked in tools.asked] == ["/look/1", "/restart/2"]
        assert results(model.bodies[1]) == [
            ("c0", '{"got":"/look/1"}'),
            ("c1", '{"got":"/restart/2"}'),
        ]
        told = [event for _, event in events if event["type"] == "TOOL_CALL_RESULT"]
        assert [(each["toolCallId"], each["content"]) for each in told] == [
            ("c1", '{"got":"/restart/2"}')
        ]


@pytest.mark.parametrize(
    ("payload", "status", "told", "made"),
    [
        ({"approved": False, "reason": "not now"}, "resolved", "declined this call: not now", 0),
        (None, "cancelled", "declined this call", 0),
        (True, "resolved", '{"got":"/restart/2"}', 1),
        ({"approved": True, "arguments": {"id": "3"}}, "resolved", '{"got":"/restart/3"}', 1),
        ({"approved": True, "arguments": {"id": 3}}, "resolved", "do not fit", 0),
    ],
)
async def test_what_the_person_says_is_done(payload, status, told, made) -> None:
    async with desk() as (gateway, tools, model):
        await post(gateway.url, body())
        response = await post(gateway.url, resumed(payload, status=status))
        assert types(read(response.text))[-1] == "RUN_FINISHED"
        assert told in results(model.bodies[1])[1][1]
        assert len([a for a in tools.asked if a.target.startswith("/restart/")]) == made


async def test_an_answer_fits_one_open_question_once() -> None:
    async with desk() as (gateway, tools, _):
        await post(gateway.url, body())
        unknown = await post(gateway.url, resumed(YES, interrupt="r1:c7"))
        assert (unknown.status_code, unknown.json()["code"]) == (404, "interrupt_not_found")
        unclear = await post(gateway.url, resumed("yes"))
        assert (unclear.status_code, unclear.json()["param"]) == (400, "resume")
        lost = {**resumed(YES), "messages": history()[:1]}
        assert (await post(gateway.url, lost)).json()["param"] == "messages"
        assert (await post(gateway.url, resumed(YES))).status_code == 200
        again = await post(gateway.url, resumed(YES, run_id="r3"))
        assert (again.status_code, again.json()["code"]) == (409, "interrupt_answered")
        assert len([a for a in tools.asked if a.target.startswith("/restart/")]) == 1


async def test_where_nobody_can_be_asked_the_call_is_refused() -> None:
    async with desk() as (gateway, tools, model):
        assert said(await chat(gateway.url)) == "All done."
        assert "needs a person's approval" in results(model.bodies[1])[1][1]
        assert [asked.target for asked in tools.asked] == ["/look/1"]
    async with desk(workflow=[{"id": "x", "tool": "restart", "arguments": {"id": "1"}}]) as (
        gateway,
        tools,
        _,
    ):
        assert "left out: x" in said(await chat(gateway.url))
        assert "/restart/1" not in [asked.target for asked in tools.asked]


async def test_vercel_s_stream_asks_too() -> None:
    async with desk() as (gateway, _, _):
        response = await post(gateway.url, body(), "?format=vercel")
        lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
        chunks = [json.loads(line) for line in lines[:-1]]
        asked = [chunk for chunk in chunks if chunk["type"] == "tool-approval-request"]
        assert asked == [
            {"type": "tool-approval-request", "approvalId": "r1:c1", "toolCallId": "c1"}
        ]
        assert chunks[-1]["finishReason"] == "tool-calls"


@pytest.mark.slow
async def test_the_official_client_asks_its_user_and_resumes() -> None:
    await asyncio.to_thread(node_packages)
    async with desk() as (gateway, tools, _):
        process = await asyncio.create_subprocess_exec(
            "node",
            "approval.mjs",
            gateway.url,
            cwd=NODE_FOLDER,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert process.returncode == 0, err.decode()
        told = json.loads(out)
        assert told["warnings"] == []
        assert told["invalid"] == []
        assert told["asked"] == ["restart"]
        assert [m["role"] for m in told["messages"]].count("tool") == 2
        assert told["messages"][-1] == {"role": "assistant", "content": "All done."}
        assert [asked.target for asked in tools.asked if "restart" in asked.target] == [
            "/restart/2"
        ]
