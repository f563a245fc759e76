"""Calls that a person must approve: the run ends with a question, another run goes on with the answer.

A call of a tool with ``approval`` is checked but not made. All else that the model called in the
turn runs; then the run ends as interrupted, and its last event holds each call as it would be made.
What is approved is that call, read from the run's own log: the history that a client sends back is
not trusted with what is to be done. Each interrupt is answered once, all of a run's in one go; with
several workers whichever takes the answer claims it first, for all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from app.domain.agents import Decision
from app.domain.chat import Message, TextPart, ToolCallPart, ToolResultPart
from app.domain.plan import Node, Outcome
from app.domain.run_events import CallEnded, Interrupt, StepFinished, StepStarted
from app.domain.tools import ToolResult
from app.errors import BadRequest, Conflict, GatewayError, NotFound
from app.pipeline.agent_time import TimePlan
from app.pipeline.fanout import Fanout
from app.pipeline.planned_call import made_call

if TYPE_CHECKING:
    from app.pipeline.agent import AgentRun
    from app.tools.registry import RegisteredTool

_STEP = "approved calls"


@dataclass(frozen=True, slots=True)
class AnsweredInterrupt:
    """An interrupt with the person's decision."""

    interrupt: Interrupt
    decision: Decision


@dataclass(frozen=True, slots=True)
class InterruptedRun:
    """A run that ended with calls to approve."""

    interrupts: tuple[Interrupt, ...]
    claim: Callable[[], Awaitable[bool]]
    """Take the right to answer them, once among all workers; False where it was taken before."""


class SiblingRuns(Protocol):
    """The interrupted runs of the other workers of this server."""

    async def find(self, tenant: str, run_id: str) -> InterruptedRun | None:
        """One of them; raises ``GatewayError`` where a worker that may have it does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class Resumption:
    """A person's answers to an interrupted run, checked; none where a run does not resume another."""

    answers: tuple[AnsweredInterrupt, ...] = ()
    run: InterruptedRun | None = None

    async def claim(self) -> None:
        """Use the answers up; raises ``Conflict`` where the run was answered before."""
        if self.run is not None and not await self.run.claim():
            message = (
                "the interrupts of this run were answered before: each is answered once; the run that"
                " took the answer has the result"
            )
            raise Conflict(message, code="interrupt_answered", param="resume")


def match_decisions(
    decisions: Sequence[Decision], interrupts: Sequence[Interrupt], messages: Sequence[Message]
) -> tuple[AnsweredInterrupt, ...]:
    """Match decisions to interrupts; raises ``NotFound`` and ``BadRequest`` where they do not fit."""
    asked = {each.id: each for each in interrupts}
    found: list[AnsweredInterrupt] = []
    calls = {part.id for each in messages for part in each.parts if isinstance(part, ToolCallPart)}
    for decision in decisions:
        interrupt = asked.pop(decision.interrupt_id, None)
        if interrupt is None:
            message = (
                f"there is no interrupt {decision.interrupt_id[:120]!r}: it never was, or its run is no"
                " longer kept; run the agent again"
            )
            raise NotFound(message, code="interrupt_not_found", param="resume")
        if interrupt.call_id not in calls:
            message = f"messages do not hold the call {interrupt.call_id!r} that is to be resumed"
            raise BadRequest(message, param="messages")
        found.append(AnsweredInterrupt(interrupt, decision))
    if asked:
        message = f"resume must answer every interrupt of the run: {', '.join(asked)} is missing"
        raise BadRequest(message, param="resume")
    return tuple(found)


async def run_approved_calls(
    run: AgentRun,
    answers: Sequence[AnsweredInterrupt],
    offered: Mapping[str, RegisteredTool],
    time: TimePlan,
) -> list[Message]:
    """Make the approved calls, in parallel, and give the run's messages with the results in place."""
    texts: dict[str, tuple[str, bool]] = {}
    by_id = {each.interrupt.call_id: each for each in answers}

    async def work(node: Node, _: Mapping[str, object]) -> ToolResult:
        each = by_id[node.id]
        chosen = each.decision.arguments
        arguments = each.interrupt.arguments if chosen is None else chosen
        call_id, name = each.interrupt.call_id, each.interrupt.name
        return await made_call(
            run, call_id, name, arguments, offered, until_s=time.tools_by_s, approved=True
        )

    def on_outcome(outcome: Outcome) -> None:
        name, value, error = by_id[outcome.id].interrupt.name, outcome.value, outcome.error
        if isinstance(value, ToolResult):
            texts[outcome.id] = value.text, False
        elif isinstance(error, GatewayError):
            texts[outcome.id] = f"{name} {error.message}", True
        else:
            run.left_out.append(name)
            texts[outcome.id] = f"{name} did not finish", True

    run.emit(StepStarted(_STEP))
    try:
        async with Fanout(work, limit=run.agent.max_parallel_tools, on_event=on_outcome) as fanout:
            for call_id, each in by_id.items():
                if each.decision.approved:
                    fanout.add(Node(call_id, deadline_s=time.tool_time_left_s()))
                else:
                    texts[call_id] = _decline_call(run, each), True
            await fanout.finished()
    finally:
        run.emit(StepFinished(_STEP))
    return [_with_results(message, texts) for message in run.messages]


def _decline_call(run: AgentRun, each: AnsweredInterrupt) -> str:
    reason = f": {each.decision.reason}" if each.decision.reason else ""
    text = f"the person declined this call{reason}; it was not made"
    run.emit(CallEnded(each.interrupt.call_id, each.interrupt.name, text, "declined", "declined"))
    return text


def _with_results(message: Message, texts: Mapping[str, tuple[str, bool]]) -> Message:
    """A message with its placeholders replaced by the results."""
    parts = tuple(
        ToolResultPart(part.call_id, (TextPart(texts[part.call_id][0]),), texts[part.call_id][1])
        if isinstance(part, ToolResultPart) and part.call_id in texts
        else part
        for part in message.parts
    )
    return replace(message, parts=parts)
