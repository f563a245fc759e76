"""A declared workflow: references make the edges, all that can run at once does, gaps are named."""

from __future__ import annotations

import asyncio

import pytest

from app.bootstrap import open_gateway
from app.settings import SettingsError
from tests.e2e.agent.test_agent_endpoint import body, post, read, types
from tests.e2e.agent.test_agent_loop import PATIENCE_S, agent, answers, chat, echo, said, tool
from tests.support.gateway import running_gateway, settings_of
from tests.support.scripted_model import scripted_model
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
PLAN = [
    {"id": "ticket", "tool": "a", "arguments": {"id": "{{input}}"}},
    {"id": "owner", "tool": "b", "arguments": {"id": "{{ticket.owner}}"}},
    {"id": "others", "tool": "b", "each": "{{ticket.related}}", "arguments": {"id": "{{item}}"}},
    {"id": "line", "template": "{{ticket.owner}}: {{others.1.got}}"},
]


async def ticket(asked: Asked) -> None:
    """A ticket with an owner and related ones."""
    await asked.answer({"owner": "ann", "related": ["x", "y"]})


async def test_parts_run_as_their_inputs_are_there_and_the_model_answers_from_them() -> None:
    together = asyncio.Event()
    under_way: set[str] = set()

    async def b(asked: Asked) -> None:
        under_way.add(asked.target)
        if len(under_way) == 3:
            together.set()
        await asyncio.wait_for(together.wait(), PATIENCE_S)
        await asked.answer({"got": asked.target})

    async with (
        tool_server({"/a/": ticket, "/b/": b}) as tools,
        scripted_model(answers) as model,
        running_gateway(
            agent(model.url, [tool("a", tools.url), tool("b", tools.url)], workflow=PLAN)
        ) as gateway,
    ):
        events = read((await post(gateway.url, body(text="INC-1"))).text)
        assert types(events)[-1] == "RUN_FINISHED"
        assert under_way == {"/b/ann", "/b/x", "/b/y"}
        assert types(events).count("TOOL_CALL_RESULT") == 4
        told = str(model.bodies[0]["messages"][-1]["content"])
        assert "line: ann: /b/y" in told


async def test_a_part_that_fails_blocks_only_what_needs_it_and_is_named() -> None:
    plan = [*PLAN[:2], {"id": "free", "tool": "b", "arguments": {"id": "f"}}]

    async def broken(asked: Asked) -> None:
        await asked.answer({}, 500)

    async with (
        tool_server({"/a/": broken, "/b/": echo()}) as tools,
        scripted_model(answers) as model,
        running_gateway(
            agent(model.url, [tool("a", tools.url), tool("b", tools.url)], workflow=plan)
        ) as gateway,
    ):
        text = said(await chat(gateway.url, "INC-1"))
        assert "left out: ticket, owner" in text
        told = str(model.bodies[0]["messages"][-1]["content"])
        assert "ticket: missing (failed: answered HTTP 500" in told
        assert "owner: missing (skipped)" in told
        assert 'free: {"got":"/b/f"}' in told


async def test_a_node_named_answer_is_the_answer() -> None:
    plan = [PLAN[0], {"id": "answer", "template": "It is {{ticket.owner}}'s."}]
    async with (
        tool_server({"/a/": ticket}) as tools,
        scripted_model(answers) as model,
        running_gateway(agent(model.url, [tool("a", tools.url)], workflow=plan)) as gateway,
    ):
        assert said(await chat(gateway.url, "INC-1")) == "It is ann's."
        assert model.bodies == []


@pytest.mark.parametrize(
    ("plan", "said_so"),
    [
        ([{"id": "a", "template": "{{b}}"}, {"id": "b", "template": "{{a}}"}], "circle"),
        ([{"id": "a", "template": "{{ghost}}"}], "'ghost'"),
        ([{"id": "a", "template": "x", "model": "small"}], "exactly one"),
        ([{"id": "a", "tool": "ghost"}], "the tool 'ghost'"),
    ],
)
async def test_a_plan_that_cannot_run_is_told_at_start(plan, said_so) -> None:
    settings = settings_of(agent("http://127.0.0.1:9", [], workflow=plan))
    with pytest.raises(SettingsError, match=said_so):
        async with open_gateway(settings):
            pass
