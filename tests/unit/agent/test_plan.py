"""Plans as data: references make the edges, and what cannot run is found before anything does."""

from __future__ import annotations

import asyncio

import pytest

from app.domain.plan import Ending, Node, NodeKind, PlanError, filled, node, references, validated
from app.pipeline.fanout import Fanout, run_plan
from tests.support.virtual_time import run_virtually


def test_references_make_the_edges() -> None:
    made = node(
        "c",
        NodeKind.TOOL,
        "get",
        {"user": "{{a.id}}", "note": ["see {{b}} and {{a}}"]},
        after=["z"],
    )
    assert made.needs == ("a", "b", "z")
    assert references("{{a.b.0}} costs $5 and {{not closed") == ("a",)


def test_a_reference_takes_the_value_with_its_type_and_text_takes_it_as_text() -> None:
    results = {"a": {"id": 7, "tags": ["x", "y"]}, "b": "word"}
    assert filled({"id": "{{a.id}}", "all": "{{a.tags}}"}, results) == {"id": 7, "all": ["x", "y"]}
    assert filled("{{b}}: {{a.id}}, {{a.tags.1}}, {{a.none}}", results) == "word: 7, y, "
    assert filled("{{a.tags.9}}", results) is None


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([Node("a"), Node("a")], "twice"),
        ([Node("a", ("ghost",))], "'ghost'"),
        ([Node("a", ("a",))], "a -> a"),
        ([Node("a", ("c",)), Node("b", ("a",)), Node("c", ("b",))], "circle"),
    ],
)
def test_a_plan_that_cannot_run_is_refused_whole(nodes, said) -> None:
    with pytest.raises(PlanError) as refused:
        validated(nodes)
    assert said in refused.value.message


def test_a_streamed_node_that_names_what_is_not_there_is_refused_and_the_rest_goes_on() -> None:
    async def run() -> None:
        async def work(node: Node, _: object) -> object:
            await asyncio.sleep(1)
            return node.id

        async with Fanout(work) as fanout:
            fanout.add(Node("a"))
            with pytest.raises(PlanError):
                fanout.add(Node("b", ("later",)))
            with pytest.raises(PlanError):
                fanout.add(Node("a"))
            outcomes = await fanout.finished()
            assert [each.value for each in outcomes.values()] == ["a"]
            with pytest.raises(PlanError):
                fanout.add(Node("c"))

    run_virtually(run())


def test_what_ignores_its_cancellation_still_times_out_and_blocks_nobody() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def work(node: Node, inputs: object) -> object:
            if node.id == "deaf":
                try:
                    await asyncio.sleep(100)
                except asyncio.CancelledError:
                    await asyncio.sleep(9)
            return inputs

        plan = (Node("deaf", deadline_s=1.0), Node("after", ("deaf",), tolerant=True))
        async with Fanout(work) as fanout:
            for each in plan:
                fanout.add(each)
            outcomes = await fanout.finished()
            assert loop.time() - began == pytest.approx(1.0)
            assert outcomes["deaf"].ending is Ending.TIMED_OUT
            assert outcomes["after"].ok
        assert loop.time() - began == pytest.approx(
            1.0
        )  # left at once: its second cancellation reaches it

    run_virtually(run())


def test_one_node_can_be_cancelled_alone() -> None:
    async def run() -> None:
        async def work(node: Node, _: object) -> object:
            await asyncio.sleep(1)
            return node.id

        async with Fanout(work, limit=1) as fanout:
            for name in ("first", "second", "third"):
                fanout.add(Node(name))
            fanout.cancel("second")
            fanout.cancel("first")
            outcomes = await fanout.finished()
        endings = [each.ending for each in outcomes.values()]
        assert endings == [Ending.CANCELLED, Ending.CANCELLED, Ending.DONE]

    run_virtually(run())


def test_a_long_chain_behind_a_failure_is_skipped_without_recursion() -> None:
    async def work(node: Node, _: object) -> object:
        raise RuntimeError(node.id)

    chain = [Node("0")] + [Node(str(i), (str(i - 1),)) for i in range(1, 3000)]
    outcomes = run_virtually(run_plan(tuple(chain), work))
    assert outcomes["0"].ending is Ending.FAILED
    assert all(each.ending is Ending.SKIPPED for each in list(outcomes.values())[1:])
