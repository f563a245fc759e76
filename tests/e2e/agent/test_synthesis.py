"""Fan-in: the answer waits for enough, not for all; long parts are shortened side by side; gaps are named."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.agent.test_agent_endpoint import body, post, read, types
from tests.e2e.agent.test_agent_loop import (
    PATIENCE_S,
    agent,
    answers,
    chat,
    echo,
    results,
    said,
    tool,
)
from tests.support.gateway import running_gateway
from tests.support.scripted_model import Speaking, scripted_model
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
LONG = "INC-1 is fine. " * 40
WORKFLOW = [
    {"id": "first", "tool": "quick", "arguments": {"id": "{{input}}"}},
    {"id": "second", "tool": "stuck", "arguments": {"id": "{{input}}"}},
]


async def hang(asked: Asked) -> None:
    """Never answer."""
    await asked.until_gone()


def calls(*names: str):
    """Call each once, then answer."""

    async def play(speaking: Speaking) -> None:
        if "Shorten it" in str(speaking.body["messages"][-1]["content"]):
            await speaking.text("Fine.")
            await speaking.finish()
        elif any(m["role"] == "tool" for m in speaking.body["messages"]):
            await answers(speaking)
        else:
            for index, name in enumerate(names):
                await speaking.call(index, name, '{"id": "1"}')
            await speaking.finish("tool_calls")

    return play


async def test_the_answer_begins_when_enough_parts_are_there_and_names_the_others() -> None:
    async with (
        tool_server({"/quick/": echo(), "/stuck/": hang}) as tools,
        scripted_model(calls("quick", "stuck")) as model,
        running_gateway(
            agent(
                model.url,
                [tool("quick", tools.url), tool("stuck", tools.url)],
                synthesis={"quorum": 0.5, "patience_s": 0},
            )
        ) as gateway,
    ):
        events = read((await post(gateway.url, body())).text)
        told = results(model.bodies[1])
        assert told[0][1] == '{"got":"/quick/1"}'
        assert "did not finish" in told[1][1]
        text = "".join(str(e["delta"]) for _, e in events if e["type"] == "TEXT_MESSAGE_CONTENT")
        assert text == "All done.(Not in time, so left out: stuck.)"
        assert events[-1][1]["metadata"]["leftOut"] == ["stuck"]
        stuck = next(asked for asked in tools.asked if asked.target == "/stuck/1")
        await asyncio.wait_for(stuck.gone.wait(), PATIENCE_S)


async def test_a_workflow_does_not_wait_for_its_slowest_part_either() -> None:
    async with (
        tool_server({"/quick/": echo(), "/stuck/": hang}) as tools,
        scripted_model(answers) as model,
        running_gateway(
            agent(
                model.url,
                [tool("quick", tools.url), tool("stuck", tools.url)],
                workflow=WORKFLOW,
                synthesis={"quorum": 0.5, "patience_s": 0},
            )
        ) as gateway,
    ):
        events = read((await post(gateway.url, body(text="INC-1"))).text)
        told = str(model.bodies[0]["messages"][-1]["content"])
        assert 'first: {"got":"/quick/INC-1"}' in told
        assert "second: missing (timed_out)" in told
        outcomes = [e["metadata"]["outcome"] for _, e in events if e["type"] == "TOOL_CALL_RESULT"]
        assert sorted(outcomes) == ["left_out", "ok"]


async def test_a_call_that_changes_something_is_never_given_up_on() -> None:
    quick_is_done, hold = asyncio.Event(), asyncio.Event()

    async def quick(asked: Asked) -> None:
        await asked.answer({"quick": True})
        quick_is_done.set()

    async def write(asked: Asked) -> None:
        await quick_is_done.wait()
        await asyncio.wait_for(hold.wait(), PATIENCE_S)
        await asked.answer({"written": True})

    async def other(asked: Asked) -> None:
        await asked.until_gone()
        hold.set()  # only once the quorum has let go of this one

    async with (
        tool_server({"/quick/": quick, "/write/": write, "/stuck/": other}) as tools,
        scripted_model(calls("quick", "write", "stuck")) as model,
        running_gateway(
            agent(
                model.url,
                [
                    tool("quick", tools.url),
                    tool("write", tools.url, effects={}),
                    tool("stuck", tools.url),
                ],
                synthesis={"quorum": 0.3, "patience_s": 0},
            )
        ) as gateway,
    ):
        assert said(await chat(gateway.url)).endswith("left out: stuck.)")
        assert results(model.bodies[1])[1][1] == '{"written":true}'


async def test_long_results_are_shortened_side_by_side_by_a_fast_model() -> None:
    both = asyncio.Event()
    shortening: list[dict] = []

    async def long(asked: Asked) -> None:
        await asked.answer({"log": LONG})

    async def play(speaking: Speaking) -> None:
        if "Shorten it" in str(speaking.body["messages"][-1]["content"]):
            shortening.append(speaking.body)
            if len(shortening) == 2:
                both.set()
            await asyncio.wait_for(both.wait(), PATIENCE_S)
        await calls("a", "b", "brief")(speaking)

    tools_of = ("a", "b", "brief")
    async with (
        tool_server({"/a/": long, "/b/": long, "/brief/": echo()}) as tools,
        scripted_model(play) as model,
        running_gateway(
            agent(
                model.url,
                [tool(name, tools.url) for name in tools_of],
                model="large",
                synthesis={"summarise_over_chars": 200},
            )
        ) as gateway,
    ):
        assert said(await chat(gateway.url, "How is INC-1?")) == "All done."
        told = [text for _, text in results(model.bodies[-1])]
        size = len(LONG) + len('{"log":""}')
        assert told == [f"[summary of {size} characters] Fine."] * 2 + ['{"got":"/brief/1"}']
        assert {each["model"] for each in shortening} == {"sim-fast"}
        assert all("How is INC-1?" in str(each["messages"]) for each in shortening)


async def test_what_cannot_be_shortened_is_cut_and_says_so() -> None:
    async def long(asked: Asked) -> None:
        await asked.answer({"log": LONG})

    async def play(speaking: Speaking) -> None:
        if "Shorten it" in str(speaking.body["messages"][-1]["content"]):
            speaking.asked.writer.transport.abort()
            return
        await calls("a")(speaking)

    async with (
        tool_server({"/a/": long}) as tools,
        scripted_model(play) as model,
        running_gateway(
            agent(
                model.url,
                [tool("a", tools.url)],
                model="large",
                synthesis={"summarise_over_chars": 200},
            )
        ) as gateway,
    ):
        assert said(await chat(gateway.url)) == "All done."
        ((_, text),) = results(model.bodies[-1])
        assert text.startswith('{"log":"INC-1 is fine.')
        assert "[cut: this is the beginning, 200 of" in text


HARD = (
    "Prove step by step that the two services cannot deadlock, compare three lock orders with their "
    "trade-offs, derive the worst case and refactor the code of INC-1: def f(a, b): ... "
)


@pytest.mark.parametrize(
    ("question", "writer"), [("How is INC-1?", "sim-fast"), (HARD * 6, "sim-powerful")]
)
async def test_mere_assembly_is_written_by_a_fast_model(question, writer) -> None:
    async with (
        tool_server({"/a/": echo()}) as tools,
        scripted_model(calls("a")) as model,
        running_gateway(
            agent(model.url, [tool("a", tools.url)], model="large", answer_model="auto")
        ) as gateway,
    ):
        assert said(await chat(gateway.url, question)) == "All done."
        assert [each["model"] for each in model.bodies] == ["sim-powerful", writer]


async def test_a_part_that_is_missing_is_the_powerful_model_s_to_explain() -> None:
    async with (
        tool_server({"/quick/": echo(), "/stuck/": hang}) as tools,
        scripted_model(calls("quick", "stuck")) as model,
        running_gateway(
            agent(
                model.url,
                [tool("quick", tools.url), tool("stuck", tools.url)],
                model="large",
                answer_model="auto",
                synthesis={"quorum": 0.5, "patience_s": 0},
            )
        ) as gateway,
    ):
        assert "left out: stuck" in said(await chat(gateway.url, "How is INC-1?"))
        assert [each["model"] for each in model.bodies] == ["sim-powerful", "sim-powerful"]


async def test_a_run_whose_model_had_no_time_is_told_with_its_results() -> None:
    async def silent(speaking: Speaking) -> None:
        await speaking.asked.until_gone()

    async with (
        tool_server({"/quick/": echo()}) as tools,
        scripted_model(calls("quick"), silent) as model,
        running_gateway(agent(model.url, [tool("quick", tools.url)], deadline_s=0.8)) as gateway,
    ):
        events = read((await post(gateway.url, body())).text)
        assert types(events)[-1] == "RUN_FINISHED"
        text = "".join(str(e["delta"]) for _, e in events if e["type"] == "TEXT_MESSAGE_CONTENT")
        assert "There was no time to write an answer" in text
        assert '- quick: {"got":"/quick/1"}' in text
