"""Run an agent's declared workflow: its tools, models, templates and maps, each as soon as its
inputs are there.

The results become part of what the model reads before it answers; a part that failed or was not in
time is named there, and in the answer. A node called ``answer`` is the answer itself, and no model
is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from app.domain.chat import Message, Role, TextPart
from app.domain.plan import INPUT, ITEM, Node, NodeKind, Outcome, filled
from app.domain.run_events import CallArguments, CallEnded, CallOpened, CallSealed, Status
from app.domain.tools import ToolCaller, ToolResult
from app.domain.turn_record import ToolUse
from app.errors import GatewayError, ToolError
from app.pipeline.fanout import Fanout, run_plan

if TYPE_CHECKING:
    from app.pipeline.agent import AgentRun

ANSWER = "answer"


@dataclass(slots=True)
class WorkflowRun:
    """One workflow under way, for one run of an agent."""

    run: AgentRun
    question: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    _calls: int = 0

    async def execute(self, until_s: float | None) -> None:
        """Run every node to its end, or to ``until_s`` of the loop's clock; cancelled, it stops them all."""
        run = self.run
        async with Fanout(self._work, limit=run.agent.max_parallel_tools) as fanout:
            for node in run.agent.workflow:
                fanout.add(node)
            try:
                async with asyncio.timeout_at(until_s):
                    await fanout.finished()
            except TimeoutError:
                fanout.cancel()
        self.outcomes = fanout.outcomes
        run.left_out += [each.id for each in self.outcomes.values() if not each.ok]

    @property
    def answer(self) -> str:
        """The text of the node ``answer``; empty where the plan has none or it did not end well."""
        outcome = self.outcomes.get(ANSWER)
        return _text(outcome.value) if outcome is not None and outcome.ok else ""

    def told(self) -> Message:
        """What the model reads: each part's result, or why it is missing."""
        lines = [
            f"{each.id}: {_text(each.value) if each.ok else f'missing ({each.ending.value})'}"
            for each in self.outcomes.values()
        ]
        text = "\n".join(["Results that were looked up for this question:", *lines])
        return Message(Role.USER, (TextPart(text),))

    async def _work(self, node: Node, inputs: Mapping[str, object]) -> object:
        values = {**inputs, INPUT: self.question}
        match node.kind:
            case NodeKind.TEMPLATE:
                return filled(node.arguments, values)
            case NodeKind.MODEL:
                return await self.run.one_answer(node.name, _text(filled(node.arguments, values)))
            case NodeKind.TOOL:
                return await self._call(node.name, filled(node.arguments, values))
            case NodeKind.MAP:
                return await self._each(node, values)

    async def _each(self, node: Node, values: Mapping[str, object]) -> list[object]:
        """The tool's results for all elements at once, in their order; the first failure fails the node."""
        assert isinstance(node.arguments, Mapping)  # noqa: S101 - so it was made
        over = filled(node.arguments["over"], values)
        if not isinstance(over, list):
            raise ToolError(f"{node.id} goes over something that is no list", code="tool_arguments")
        template = node.arguments["arguments"]

        async def one(each: Node, _: Mapping[str, object]) -> object:
            item = {**values, ITEM: over[int(each.id)]}
            return await self._call(node.name, filled(template, item))

        nodes = tuple(Node(str(index)) for index in range(len(over)))
        outcomes = await run_plan(nodes, one, limit=self.run.agent.max_parallel_tools)
        for outcome in outcomes.values():
            if outcome.error is not None:
                raise outcome.error
        return [outcome.value for outcome in outcomes.values()]

    async def _call(self, name: str, arguments: object) -> object:
        """Call a tool, telling it as any call is told."""
        run, tools = self.run, self.run.gateway.tools
        given = arguments if isinstance(arguments, dict) else {}
        self._calls += 1
        call_id = run.own_id(f"plan_{self._calls}_{run.turn.request_id[-8:]}")
        run.say(CallOpened(call_id, name))
        run.say(CallArguments(call_id, msgspec.json.encode(given).decode()))
        run.say(CallSealed(call_id))
        span = run.turn.timeline.stage("tools", name)
        ended = CallEnded(call_id, name, f"{name} was cancelled", "cancelled", "cancelled")
        try:
            if tools is None or name not in tools.tools:
                raise ToolError(f"there is no tool {name!r}", code="tool_unknown")
            spec = tools.tools[name].spec
            run.used[name] = tools.tools[name]
            run.say(Status(spec.status_of(given)))
            caller = ToolCaller(run.turn.tenant, run.turn.user)
            result: ToolResult = await tools.call(name, given, caller)
            ended = CallEnded(call_id, name, result.text, "cached" if result.cached else "ok")
        except GatewayError as error:
            ended = CallEnded(call_id, name, f"{name} {error.message}", "error", error.code)
            raise
        finally:
            span.end()
            run.say(ended)
            start_ns, took_ns = span.start_ns, span.end_ns - span.start_ns
            outcome = ended.outcome if ended.outcome in {"ok", "cached"} else "error"
            run.turn.tools.append(
                ToolUse(name, start_ns - run.turn.timeline.started_ns, took_ns, outcome)
            )
        return result.text if result.value is None else result.value


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
