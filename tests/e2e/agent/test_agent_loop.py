"""The loop of an agent, over real sockets: eager, parallel, in order, limited, and whole whatever fails."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from app.providers.simulator import SimulatorSettings, running_simulator
from tests.support.gateway import configuration, running_gateway, sse_events
from tests.support.scripted_model import Speaking, scripted_model
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
PATIENCE_S = 20.0
READ = {"read_only": True, "repeatable": True, "disclosable": True}


def tool(name: str, url: str, **more: object) -> dict[str, object]:
    """A GET tool with one argument ``id``."""
    return {
        "name": name,
        "description": f"Get the {name}.",
        "http": {"url": f"{url}/{name}/{{id}}"},
        "parameters": {
            "type": "object",
            "properties": {"id": {"type": "string"}},
            "required": ["id"],
        },
        "status": f"Looking up {{id}} with {name}…",
        "effects": READ,
        **more,
    }


def agent(upstream: str, tools: list[dict[str, object]], **more: object) -> dict[str, object]:
    """A configuration with the agent ``desk`` that has ``tools``."""
    desk = {
        "name": "desk",
        "system": "Be brief.",
        "model": "small",
        "tools": [t["name"] for t in tools],
    }
    return configuration(upstream, tools=tools, agents=[{**desk, **more}])


async def chat(url: str, text: str = "hi", *, stream: bool = False, headers=None) -> httpx.Response:
    """Ask the agent in the Chat dialect."""
    body = {
        "model": "agent/desk",
        "stream": stream,
        "messages": [{"role": "user", "content": text}],
    }
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        return await client.post(f"{url}/v1/chat/completions", json=body, headers=headers or {})


def said(response: httpx.Response) -> str:
    """The answer's text."""
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def results(body: dict) -> list[tuple[str, str]]:
    """(call id, text) of the tool messages of a request, in order."""
    return [(m["tool_call_id"], m["content"]) for m in body["messages"] if m["role"] == "tool"]


async def answers(speaking: Speaking) -> None:
    """Say that it is done."""
    await speaking.text("All done.")
    await speaking.finish()


async def two_calls(speaking: Speaking) -> None:
    """Say something, call two tools at once; then answer."""
    if any(m["role"] == "tool" for m in speaking.body["messages"]):
        await answers(speaking)
        return
    await speaking.text("One moment.")
    await speaking.call(0, "a", '{"id": "1"}')
    await speaking.call(1, "b", '{"id": "2"}')
    await speaking.finish("tool_calls")


def echo(asked_order: list[str] | None = None):
    """A route that answers with what it was asked for."""

    async def route(asked: Asked) -> None:
        if asked_order is not None:
            asked_order.append(asked.target)
        await asked.answer({"got": asked.target})

    return route


async def test_a_tool_starts_while_the_model_is_still_writing_the_next_call() -> None:
    async with tool_server({"/a/": echo(), "/b/": echo()}) as tools:

        async def calls(speaking: Speaking) -> None:
            await speaking.call(0, "a", '{"id": "1"}')
            await speaking.delta(
                tool_calls=[
                    {
                        "index": 1,
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "b", "arguments": '{"id"'},
                    }
                ]
            )
            first = await asyncio.wait_for(tools.arrived.get(), PATIENCE_S)
            assert first.target == "/a/1"  # and the second call is not even written
            await speaking.delta(tool_calls=[{"index": 1, "function": {"arguments": ': "2"}'}}])
            await speaking.finish("tool_calls")

        async with (
            scripted_model(calls, answers) as model,
            running_gateway(
                agent(model.url, [tool("a", tools.url), tool("b", tools.url)])
            ) as gateway,
        ):
            assert said(await chat(gateway.url)) == "All done."
            assert [call_id for call_id, _ in results(model.bodies[1])] == ["c0", "c1"]
            assert model.bodies[0]["messages"][0] == {"role": "system", "content": "Be brief."}


async def test_results_come_in_any_order_and_the_transcript_stays_in_order() -> None:
    b_is_done = asyncio.Event()

    async def slow(asked: Asked) -> None:
        await b_is_done.wait()
        await asked.answer({"slow": 1})

    async def fast(asked: Asked) -> None:
        await asked.answer({"fast": 1})
        b_is_done.set()

    async def calls(speaking: Speaking) -> None:
        await speaking.call(0, "a", '{"id": "1"}')
        await speaking.call(1, "b", '{"id": "2"}')
        await speaking.finish("tool_calls")

    async with (
        tool_server({"/a/": slow, "/b/": fast}) as tools,
        scripted_model(calls, answers) as model,
        running_gateway(agent(model.url, [tool("a", tools.url), tool("b", tools.url)])) as gateway,
    ):
        assert said(await chat(gateway.url)) == "All done."
        assert results(model.bodies[1]) == [("c0", '{"slow":1}'), ("c1", '{"fast":1}')]


async def test_every_call_gets_a_result_whatever_becomes_of_it() -> None:
    async def calls(speaking: Speaking) -> None:
        for index, (name, arguments) in enumerate(
            [
                ("good", '{"id": "1"}'),
                ("bad", '{"id": "1"}'),
                ("good", '{"id": 7}'),
                ("ghost", "{}"),
                ("good", '{"id"'),
            ]
        ):
            await speaking.call(index, name, arguments, "same-id")
        await speaking.finish("tool_calls")

    async def broken(asked: Asked) -> None:
        asked.writer.transport.abort()

    async with (
        tool_server({"/good/": echo(), "/bad/": broken}) as tools,
        scripted_model(calls, answers) as model,
        running_gateway(
            agent(model.url, [tool("good", tools.url), tool("bad", tools.url)])
        ) as gateway,
    ):
        assert said(await chat(gateway.url)) == "All done."
        told = results(model.bodies[1])
        assistant = next(m for m in model.bodies[1]["messages"] if m["role"] == "assistant")
        assert [call["id"] for call in assistant["tool_calls"]] == [call_id for call_id, _ in told]
        assert len({call_id for call_id, _ in told}) == 5
        texts = [text for _, text in told]
        assert texts[0] == '{"got":"/good/1"}'
        assert "broke off" in texts[1]
        assert "do not fit" in texts[2]
        assert "no tool 'ghost'" in texts[3]
        assert "not valid JSON" in texts[4]


async def test_arguments_may_be_mended_twice_and_then_it_must_answer() -> None:
    async def wrong(speaking: Speaking) -> None:
        if speaking.body.get("tool_choice") == "none":
            await answers(speaking)
            return
        await speaking.call(0, "good", '{"id": 7}')
        await speaking.finish("tool_calls")

    async with (
        tool_server({}) as tools,
        scripted_model(wrong) as model,
        running_gateway(agent(model.url, [tool("good", tools.url)])) as gateway,
    ):
        assert said(await chat(gateway.url)) == "All done."
        assert len(model.bodies) == 4
        assert tools.asked == []


async def test_the_last_turn_has_no_tools_to_choose() -> None:
    async def always(speaking: Speaking) -> None:
        if speaking.body.get("tool_choice") == "none":
            await answers(speaking)
            return
        await speaking.call(0, "good", '{"id": "1"}')
        await speaking.finish("tool_calls")

    async with (
        tool_server({"/good/": echo()}) as tools,
        scripted_model(always) as model,
        running_gateway(agent(model.url, [tool("good", tools.url)], max_turns=3)) as gateway,
    ):
        assert said(await chat(gateway.url)) == "All done."
        assert len(model.bodies) == 3


async def test_only_the_final_text_is_streamed_and_progress_is_comments() -> None:
    async def calls(speaking: Speaking) -> None:
        await speaking.text("Let me look that up.")
        await speaking.call(0, "good", '{"id": "INC-4821"}')
        await speaking.finish("tool_calls")

    async with (
        tool_server({"/good/": echo()}) as tools,
        scripted_model(calls, answers) as model,
        running_gateway(agent(model.url, [tool("good", tools.url)])) as gateway,
    ):
        response = await chat(gateway.url, stream=True)
        comments = [line for line in response.text.splitlines() if line.startswith(":")]
        assert comments == [": Let me look that up.", ": Looking up INC-4821 with good…"]
        events = sse_events(response.text)
        deltas = [choice["delta"] for event in events for choice in event["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == "All done."
        assert not any("tool_calls" in delta for delta in deltas)
        assert events[0]["model"] == "agent/desk"
        assert response.text.rstrip().endswith("[DONE]")


async def test_a_failure_before_the_first_word_keeps_its_status() -> None:
    async with (
        running_simulator(SimulatorSettings(time_scale=0, require_key="secret")) as upstream,
        tool_server({}) as tools,
        running_gateway(agent(upstream, [tool("good", tools.url)])) as gateway,
    ):
        assert (await chat(gateway.url, stream=True)).status_code == 401


async def test_an_unknown_agent_is_the_dialect_s_own_404() -> None:
    async with running_gateway(configuration("http://127.0.0.1:9")) as gateway:
        response = await chat(gateway.url)
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"


async def test_an_answer_is_kept_as_long_as_its_shortest_lived_ingredient() -> None:
    async def calls(speaking: Speaking) -> None:
        if any(m["role"] == "tool" for m in speaking.body["messages"]):
            await answers(speaking)
            return
        await speaking.call(0, "kept", '{"id": "1"}')
        if "both" in str(speaking.body["messages"][-1]["content"]):
            await speaking.call(1, "fresh", '{"id": "1"}')
        await speaking.finish("tool_calls")

    async with (
        tool_server({"/kept/": echo(), "/fresh/": echo()}) as tools,
        scripted_model(calls) as model,
        running_gateway(
            agent(model.url, [tool("kept", tools.url, cache_ttl_s=60), tool("fresh", tools.url)])
        ) as gateway,
    ):
        for question, outcomes in (("one", ["miss", "exact"]), ("both", ["miss", "miss"])):
            told = [await chat(gateway.url, question) for _ in range(2)]
            assert [each.headers["x-slipstream-cache"] for each in told] == outcomes
            assert {said(each) for each in told} == {"All done."}
        other = await chat(gateway.url, "one", headers={"x-slipstream-user": "bob"})
        assert other.headers["x-slipstream-cache"] == "miss"
        assert len(model.bodies) == 8


async def test_a_tool_that_cannot_finish_in_time_is_left_out_and_named() -> None:
    async def hang(asked: Asked) -> None:
        await asked.until_gone()

    async def calls(speaking: Speaking) -> None:
        await speaking.call(0, "quick", '{"id": "1"}')
        await speaking.call(1, "stuck", '{"id": "2"}')
        await speaking.finish("tool_calls")

    async with (
        tool_server({"/quick/": echo(), "/stuck/": hang}) as tools,
        scripted_model(calls, answers) as model,
        running_gateway(
            agent(model.url, [tool("quick", tools.url), tool("stuck", tools.url)])
        ) as gateway,
    ):
        response = await chat(gateway.url, headers={"x-slipstream-deadline-ms": "1500"})
        assert said(response) == "All done.\n\n(Not in time, so left out: stuck.)"
        assert "did not finish" in results(model.bodies[1])[1][1]


async def test_when_not_even_the_model_answers_in_time_the_results_are_the_answer() -> None:
    async def calls(speaking: Speaking) -> None:
        await speaking.call(0, "quick", '{"id": "1"}')
        await speaking.finish("tool_calls")

    async def silent(speaking: Speaking) -> None:
        await speaking.asked.until_gone()

    async with (
        tool_server({"/quick/": echo()}) as tools,
        scripted_model(calls, silent) as model,
        running_gateway(agent(model.url, [tool("quick", tools.url)])) as gateway,
    ):
        text = said(await chat(gateway.url, headers={"x-slipstream-deadline-ms": "800"}))
        assert "- quick: " in text
        assert "/quick/1" in text


@pytest.mark.parametrize("dialect", ["chat/completions", "responses", "messages"])
async def test_the_three_dialects_over_the_simulator(dialect) -> None:
    async with (
        running_simulator(SimulatorSettings(time_scale=0)) as upstream,
        tool_server({"/ticket/": echo()}) as tools,
        running_gateway(agent(upstream, [tool("ticket", tools.url)], model="auto")) as gateway,
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
    ):
        question = "What is the state of ticket INC-4821?"
        body = {
            "model": "agent/desk",
            "max_tokens": 100,
            "messages": [{"role": "user", "content": question}],
        }
        if dialect == "responses":
            body = {"model": "agent/desk", "input": question}
        response = await client.post(f"{gateway.url}/v1/{dialect}", json=body)
        assert response.status_code == 200, response.text
        assert [asked.target for asked in tools.asked] == ["/ticket/INC-4821"]
        assert "INC-4821" not in json.dumps(response.json().get("tool_calls", ""))
        trace = gateway.context.telemetry.traces.latest(1)[0]
        assert "tools" in json.dumps(trace)
