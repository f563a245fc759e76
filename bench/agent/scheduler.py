"""What the scheduler costs a node, and how close a plan's wall time comes to its critical path."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Mapping

from app.domain.plan import Node, Outcome, critical_path_s
from app.pipeline.fanout import run_plan
from bench.agent.rivals import WIDTH, timed
from bench.agent.shapes import Task

NODES = 1000
ROUNDS = 25


async def _nothing(_: Node, __: Mapping[str, object]) -> object:
    return None


def graphs() -> dict[str, tuple[Node, ...]]:
    """Wide, chained and layered plans, each node with a deadline."""
    wide = tuple(Node(str(i), deadline_s=30.0) for i in range(NODES))
    chain = tuple(Node(str(i), (str(i - 1),) if i else (), deadline_s=30.0) for i in range(NODES))
    layers = tuple(
        Node(
            str(i),
            tuple(str(i // 10 * 10 - 10 + j) for j in range(3)) if i >= 10 else (),
            deadline_s=30.0,
        )
        for i in range(NODES)
    )
    return {"wide": wide, "chain": chain, "layers": layers}


async def overhead() -> dict[str, dict[str, float]]:
    """Microseconds a node: median and p99 of rounds, wall and CPU, beside bare tasks in the same rounds."""
    found: dict[str, dict[str, float]] = {}
    for name, nodes in graphs().items():
        wall: list[float] = []
        cpu: list[float] = []
        floor: list[float] = []
        for _ in range(ROUNDS):
            events: list[Outcome] = []
            began, began_cpu = time.perf_counter(), time.process_time()
            await run_plan(nodes, _nothing, on_event=events.append)
            wall.append((time.perf_counter() - began) / NODES * 1e6)
            cpu.append((time.process_time() - began_cpu) / NODES * 1e6)
            assert len(events) == NODES
            floor.append(await _floor())
        found[name] = {
            "wall_us": statistics.median(wall),
            "cpu_us": statistics.median(cpu),
            "best_wall_us": min(wall),
            "floor_cpu_us": statistics.median(floor),
        }
    return found


def joined() -> float:
    """Median microseconds a node of the shape that rivals are timed on, on asyncio's own loop as they
    are: with deadlines and one event a node.
    """
    fan = tuple(Node(str(i), deadline_s=30.0) for i in range(WIDTH))
    nodes = (*fan, Node("join", tuple(each.id for each in fan), deadline_s=30.0))
    loop = asyncio.new_event_loop()

    def once() -> object:
        events: list[Outcome] = []
        return loop.run_until_complete(run_plan(nodes, _nothing, on_event=events.append))

    try:
        return timed(once, len(nodes))
    finally:
        loop.close()


async def _floor() -> float:
    loop = asyncio.get_running_loop()
    began = time.process_time()

    async def nothing() -> None:
        return None

    for task in [loop.create_task(nothing()) for _ in range(NODES)]:
        await task
    return (time.process_time() - began) / NODES * 1e6


async def critical_path(tasks: list[Task], graphs_wanted: int = 120) -> dict[str, dict[str, float]]:
    """Wall over critical path: random layered plans, and the tasks' shapes with a fan-in; 20 to
    2,000 ms nodes.
    """
    draw = random.Random(5)
    random_plans = [_random_plan(draw) for _ in range(graphs_wanted)]
    shaped = [_shaped_plan(task) for task in tasks[:graphs_wanted]]
    return {
        "random layered DAGs": await _ratios(random_plans),
        "task shapes": await _ratios(shaped),
    }


Plan = tuple[tuple[Node, ...], dict[str, float]]


def _random_plan(draw: random.Random) -> Plan:
    nodes: list[Node] = []
    cost: dict[str, float] = {}
    before: list[str] = []
    for layer in range(draw.randint(2, 6)):
        here = [f"{layer}.{i}" for i in range(draw.randint(1, 8))]
        for name in here:
            needs = tuple(draw.sample(before, min(len(before), draw.randint(0, 3))))
            nodes.append(Node(name, needs, deadline_s=60.0))
            cost[name] = draw.uniform(0.02, 2.0)
        before += here
    return tuple(nodes), cost


def _shaped_plan(task: Task) -> Plan:
    names = [f"c{i}" for i in range(len(task.tools))]
    nodes = [*(Node(name, deadline_s=60.0) for name in names), Node("join", tuple(names))]
    cost = dict(zip(names, task.latencies_s(0.5), strict=True)) | {"join": 0.05}
    return tuple(nodes), {name: min(2.0, max(0.02, seconds)) for name, seconds in cost.items()}


async def _ratios(plans: list[Plan], at_once: int = 20) -> dict[str, float]:
    room = asyncio.Semaphore(at_once)

    async def one(plan: Plan) -> float:
        nodes, cost = plan

        async def work(node: Node, _: Mapping[str, object]) -> object:
            await asyncio.sleep(cost[node.id])
            return None

        async with room:
            began = time.perf_counter()
            await run_plan(nodes, work)
            return (time.perf_counter() - began) / critical_path_s(nodes, cost)

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one(plan)) for plan in plans]
    ratios = sorted(task.result() for task in running)
    return {
        "n": len(ratios),
        "p50": ratios[len(ratios) // 2],
        "p99": ratios[min(len(ratios) - 1, int(len(ratios) * 0.99))],
    }
