"""One turn of an agent that plans: the model writes all calls it needs, and their order, at once.

The ordinary loop needs a model call for every step of a chain (find the user, then her permissions). In
a plan a call's input may be an earlier call's result, so the whole chain costs one model call. A task
starts as soon as its own line is complete and its inputs are there, while the model is still writing.

Faulty lines never run: a line that is no call, an unknown tool, invalid arguments, a reference to
nothing, a circle. Each is emitted as a failed call and reported to the model with the results, which may
correct it (twice in a run); calls that do not depend on it run meanwhile. A line may refer to later
lines: it waits until they are written; one that still waits at the end refers to nothing, or in a circle.

A turn without a plan line is the answer. Results of earlier turns may be referred to by their ids.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from app.domain.chat import Conversation, Json, Message, Role, TextPart
from app.domain.events import AnswerBuilder, Event, RefusalDelta, TextDelta, ThinkingDelta
from app.domain.models import Model
from app.domain.plan import (
    INPUT,
    Ending,
    Node,
    NodeKind,
    Outcome,
    PlanError,
    filled,
    references,
    validated,
)
from app.domain.plan_lines import PlanLine, PlanReader
from app.domain.run_events import StepFinished, StepStarted
from app.domain.tools import ToolResult
from app.errors import GatewayError, ToolError, UpstreamProtocol
from app.pipeline.agent_model_call import MessageWriter, ask_within_time
from app.pipeline.agent_time import TimePlan
from app.pipeline.fanout import Fanout
from app.pipeline.planned_call import map_call, planned_call, refused_call, rendered
from app.pipeline.subagents import tool_declarations

if TYPE_CHECKING:
    from app.pipeline.agent import AgentRun
    from app.tools.registry import RegisteredTool

_log = logging.getLogger("slipstream.agent")
_HOW = """\
Before you answer, plan the calls that you need: one JSON object a line, and nothing else:
{"id": "a", "tool": "<name>", "arguments": {...}}
{"id": "b", "tool": "<name>", "arguments": {"owner": "{{a.owner.id}}"}}
"{{a}}" stands for the whole result of call a, "{{a.path.0.to}}" for a part of it. A call starts as \
soon as its line is written and what it refers to is there; calls that do not refer to each other \
run side by side, so plan all of them at once. With "each": "{{a.items}}" the tool is called for \
every element of that list, seen as "{{item}}". You are then given the results, and either plan \
further calls or answer in plain text. Where no call is needed, answer in plain text at once.
The tools, with the JSON Schema of their arguments:"""
_ANSWER_NOW = "Answer now, in plain text. No further calls are possible."


@dataclass(slots=True)
class PlanResults:
    """Results of a run's plans so far, by the ids that the model chose."""

    question: str
    results: dict[str, object] = field(default_factory=dict)


class PlanTurn:
    """One model call that writes a plan, with the calls of the plan; or that answers."""

    def __init__(
        self,
        run: AgentRun,
        offered: Mapping[str, RegisteredTool],
        time: TimePlan,
        number: int,
        planned: PlanResults,
        *,
        final: bool,
    ) -> None:
        """Plan with ``offered`` and the agents that the run may ask; ``final``: only answer."""
        self._run, self._offered, self._time = run, offered, time
        self._number, self._planned, self._final = number, planned, final
        self._builder = AnswerBuilder()
        self._reader = PlanReader()
        self._speech = MessageWriter(run, f"{run.label}-turn-{number}")
        self._accepted: dict[str, Node] = {}
        """Accepted nodes, by id."""
        self._unresolved: dict[str, Node] = {}
        """Nodes that refer to lines not yet written."""
        self._faults: list[str] = []
        self._texts: dict[str, str] = {}
        """Results as the model reads them, by node."""
        self.text = ""
        self.finish = ""
        self.time_is_up = False

    @property
    def calls(self) -> bool:
        """Whether it wrote any plan line, valid or not."""
        return self._reader.lines > 0

    async def run(
        self, candidates: Sequence[Model], transcript: tuple[Message, ...]
    ) -> list[Message]:
        """Ask, run what is planned, and give the messages that this adds to the transcript."""
        run, step = self._run, f"{'answer' if self._final else 'plan'} {self._number}"
        run.emit(StepStarted(step))
        try:
            limit = run.agent.max_parallel_tools
            async with Fanout(self._work, limit=limit) as self._fanout:
                await self._ask(candidates, transcript)
                self._refuse_unresolved()
                agent = run.agent
                outcomes = await self._fanout.finish_with_quorum(
                    agent.quorum, agent.patience_s, self._spare
                )
        finally:
            self._speech.close()
            run.emit(StepFinished(step))
        if self._faults:
            run.invalid_calls += 1
        return self._added(outcomes)

    async def _ask(self, candidates: Sequence[Model], transcript: tuple[Message, ...]) -> None:
        run = self._run
        conversation = Conversation(messages=self._instructed(transcript), sampling=run.sampling)
        in_time = await ask_within_time(run, conversation, candidates, self._time, self._emit)
        if not in_time:
            self.time_is_up = True
            self.text, self.finish = self._speech.text, "length"
            return
        self._read_pieces(self._reader.end())
        answer = self._builder.answer()
        if answer is None:
            raise UpstreamProtocol("the model's answer ended before it was whole")
        self.text, self.finish = self._speech.text, answer.finish.value

    def _instructed(self, transcript: tuple[Message, ...]) -> tuple[Message, ...]:
        """The transcript with the planning instructions after the system messages: a stable prefix."""
        tools = [each.spec.offered() for each in self._offered.values()]
        lines = [
            json.dumps({"tool": t.name, "description": t.description, "arguments": t.parameters})
            for t in (*tools, *tool_declarations(self._run.subagents))
        ]
        how = Message(Role.SYSTEM, (TextPart("\n".join([_HOW, *lines])),))
        at = next((n for n, each in enumerate(transcript) if each.role is not Role.SYSTEM), 0)
        last = (Message(Role.USER, (TextPart(_ANSWER_NOW),)),) if self._final else ()
        return (*transcript[:at], how, *transcript[at:], *last)

    async def _emit(self, event: Event) -> None:
        """Take one event of the model's stream; never waits."""
        self._builder.add(event)
        if self._run.first_byte is not None:
            self._run.first_byte.set()
        match event:
            case TextDelta(text):
                self._read_pieces(self._reader.feed(text))
            case RefusalDelta(text):
                self._speech.write(text)
            case ThinkingDelta(text):
                self._speech.write(text, reasoning=True)
            case _:
                pass

    def _read_pieces(self, pieces: Iterator[str | PlanLine]) -> None:
        for piece in pieces:
            if isinstance(piece, PlanLine):
                self._speech.close()
                self._accept_line(piece)
            elif not self.calls:  # behind a plan it is commentary on results that are not there yet
                self._speech.write(piece)

    def _accept_line(self, line: PlanLine) -> None:
        """Start a complete line, hold it until what it refers to is written, or refuse it."""
        node = line.node
        if node is None:
            self._refuse(line.tool or "plan", line.arguments, line.error)
            return
        fault, code = self._fault(node)
        if fault:
            self._refuse(node.name, line.arguments, fault, code)
            return
        if node.kind is not NodeKind.MAP:  # whose calls are counted when it is known how many
            self._run.calls_made += 1
        needs = tuple(each for each in node.needs if each not in self._planned.results)
        self._unresolved[node.id] = replace(
            node, needs=needs, deadline_s=self._time.tool_time_left_s()
        )
        self._start_resolved()

    def _fault(self, node: Node) -> tuple[str, str]:
        """What is wrong with a node by itself, and the error's code; empty when nothing is."""
        run = self._run
        if self._final:
            return "no tool may be called any more: answer now", "tool_limit"
        if run.calls_made >= run.agent.max_calls:
            return f"the run's limit of {run.agent.max_calls} calls is reached", "tool_limit"
        if node.id in self._accepted or node.id in self._unresolved:
            return f"the plan names {node.id!r} twice: give each call its own id", "invalid_plan"
        registered = self._offered.get(node.name)
        if registered is None and node.name not in run.subagents:
            known = ", ".join([*self._offered, *run.subagents]) or "none"
            return f"there is no tool {node.name[:64]!r}; there are: {known}", "tool_unknown"
        plain = node.kind is NodeKind.TOOL and not references(node.arguments)
        if registered is not None and plain and isinstance(node.arguments, dict):
            try:
                registered.check(node.arguments)
            except ToolError as error:
                return error.message, error.code
        return "", ""

    def _start_resolved(self) -> None:
        """Start every node whose references are all accepted; each may resolve others."""
        going = True
        while going:
            going = False
            for node in list(self._unresolved.values()):
                if all(needed in self._accepted for needed in node.needs):
                    del self._unresolved[node.id]
                    self._accepted[node.id] = node
                    self._fanout.add(node)
                    going = True

    def _refuse_unresolved(self) -> None:
        """The plan is over: refuse nodes that still refer to nothing, or in a circle."""
        self._start_resolved()
        while self._unresolved:
            for node in list(self._unresolved.values()):
                missing = [
                    n for n in node.needs if n not in self._accepted and n not in self._unresolved
                ]
                if missing:
                    fault = f"{node.id!r} refers to {missing[0]!r}, which the plan does not hold"
                    self._refuse_node(node, fault)
                    break
            else:
                self._refuse_circle()

    def _refuse_circle(self) -> None:
        held = self._unresolved.values()
        stuck = [
            replace(each, needs=tuple(n for n in each.needs if n in self._unresolved))
            for each in held
        ]
        try:
            validated(stuck)
            fault = "the plan cannot be run"
        except PlanError as error:
            fault = error.message
        for node in list(held):
            self._refuse_node(node, fault)

    def _refuse_node(self, node: Node, fault: str) -> None:
        del self._unresolved[node.id]
        self._run.calls_made -= node.kind is not NodeKind.MAP
        given = node.arguments if isinstance(node.arguments, dict) else {}
        self._refuse(node.name, given, fault)

    def _refuse(
        self, name: str, arguments: Json | None, fault: str, code: str = "invalid_plan"
    ) -> None:
        self._faults.append(fault)
        refused_call(self._run, name[:64], arguments or {}, fault, code)

    async def _work(self, node: Node, inputs: Mapping[str, object]) -> object:
        planned = self._planned
        values = {INPUT: planned.question, **planned.results, **inputs}
        try:
            if node.kind is NodeKind.MAP:
                limit = self._run.agent.max_parallel_tools
                given = rendered(await map_call(node, values, self._map_element, limit=limit))
            else:
                given = rendered(await self._call(node.name, filled(node.arguments, values)))
        except GatewayError:
            raise
        except Exception as error:
            _log.exception("tool_failed", extra={"tool": node.name})
            raise ToolError("failed", code="tool_failed") from error
        self._texts[node.id] = given.text
        return given.value

    def _spare(self, node: Node) -> bool:
        """Whether a call may be abandoned: only a read-only one."""
        registered = self._offered.get(node.name)
        return registered is not None and registered.spec.effects.read_only

    async def _map_element(self, name: str, arguments: object) -> ToolResult:
        """One of a map's calls, within the run's limit."""
        run = self._run
        if run.calls_made >= run.agent.max_calls:
            message = f"would be more than the run's {run.agent.max_calls} calls"
            raise ToolError(message, code="tool_limit")
        run.calls_made += 1
        return await self._call(name, arguments)

    async def _call(self, name: str, arguments: object) -> ToolResult:
        given = arguments if isinstance(arguments, dict) else {}
        until_s = self._time.tools_by_s
        return await planned_call(self._run, name, given, self._offered, until_s)

    def _added(self, outcomes: Mapping[str, Outcome]) -> list[Message]:
        """The model's message, and the one with the results and faults of its plan."""
        raw = self._builder.answer()
        wrote = raw.text if raw is not None else self.text
        added = [Message(Role.ASSISTANT, (TextPart(wrote),))] if wrote else []
        if not self.calls:
            return added
        lines = ["The results of the calls that you planned:"]
        for node_id, outcome in outcomes.items():
            lines.append(f"{node_id}: {self._result_text(node_id, outcome)}")
        if self._faults:
            lines += ["These calls were not made; mend them, or answer without:", *self._faults]
        return [*added, Message(Role.USER, (TextPart("\n".join(lines)),))]

    def _result_text(self, node_id: str, outcome: Outcome) -> str:
        if outcome.ok:
            self._planned.results[node_id] = outcome.value
            return self._texts[node_id]
        if outcome.ending is Ending.SKIPPED:
            return f"not called, for {outcome.because} gave no result"
        if isinstance(outcome.error, GatewayError):
            return f"failed: {outcome.error.message}"
        self._run.left_out.append(self._accepted[node_id].name)
        return "did not finish in time; answer without it and say so"
