"""Whatever the graph, the latencies and the faults: the scheduler's promises hold."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.plan import Ending, Node, Outcome, critical_path_s, validated
from app.pipeline.fanout import Fanout, run_plan
from tests.support.virtual_time import run_virtually

EPSILON_S = 1e-6


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Node, ...]:
    """A random DAG: each node needs some of the earlier ones; some are tolerant."""
    count = draw(st.integers(1, 25))
    nodes = []
    for index in range(count):
        needs = draw(st.sets(st.integers(0, index - 1), max_size=4).map(sorted)) if index else []
        nodes.append(
            Node(f"n{index}", tuple(f"n{each}" for each in needs), tolerant=draw(st.booleans()))
        )
    return tuple(nodes)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[tuple[Node, ...], dict[str, float], set[str], set[str]]:
    """A graph, what each node costs in seconds, which raise, and which hang until their deadline."""
    nodes = draw(graphs())
    cost = {node.id: draw(st.integers(0, 20)) / 10 for node in nodes}
    bad = draw(st.sets(st.sampled_from([node.id for node in nodes]), max_size=4))
    hung = draw(st.sets(st.sampled_from([node.id for node in nodes]), max_size=3)) - bad
    return nodes, cost, bad, hung


class Stage:
    """Does the work of a scene and remembers what it saw."""

    def __init__(self, cost: Mapping[str, float], bad: set[str], hung: set[str]) -> None:
        self.cost, self.bad, self.hung = cost, bad, hung
        self.inputs: dict[str, dict[str, object]] = {}
        self.now = 0
        self.most = 0
        self.events: list[Outcome] = []

    async def work(self, node: Node, inputs: Mapping[str, object]) -> object:
        assert node.id not in self.inputs, "a node ran twice"
        self.inputs[node.id] = dict(inputs)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(3600 if node.id in self.hung else self.cost[node.id])
        finally:
            self.now -= 1
        if node.id in self.bad:
            raise RuntimeError(node.id)
        return node.id.upper()


@given(scenes(), st.none() | st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_every_node_ends_once_and_only_what_needs_a_failure_is_skipped(scene, limit) -> None:
    nodes, cost, bad, hung = scene
    nodes = tuple(
        Node(node.id, node.needs, deadline_s=5.0, tolerant=node.tolerant) for node in nodes
    )
    stage = Stage(cost, bad, hung)
    outcomes = run_virtually(run_plan(nodes, stage.work, limit=limit, on_event=stage.events.append))
    assert [event.id for event in stage.events] == [
        outcome.id
        for outcome in sorted(
            outcomes.values(), key=lambda each: [event.id for event in stage.events].index(each.id)
        )
    ]
    assert outcomes.keys() == {node.id for node in nodes}
    assert limit is None or stage.most <= limit + len(hung)
    for node in nodes:
        ending = outcomes[node.id].ending
        lacking = [needed for needed in node.needs if not outcomes[needed].ok]
        if lacking and not node.tolerant:
            assert ending is Ending.SKIPPED
            assert outcomes[node.id].because in lacking
            assert node.id not in stage.inputs
            continue
        expected = (
            Ending.FAILED
            if node.id in bad
            else Ending.TIMED_OUT
            if node.id in hung
            else Ending.DONE
        )
        assert ending is expected
        assert stage.inputs[node.id] == {
            needed: needed.upper() for needed in node.needs if outcomes[needed].ok
        }


@given(graphs(), st.data())
@settings(deadline=None, max_examples=40)
def test_wall_time_is_the_critical_path(nodes, data) -> None:
    """No more, whatever else is slow: a node starts the moment its last input is ready."""
    cost = {node.id: data.draw(st.integers(0, 50)) / 10 for node in nodes}
    stage = Stage(cost, set(), set())

    async def timed() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await run_plan(nodes, stage.work)
        return loop.time() - began

    assert abs(run_virtually(timed()) - critical_path_s(nodes, cost)) < EPSILON_S


@given(scenes(), st.integers(0, 40))
@settings(deadline=None, max_examples=40)
def test_cancelled_at_any_moment_nothing_is_left_behind(scene, tenths) -> None:
    nodes, cost, bad, hung = scene
    stage = Stage(cost, bad, hung)

    async def cancelled() -> None:
        try:
            async with asyncio.timeout(tenths / 10):
                await run_plan(nodes, stage.work)
        except TimeoutError:
            pass
        assert stage.now == 0

    run_virtually(cancelled())


@given(graphs(), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_a_streamed_plan_gives_what_a_whole_one_gives(nodes, gap) -> None:
    """Nodes that arrive while others run: each starts once its own line is there and its inputs are ready."""

    async def streamed() -> dict[str, Outcome]:
        stage = Stage({node.id: 0.2 for node in nodes}, set(), set())
        async with Fanout(stage.work) as fanout:
            for node in nodes:
                fanout.add(node)
                await asyncio.sleep(gap / 10)
            return await fanout.finished()

    outcomes = run_virtually(streamed())
    assert {each.id: each.value for each in outcomes.values()} == {
        node.id: node.id.upper() for node in nodes
    }


@given(graphs(), st.data())
def test_the_checked_order_puts_every_node_after_its_needs(nodes, data) -> None:
    shuffled = data.draw(st.permutations(nodes))
    seen: set[str] = set()
    for node in validated(shuffled):
        assert seen.issuperset(node.needs)
        seen.add(node.id)
    assert len(seen) == len(nodes)


@given(scenes(), st.sampled_from([0.2, 0.5, 0.9, 1.0]), st.integers(0, 30), st.data())
@settings(deadline=None, max_examples=60)
def test_enough_waits_for_the_quorum_its_patience_and_what_may_not_be_left_out(
    scene, share, tenths, data
) -> None:
    nodes, cost, bad, hung = scene
    kept = data.draw(st.sets(st.sampled_from([node.id for node in nodes])))
    nodes = tuple(
        Node(each.id, each.needs, deadline_s=50.0, tolerant=each.tolerant) for each in nodes
    )
    stage = Stage(cost, bad, hung)

    async def gathered() -> tuple[dict[str, Outcome], float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with Fanout(stage.work, on_event=stage.events.append) as fanout:
            for node in nodes:
                fanout.add(node)
            outcomes = await fanout.finish_with_quorum(
                share, tenths / 10, lambda node: node.id not in kept
            )
        assert stage.now == 0
        return outcomes, loop.time() - began

    outcomes, took_s = run_virtually(gathered())
    assert outcomes.keys() == {node.id for node in nodes}
    assert len(stage.events) == len(nodes)
    done = sorted(each.ended_s for each in outcomes.values() if each.ok)
    early = [each for each in outcomes.values() if each.ending is Ending.TIMED_OUT and took_s < 50]
    assert not {each.id for each in early} & kept
    if early:
        assert len(done) >= share * len(nodes)
    if share == 1.0:
        assert not early
