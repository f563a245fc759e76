"""Plans that are too large, too wide or go over what is no list."""

from __future__ import annotations

import pytest

from app.domain.plan import Node, PlanError, validated
from app.pipeline.fanout import Fanout
from tests.e2e.agent.test_agent_endpoint import body, post, read, types
from tests.e2e.agent.test_agent_loop import agent, answers, tool
from tests.e2e.agent.test_http_tools import says
from tests.support.gateway import running_gateway
from tests.support.scripted_model import scripted_model
from tests.support.tool_server import tool_server

pytestmark = pytest.mark.anyio
PLAN = [
    {"id": "found", "tool": "a", "arguments": {"id": "{{input}}"}},
    {"id": "each", "tool": "b", "each": "{{found.items}}", "arguments": {"id": "{{item}}"}},
    {"id": "free", "tool": "b", "arguments": {"id": "free"}},
]


@pytest.mark.parametrize(
    ("items", "calls", "told"),
    [
        ([str(n) for n in range(20_000)], 1, "20000 elements"),
        ([str(n) for n in range(19)], 1, "19 elements"),
        ([str(n) for n in range(18)], 19, "each: [{"),
        ([], 1, "each: []"),
        ("nothing", 1, "no list"),
        ({"0": "a"}, 1, "no list"),
        (None, 1, "no list"),
        (["a", {"b": 1}, ""], 2, "each: missing"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_map_is_held_to_the_run_s_calls_and_says_why_it_gave_nothing(
    items, calls, told
) -> None:
    """Nothing of a map that is too wide is called; what does not need it goes on."""
    async with (
        tool_server({"/a/": says({"items": items}), "/b/": says({"ok": 1})}) as tools,
        scripted_model(answers) as model,
        running_gateway(
            agent(
                model.url,
                [tool("a", tools.url, max_result_bytes=1 << 20), tool("b", tools.url)],
                workflow=PLAN,
                max_tool_calls=20,
            )
        ) as gateway,
    ):
        events = read((await post(gateway.url, body(text="x"))).text)
        assert types(events)[-1] == "RUN_FINISHED"
        assert events[-1][1]["outcome"] == {"type": "success"}
        assert len([t for t in tools.targets() if t.startswith("/b/")]) == calls
        assert told in str(model.bodies[0]["messages"][-1]["content"])


async def test_five_thousand_nodes_in_a_row_or_side_by_side_run_to_their_end() -> None:
    async def work(node: Node, _: object) -> object:
        return node.id

    row = [Node(str(n), needs=(str(n - 1),) if n else ()) for n in range(5_000)]
    wide = [Node(str(n)) for n in range(5_000)]
    for nodes in (row, wide):
        async with Fanout(work, limit=16) as fanout:
            for node in validated(reversed(nodes)):
                fanout.add(node)
            outcomes = await fanout.finished()
        assert all(outcome.ok for outcome in outcomes.values())
        assert len(outcomes) == 5_000


async def test_a_failure_at_the_head_of_five_thousand_skips_them_all_at_once() -> None:
    async def work(node: Node, _: object) -> object:
        raise ValueError(node.id)

    async with Fanout(work) as fanout:
        for n in range(5_000):
            fanout.add(Node(str(n), needs=(str(n - 1),) if n else ()))
        outcomes = await fanout.finished()
    assert sum(outcome.because != "" for outcome in outcomes.values()) == 4_999


def test_a_circle_of_five_thousand_is_found() -> None:
    nodes = [Node(str(n), needs=(str((n + 1) % 5_000),)) for n in range(5_000)]
    with pytest.raises(PlanError, match="circle"):
        validated(nodes)
