"""Drafts: what is started early, how long it lives, and what it may never be."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.tools import Effects, ToolCaller, ToolSpec
from app.learn.argument_sources import ConversationState, PastCall
from app.pipeline.drafts import Drafts
from app.pipeline.speculation import Speculation, SpeculationPolicy
from app.tools.registry import RegisteredTool, Registry

pytestmark = pytest.mark.anyio

READS = Effects(read_only=True, repeatable=True, disclosable=True)
SCHEMA = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}


class Counted:
    """A tool that notes what it is called with."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.stopped = 0
        self.go = asyncio.Event()
        self.go.set()

    async def call(self, arguments):
        self.calls.append(arguments["id"])
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return {"got": arguments["id"], "call": len(self.calls)}


def desk(effects: Effects = READS, **more) -> tuple[Registry, Counted]:
    tool = Counted()
    spec = ToolSpec("get", "Get a ticket.", SCHEMA, effects=effects, **more)
    return Registry({"get": RegisteredTool(spec, tool)}), tool


def opened(
    speculation: Speculation, registry: Registry, policy: SpeculationPolicy | None = None
) -> Drafts:
    return Drafts(
        speculation, policy or SpeculationPolicy(), registry, ToolCaller("t"), agent="desk"
    )


async def turn(drafts: Drafts, registry: Registry, text: str, made=()) -> None:
    """The model is asked, and thinks: what is foreseen starts meanwhile."""
    scene = ConversationState(text, calls=tuple(made))
    drafts.start_turn(registry.tools, stage="start", text=text, scene=lambda: scene)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def taught(registry: Registry, tool: Counted) -> Speculation:
    """Knows that a question names the ticket that is looked up."""
    speculation = Speculation()
    for number in range(100, 108):
        async with opened(speculation, registry) as drafts:
            await turn(drafts, registry, f"see INC-{number}")
            drafts.record_call("get", {"id": f"INC-{number}"}, changes=False)
            drafts.end_turn([PastCall("get", {"id": f"INC-{number}"}, {})])
    speculation.decision_times_s["desk"] = speculation.tool_statistics("get").mean_s = 2.0
    speculation.tool_statistics("get").calls = 100
    tool.calls.clear()
    return speculation


async def test_a_draft_is_thrown_away_before_anything_is_changed() -> None:
    registry, tool = desk()
    speculation = await taught(registry, tool)
    async with opened(speculation, registry) as drafts:
        await turn(drafts, registry, "see INC-7")
        assert tool.calls == ["INC-7"]
        assert drafts.has_draft("get", {"id": "INC-7"})
        drafts.record_call("close", {"id": "INC-7"}, changes=True)
        assert not drafts.has_draft("get", {"id": "INC-7"})
        assert await drafts.take("get", {"id": "INC-7"}) is None
        drafts.end_turn([PastCall("close", {"id": "INC-7"}, {})])
        await turn(drafts, registry, "see INC-7")  # after the change it may be read early again
        assert tool.calls == ["INC-7", "INC-7"]
        found = await drafts.take("get", {"id": "INC-7"})
        assert found is not None
        assert found.value == {"got": "INC-7", "call": 2}
    assert speculation.tool_statistics("get").wasted == 1


async def test_a_change_stops_the_early_call_that_still_runs() -> None:
    registry, tool = desk()
    speculation = await taught(registry, tool)
    tool.go.clear()
    async with opened(speculation, registry) as drafts:
        await turn(drafts, registry, "see INC-7")
        drafts.record_call("close", {}, changes=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert tool.stopped == 1


async def test_a_draft_waits_for_the_call_after_the_next() -> None:
    registry, tool = desk()
    speculation = await taught(registry, tool)
    async with opened(speculation, registry) as drafts:
        await turn(drafts, registry, "see INC-7")
        drafts.record_call("other", {}, changes=False)
        drafts.end_turn([PastCall("other", {}, {})])
        await turn(drafts, registry, "what other gave")
        assert await drafts.take("get", {"id": "INC-7"}) is not None
        assert tool.calls == ["INC-7"]
        assert await drafts.take("get", {"id": "INC-7"}) is None  # one result, one call


async def test_a_model_that_has_decided_is_not_overtaken() -> None:
    """A read that starts after the model's change must not have been chosen before it."""
    registry, tool = desk()
    speculation = await taught(registry, tool)
    async with opened(speculation, registry) as drafts:
        scene = ConversationState("see INC-7")
        drafts.start_turn(registry.tools, stage="start", text="see INC-7", scene=lambda: scene)
        drafts.record_call("close", {}, changes=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert tool.calls == []


_FLAGS = st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans())
_TURNS = st.lists(
    st.tuples(st.integers(1, 9), st.booleans(), st.booleans()), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(flags=_FLAGS, turns=_TURNS)
def test_a_tool_without_its_flags_is_never_called_early(flags, turns) -> None:
    """Whatever was learned and whatever the model does: the tool hears from its model alone."""
    asyncio.run(_played(flags, turns))


async def _played(flags, turns) -> None:
    read_only, repeatable, disclosable, own_host, approval = flags
    allowed = read_only and repeatable and (disclosable or own_host) and not approval
    knowing, pupil = desk()
    speculation = await taught(knowing, pupil)
    effects = Effects(read_only, repeatable, disclosable)
    registry, tool = desk(effects, own_host=own_host, approval=approval)
    async with opened(speculation, registry) as drafts:
        for number, changes, takes in turns:
            call = {"id": f"INC-{number}"}
            await turn(drafts, registry, f"see INC-{number}")
            if takes:
                drafts.record_call("get", call, changes=not read_only)
                await drafts.take("get", call)
            if changes:
                drafts.record_call("close", {}, changes=True)
                assert not drafts.has_draft("get", call)
            drafts.end_turn([])
    assert allowed or not tool.calls
