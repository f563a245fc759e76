"""Microseconds a node of other schedulers: run with an interpreter that has them
(``RIVALS_PYTHON``).

A fan of no-op nodes into one that joins them, the shape that each of them is made for. Prints one
JSON object.
"""

# It runs under another interpreter, with packages that are not ours.
# mypy: ignore-errors

import asyncio
import json
import operator
import statistics
import time
from collections.abc import Callable
from typing import Annotated, TypedDict

WIDTH = 100
ROUNDS = 7


def timed(run: Callable[[], object], nodes: int) -> float:
    """Median microseconds a node, the first run thrown away."""
    run()
    found: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run()
        found.append((time.perf_counter() - began) / nodes * 1e6)
    return statistics.median(found)


def langgraph() -> float:
    """A StateGraph with parallel nodes."""
    from langgraph.graph import END, START, StateGraph

    class State(TypedDict):
        done: Annotated[list, operator.add]

    async def work(_: State) -> dict:
        return {"done": [1]}

    graph = StateGraph(State)
    graph.add_node("join", work)
    for number in range(WIDTH):
        graph.add_node(f"n{number}", work)
        graph.add_edge(START, f"n{number}")
        graph.add_edge(f"n{number}", "join")
    graph.add_edge("join", END)
    compiled = graph.compile()
    loop = asyncio.new_event_loop()
    return timed(lambda: loop.run_until_complete(compiled.ainvoke({"done": []})), WIDTH + 1)


def llama_index() -> float:
    """A Workflow whose step fans out by events and collects them."""
    from workflows import Context, Workflow, step
    from workflows.events import Event, StartEvent, StopEvent

    class Task(Event):
        """One piece of work."""

    class Done(Event):
        """Its end."""

    class Flow(Workflow):
        """Fan out, fan in."""

        @step
        async def start(self, ctx: Context, ev: StartEvent) -> Task | None:  # noqa: ARG002 - its type is what routes it
            """Send the work."""
            for _ in range(WIDTH):
                ctx.send_event(Task())
            return None

        @step(num_workers=WIDTH)
        async def work(self, ev: Task) -> Done:  # noqa: ARG002 - as above
            """Do nothing."""
            return Done()

        @step
        async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
            """Collect."""
            if ctx.collect_events(ev, [Done] * WIDTH) is None:
                return None
            return StopEvent(result=None)

    loop = asyncio.new_event_loop()

    async def once() -> None:
        await Flow(timeout=60).run()

    return timed(lambda: loop.run_until_complete(once()), WIDTH + 1)


def main() -> None:
    """Time each that is installed."""
    found = {}
    for name, run in (("LangGraph", langgraph), ("LlamaIndex workflows", llama_index)):
        try:
            found[name] = run()
        except ImportError:
            continue
    print(json.dumps(found))


if __name__ == "__main__":
    main()
