"""Plans that a model writes: a task starts with its own line, faults run nothing and may be mended."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.e2e.agent.test_agent_endpoint import body, post, read, types
from tests.e2e.agent.test_agent_loop import PATIENCE_S, agent, chat, echo, said, tool
from tests.support.gateway import running_gateway
from tests.support.scripted_model import Speaking, scripted_model
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio


def line(node_id: str, name: str, arguments: dict[str, object], **more: object) -> str:
    """A line of a plan."""
    return json.dumps({"id": node_id, "tool": name, "arguments": arguments, **more}) + "\n"


def says(*pieces: str):
    """A model that says ``pieces``."""

    async def script(speaking: Speaking) -> None:
        for piece in pieces:
            await speaking.text(piece)
        await speaking.finish()

    return script


def planner(upstream: str, tool_url: str, *names: str, **more: object) -> dict[str, object]:
    """A configuration whose agent plans with the tools ``names``."""
    tools = [tool(name, tool_url) for name in names]
    return agent(upstream, tools, **{"planning": "written", **more})


def told(model) -> str:
    """What the second model call was told of its plan."""
    return "\n".join(str(message["content"]) for message in model.bodies[1]["messages"][-2:])


async def test_a_task_starts_when_its_own_line_is_complete() -> None:
    async with tool_server({"/a/": echo(), "/b/": echo()}) as tools:

        async def plans(speaking: Speaking) -> None:
            await speaking.text(line("x", "a", {"id": "1"}).rstrip("\n"))
            first = await asyncio.wait_for(tools.arrived.get(), PATIENCE_S)
            assert first.target == "/a/1"  # neither the newline nor the next line is written
            await speaking.text("\n" + line("y", "b", {"id": "{{x.got}}"}))
            second = await asyncio.wait_for(tools.arrived.get(), PATIENCE_S)
            assert second.target == "/b/%2Fa%2F1"  # and the plan is not over
            await speaking.finish()

        async with (
            scripted_model(plans, says("All done.")) as model,
            running_gateway(planner(model.url, tools.url, "a", "b")) as gateway,
        ):
            assert said(await chat(gateway.url)) == "All done."
            assert len(model.bodies) == 2
            assert 'y: {"got":"/b/%2Fa%2F1"}' in told(model)
            assert "tools" not in model.bodies[0]


async def test_what_a_slow_task_does_not_feed_does_not_wait_for_it() -> None:
    chained = asyncio.Event()

    async def slow(asked: Asked) -> None:
        await asyncio.wait_for(chained.wait(), PATIENCE_S)
        await asked.answer({"slow": True})

    async def last(asked: Asked) -> None:
        await asked.answer({"end": True})
        chained.set()

    plan = (
        line("s", "slow", {"id": "1"}),
        line("b", "last", {"id": "{{a.got}}"}),  # refers to a line that comes later
        line("a", "quick", {"id": "1"}),
    )
    async with (
        tool_server({"/slow/": slow, "/quick/": echo(), "/last/": last}) as tools,
        scripted_model(says(*plan), says("All done.")) as model,
        running_gateway(planner(model.url, tools.url, "slow", "quick", "last")) as gateway,
    ):
        assert said(await chat(gateway.url)) == "All done."
        assert "s: " in told(model)


async def test_a_question_that_needs_no_call_costs_one_model_call() -> None:
    async with (
        tool_server({}) as tools,
        scripted_model(says("It is ", "Friday.\nAll day.")) as model,
        running_gateway(planner(model.url, tools.url, "a")) as gateway,
    ):
        assert said(await chat(gateway.url)) == "It is Friday.\nAll day."
        assert len(model.bodies) == 1


FAULTS = {
    "a circle": (
        line("x", "a", {"id": "{{y}}"}) + line("y", "a", {"id": "{{x}}"}),
        "circle: x -> y -> x",
    ),
    "itself": (line("x", "a", {"id": "{{x}}"}), "'x' refers to itself"),
    "a reference to nothing": (line("x", "a", {"id": "{{ghost}}"}), "refers to 'ghost'"),
    "an unknown tool": (line("x", "ghost", {}), "there is no tool 'ghost'"),
    "arguments that do not fit": (line("x", "a", {"id": 7}), "do not fit at id"),
    "a line that is no JSON": ('{"id": "x", "tool"\n', "is not one JSON object"),
    "no id": ('{"tool": "a", "arguments": {"id": "1"}}\n', 'needs an "id"'),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_runs_nothing_of_itself_and_may_be_mended(fault) -> None:
    faulty, complaint = FAULTS[fault]
    good = line("good", "b", {"id": "1"})
    mended = line("x", "a", {"id": "{{good.got}}"})  # results of the first plan are still there
    async with (
        tool_server({"/a/": echo(), "/b/": echo()}) as tools,
        scripted_model(says(faulty, good), says(mended), says("All done.")) as model,
        running_gateway(planner(model.url, tools.url, "a", "b")) as gateway,
    ):
        events = read((await post(gateway.url, body())).text)
        assert types(events)[-1] == "RUN_FINISHED"
        assert [asked.target for asked in tools.asked] == ["/b/1", "/a/%2Fb%2F1"]
        assert complaint in told(model)
        outcomes = [e["metadata"]["outcome"] for _, e in events if e["type"] == "TOOL_CALL_RESULT"]
        assert outcomes.count("invalid") == faulty.count("\n")
        assert outcomes.count("ok") == 2
        assert types(events).count("TOOL_CALL_START") == len(outcomes)


async def test_a_plan_is_mended_twice_and_then_it_must_answer() -> None:
    async def wrong(speaking: Speaking) -> None:
        must = "Answer now" in str(speaking.body["messages"][-1]["content"])
        await says("All done." if must else line("x", "ghost", {}))(speaking)

    async with (
        tool_server({}) as tools,
        scripted_model(wrong) as model,
        running_gateway(planner(model.url, tools.url, "a")) as gateway,
    ):
        assert said(await chat(gateway.url)) == "All done."
        assert len(model.bodies) == 4


async def test_a_task_that_fails_blocks_only_what_needs_it() -> None:
    async def broken(asked: Asked) -> None:
        await asked.answer({}, 500)

    plan = (
        line("x", "a", {"id": "1"}),
        line("y", "b", {"id": "{{x.got}}"}),
        line("z", "b", {"id": "free"}),
    )
    async with (
        tool_server({"/a/": broken, "/b/": echo()}) as tools,
        scripted_model(says(*plan), says("All done.")) as model,
        running_gateway(planner(model.url, tools.url, "a", "b")) as gateway,
    ):
        assert said(await chat(gateway.url)) == "All done."
        assert "x: failed: answered HTTP 500" in told(model)
        assert "y: not called, for x gave no result" in told(model)
        assert 'z: {"got":"/b/free"}' in told(model)


async def test_a_call_for_each_element_of_a_result_within_the_run_s_limit() -> None:
    async def related(asked: Asked) -> None:
        await asked.answer({"related": ["p", "q", "r"]})

    plan = (
        line("x", "a", {"id": "1"}),
        line("y", "b", {"id": "{{item}}"}, each="{{x.related}}"),
    )
    for limit, answered in ((64, True), (3, False)):
        async with (
            tool_server({"/a/": related, "/b/": echo()}) as tools,
            scripted_model(says("```json\n", *plan, "```"), says("All done.")) as model,
            running_gateway(
                planner(model.url, tools.url, "a", "b", max_tool_calls=limit)
            ) as gateway,
        ):
            assert said(await chat(gateway.url)) == "All done."
            assert len([a for a in tools.asked if a.target.startswith("/b/")]) <= limit - 1
            assert (
                'y: [{"got":"/b/p"}, {"got":"/b/q"}, {"got":"/b/r"}]' in told(model)
            ) is answered
            assert (
                "y: failed: would be more than the run's 3 calls" in told(model)
            ) is not answered


async def test_leaving_stops_the_plan_and_the_model() -> None:
    async def hang(asked: Asked) -> None:
        await asked.until_gone()

    async def plans(speaking: Speaking) -> None:
        await speaking.text(line("x", "a", {"id": "1"}))
        await speaking.asked.until_gone()

    async with (
        tool_server({"/a/": hang}) as tools,
        scripted_model(plans) as model,
        running_gateway(planner(model.url, tools.url, "a")) as gateway,
    ):
        async with (
            httpx.AsyncClient(timeout=PATIENCE_S) as client,
            client.stream("POST", f"{gateway.url}/v1/agent", json=body()),
        ):
            asked = await asyncio.wait_for(tools.arrived.get(), PATIENCE_S)
        await asyncio.wait_for(asked.gone.wait(), PATIENCE_S)
        await asyncio.wait_for(model.asked[0].gone.wait(), PATIENCE_S)


async def test_a_task_that_is_not_in_time_is_named() -> None:
    async def hang(asked: Asked) -> None:
        await asked.until_gone()

    plan = (line("x", "stuck", {"id": "1"}), line("y", "quick", {"id": "1"}))
    async with (
        tool_server({"/stuck/": hang, "/quick/": echo()}) as tools,
        scripted_model(says(*plan), says("All done.")) as model,
        running_gateway(planner(model.url, tools.url, "stuck", "quick")) as gateway,
    ):
        response = await chat(gateway.url, headers={"x-slipstream-deadline-ms": "1500"})
        assert said(response) == "All done.\n\n(Not in time, so left out: stuck.)"
        assert "x: did not finish in time" in told(model)
