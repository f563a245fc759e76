"""Run an agent's declared workflow: its tools, models, templates and maps, each as soon as its
inputs are there.

The results are part of what the model reads before it answers; one that failed or was late is named
there, and in the answer. A node called ``answer`` is the answer itself, without a model call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from app.domain.chat import Message, Role, TextPart
from app.domain.plan import INPUT, Node, NodeKind, Outcome, filled
from app.domain.tools import ToolResult
from app.errors import GatewayError, ToolError
from app.pipeline.fanout import Fanout
from app.pipeline.planned_call import RenderedResult, map_call, planned_call, rendered

if TYPE_CHECKING:
    from app.pipeline.agent import AgentRun

ANSWER = "answer"
_LONGEST_REASON_CHARS = 300


@dataclass(slots=True)
class WorkflowRun:
    """One workflow under way, for one run of an agent."""

    run: AgentRun
    question: str
    until_s: float | None = None
    """By when, of the loop's clock, its tools must be done; None = no limit."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    _texts: dict[str, str] = field(default_factory=dict)

    async def execute(self) -> None:
        """Run every node to its end, or to ``until_s``; cancelled, it stops them all."""
        run = self.run
        async with Fanout(self._work, limit=run.agent.max_parallel_tools) as fanout:
            for node in run.agent.workflow:
                fanout.add(node)
            try:
                async with asyncio.timeout_at(self.until_s):
                    await fanout.finish_with_quorum(
                        run.agent.quorum, run.agent.patience_s, self._may_leave_out
                    )
            except TimeoutError:
                fanout.expire()
        self.outcomes = fanout.outcomes
        run.left_out += [each.id for each in self.outcomes.values() if not each.ok]

    @property
    def answer(self) -> str:
        """The text of the node ``answer``; empty where the plan has none or it did not end well."""
        outcome = self.outcomes.get(ANSWER)
        return _text(outcome.value) if outcome is not None and outcome.ok else ""

    def results_message(self) -> Message:
        """The message for the model: each node's result, or why it is missing."""
        lines = [
            f"{each.id}: {self._text_of(each) if each.ok else f'missing ({_failure_reason(each)})'}"
            for each in self.outcomes.values()
        ]
        text = "\n".join(["Results that were looked up for this question:", *lines])
        return Message(Role.USER, (TextPart(text),))

    def _text_of(self, outcome: Outcome) -> str:
        return self._texts.get(outcome.id) or _text(outcome.value)

    async def _work(self, node: Node, inputs: Mapping[str, object]) -> object:
        values = {**inputs, INPUT: self.question}
        match node.kind:
            case NodeKind.TEMPLATE:
                return filled(node.arguments, values)
            case NodeKind.MODEL:
                return await self.run.ask_once(node.name, _text(filled(node.arguments, values)))
            case NodeKind.TOOL:
                self._count_calls(node, 1)
                one = await self._call(node.name, filled(node.arguments, values))
                return self._record_text(node, rendered(one))
            case NodeKind.MAP:
                agent = self.run.agent
                limit, most = agent.max_parallel_tools, agent.max_calls - self.run.calls_made
                each = await map_call(node, values, self._map_element, limit=limit, most=most)
                return self._record_text(node, rendered(each))

    def _count_calls(self, node: Node, calls: int) -> None:
        """Count calls in the run's limit; raises ``ToolError`` over it."""
        run = self.run
        if run.calls_made + calls > run.agent.max_calls:
            message = f"{node.id} would be more than the run's {run.agent.max_calls} calls"
            raise ToolError(message, code="tool_limit")
        run.calls_made += calls

    async def _map_element(self, name: str, arguments: object) -> ToolResult:
        """One of a map's calls."""
        self.run.calls_made += 1
        return await self._call(name, arguments)

    def _record_text(self, node: Node, given: RenderedResult) -> object:
        self._texts[node.id] = given.text
        return given.value

    def _may_leave_out(self, node: Node) -> bool:
        """Whether a node may be abandoned: only read-only calls, whose loss leaves nothing half done."""
        tools = self.run.gateway.tools
        registered = None if tools is None else tools.tools.get(node.name)
        is_call = node.kind in {NodeKind.TOOL, NodeKind.MAP}
        return is_call and (registered is None or registered.spec.effects.read_only)

    async def _call(self, name: str, arguments: object) -> ToolResult:
        """Call a tool of the whole configuration, for the plan is the operator's."""
        run, tools = self.run, self.run.gateway.tools
        given = arguments if isinstance(arguments, dict) else {}
        known = {} if tools is None else tools.tools
        allowed = run.turn.tools_allowed
        if allowed is not None:
            known = {each: tool for each, tool in known.items() if each in allowed}
        return await planned_call(run, name, given, known, self.until_s)


def _failure_reason(outcome: Outcome) -> str:
    """Why a result is missing, for the model to say and a person to fix."""
    if isinstance(outcome.error, GatewayError):
        return f"{outcome.ending.value}: {outcome.error.message[:_LONGEST_REASON_CHARS]}"
    return outcome.ending.value


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
