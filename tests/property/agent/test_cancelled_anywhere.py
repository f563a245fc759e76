"""However a run's steps fall and whenever it is cancelled: what was opened is closed, and nothing goes on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from app.bootstrap import _gateway, _model
from app.domain.agents import Agent
from app.domain.chat import Message, Role, TextPart, Tool, ToolCallPart, ToolResultPart
from app.domain.deadline import Deadline
from app.domain.events import (
    AnswerStarted,
    Finished,
    FinishReason,
    TextDelta,
    ToolCallDelta,
    ToolCallSealed,
    ToolCallStarted,
)
from app.domain.run_events import (
    CallEnded,
    CallOpened,
    CallSealed,
    MessageEnded,
    MessageStarted,
    RunEvent,
    StepFinished,
    StepStarted,
    SubagentEnded,
    SubagentStarted,
    Within,
)
from app.domain.tools import Effects, ToolSpec
from app.errors import GatewayError, ToolError, UpstreamClosed
from app.pipeline.agent import AgentRun
from app.pipeline.gateway import Gateway, Turn
from app.telemetry.timeline import Timeline
from app.tools.registry import RegisteredTool, Registry
from tests.support.gateway import configuration, settings_of
from tests.support.providers import USAGE, ScriptedProvider

SCHEMA = {"type": "object", "properties": {"steps": {"type": "integer"}}, "required": ["steps"]}
READS = Effects(read_only=True, repeatable=True, disclosable=True)
NAMES = ("reads", "writes", "fails", "one_at_a_time", "unknown", "ask_other", "clients_own")
ARGUMENTS = ('{"steps": %d}', '{"steps": %d', '{"steps": "%d"}', '{"task": "do %d"}', "[%d]")


@dataclass(frozen=True)
class Called:
    name: str
    steps: int
    arguments: str
    id: str


CALLED = st.builds(
    Called,
    st.sampled_from(NAMES),
    st.integers(0, 6),
    st.sampled_from(ARGUMENTS),
    st.sampled_from(["a", "a", "b", "", "c"]),
)
TURNS = st.lists(st.lists(CALLED, max_size=4), max_size=3)


class Tool_:  # noqa: N801 - beside the model's Tool
    """Takes as many turns of the loop as it is told."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails, self.running = fails, 0

    async def call(self, arguments):
        self.running += 1
        try:
            for _ in range(arguments["steps"]):
                await asyncio.sleep(0)
            if self.fails:
                raise ToolError("failed", code="tool_failed")
            return {"steps": arguments["steps"]}
        finally:
            self.running -= 1


class Model(ScriptedProvider):
    """Calls what the schedule says, a turn of the loop between its events; then answers."""

    def __init__(self, turns: list[list[Called]], pace: int, breaks_at: int | None) -> None:
        super().__init__("local")
        self.turns, self.pace, self.breaks_at = list(turns), pace, breaks_at
        self.running = 0

    async def stream(self, call, emit):
        self.calls.append(call)
        self.running += 1
        try:
            for number, event in enumerate(self._events(call)):
                for _ in range(self.pace):
                    await asyncio.sleep(0)
                if self.breaks_at == number + 10 * (len(self.calls) - 1):
                    raise UpstreamClosed("broke off")
                call.timing.first_event_ns = call.timing.first_event_ns or 1
                await emit(event)
            call.usage, call.finish, call.complete = USAGE, "stop", True
        finally:
            self.running -= 1

    def _events(self, call):
        choice = call.conversation.tool_choice
        last = choice is not None or not call.conversation.tools
        called = self.turns.pop(0) if self.turns and not last else []
        yield AnswerStarted("a-1", "m")
        yield TextDelta("Well.")
        for index, each in enumerate(called):
            arguments = each.arguments % each.steps
            yield ToolCallStarted(index, each.id, each.name)
            yield ToolCallDelta(index, arguments)
            yield ToolCallSealed(index, each.id, each.name, arguments)
        yield Finished(FinishReason.TOOL_CALLS if called else FinishReason.STOP, USAGE)


SETTINGS = settings_of(configuration("http://127.0.0.1:1"))
MODELS = {model.name: _model(model, SETTINGS) for model in SETTINGS.models}


class House:
    """A gateway of fakes, one agent and its helper."""

    def __init__(self, model: Model) -> None:
        self.model = model
        providers = {"local": model, "claude": ScriptedProvider("claude")}
        self.gateway: Gateway = _gateway(SETTINGS, MODELS, providers)
        self.tools = {
            "reads": Tool_(),
            "writes": Tool_(),
            "fails": Tool_(fails=True),
            "one_at_a_time": Tool_(),
        }
        specs = {
            name: ToolSpec(name, parameters=SCHEMA, effects=READS if name == "reads" else Effects())
            for name in self.tools
        }
        specs["one_at_a_time"] = replace(specs["one_at_a_time"], max_concurrency=1)
        registered = {name: RegisteredTool(specs[name], tool) for name, tool in self.tools.items()}
        self.gateway.tools = Registry(registered)
        names = tuple(self.tools)
        other = Agent("other", model="small", tools=names, max_turns=2)
        desk = Agent("desk", model="small", tools=names, agents=("other",), max_turns=4)
        self.gateway.agents = {"desk": desk, "other": other}
        self.told: list[RunEvent] = []
        self.run = AgentRun(
            agent=desk,
            messages=(Message(Role.USER, (TextPart("Do it."),)),),
            gateway=self.gateway,
            turn=Turn("r", "t", Timeline(), Deadline(None), time.time()),
            emit=self.told.append,
            client_tools=(Tool("clients_own", "", {"type": "object"}),),
        )


PAIRS = {
    "message": (MessageStarted, MessageEnded, "id"),
    "step": (StepStarted, StepFinished, "name"),
    "agent": (SubagentStarted, SubagentEnded, "id"),
}


def assert_closed(told: list[RunEvent], pending: list[str]) -> None:
    """Each thing that was opened is closed once, in every stream of the run."""
    opened, sealed, ended = Counter[str](), Counter[str](), Counter[str]()
    depth = Counter[str]()
    for event in told:
        inner = event.event if isinstance(event, Within) else event
        if isinstance(inner, CallOpened):
            opened[inner.id] += 1
        elif isinstance(inner, CallSealed):
            assert opened[inner.id]
            sealed[inner.id] += 1
        elif isinstance(inner, CallEnded):
            assert sealed[inner.id]
            ended[inner.id] += 1
        for kind, (begins, ends, name) in PAIRS.items():
            if isinstance(inner, begins | ends):
                depth[f"{kind} {getattr(inner, name)}"] += 1 if isinstance(inner, begins) else -1
    assert max(opened.values(), default=1) == 1, "an id was used twice"
    assert opened == sealed
    assert opened == ended + Counter(pending)
    assert not +depth
    assert not -depth


def assert_vendors_take(messages: tuple[Message, ...]) -> None:
    """Each call has its one result, in order, in the next message; no result stands elsewhere."""
    due: list[str] = []
    for message in messages:
        results = [part.call_id for part in message.parts if isinstance(part, ToolResultPart)]
        assert results == due
        due = [part.id for part in message.parts if isinstance(part, ToolCallPart)]
        assert len(set(due)) == len(due)
    assert due == []


@settings(max_examples=200)
@given(
    turns=TURNS,
    pace=st.integers(0, 2),
    breaks_at=st.none() | st.integers(0, 25),
    cancel_after=st.none() | st.integers(0, 120),
    twice=st.booleans(),
)
def test_a_run_leaves_nothing_open_whenever_it_is_cancelled(
    turns, pace, breaks_at, cancel_after, twice
):
    async def go() -> None:
        house = House(Model(turns, pace, breaks_at))
        task = asyncio.get_running_loop().create_task(house.run.run())
        if cancel_after is not None:
            for _ in range(cancel_after):
                await asyncio.sleep(0)
            task.cancel()
            if twice:
                await asyncio.sleep(0)
                task.cancel()
        with suppress(GatewayError, asyncio.CancelledError):
            await task
        assert_closed(house.told, house.run.pending)
        assert house.model.running == 0
        assert [tool.running for tool in house.tools.values()] == [0] * len(house.tools)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        registry = house.gateway.tools
        assert registry is not None
        assert not any(each._room.locked() for each in registry.tools.values())
        for call in house.model.calls:
            assert call.conversation is not None
            assert_vendors_take(call.conversation.messages)

    asyncio.run(go())
