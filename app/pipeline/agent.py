"""The loop of an agent: model, tools, model; each call starts before the model has written the next one.

Plan: one ``Fanout`` lives as long as one model call. As soon as a call's arguments are complete in
the stream, they are validated and the tool is started beside the stream; results are emitted in the
order in which they come; the transcript keeps the order of the model's calls. When the stream ends,
only the slowest call is left to wait for.

Invariants:

* Every opened call is sealed and ended, also when the run is cancelled or fails: every vendor refuses a
  history in which a call has no result.
* Nothing outlives ``run``: cancelled at any await, it stops the model's stream and every tool first.
* Limits end a run with an answer: when turns, calls, tokens or money are used up, the model is called
  once more without tools.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.domain.agents import Agent
from app.domain.chat import (
    Message,
    Role,
    Sampling,
    TextPart,
    Tool,
)
from app.domain.decisions import ToolGuess
from app.domain.events import COMPLETE_FINISHES, FinishReason
from app.domain.models import AUTO, Model
from app.domain.run_events import (
    Inner,
    Interrupt,
    MessageEnded,
    MessageStarted,
    MessageText,
    ModelUsage,
    RunEvent,
    Status,
    SubagentEnded,
    SubagentStarted,
    Within,
)
from app.domain.tools import ToolCaller, ToolResult
from app.domain.usage import Usage
from app.errors import GatewayError, ToolError
from app.learn.argument_sources import ConversationState, PastCall
from app.pipeline import subagents
from app.pipeline.agent_conversation import conversation_state
from app.pipeline.agent_model_choice import choose_models, prompt_view
from app.pipeline.agent_time import TimePlan
from app.pipeline.agent_turn import ModelTurn
from app.pipeline.agent_workflow import WorkflowRun
from app.pipeline.approvals import AnsweredInterrupt, run_approved_calls
from app.pipeline.drafts import Drafts
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.planner import PlanResults, PlanTurn
from app.pipeline.speculation import SpeculationPolicy, stage_of
from app.pipeline.subagents import PrefixLeaders
from app.pipeline.synthesis import assembly_model
from app.pipeline.tool_use_learning import tool_guess_of_run

if TYPE_CHECKING:
    from app.tools.registry import RegisteredTool

EmitRunEvent = Callable[[RunEvent], None]
"""Receive one event of the run; must neither block nor raise."""

_MAX_INVALID_CALLS = 2
"""Invalid calls that the model may correct in one run."""


@dataclass(slots=True)
class AgentRun:
    """One run. Make one, ``await run()``; then read ``text``, ``usages``, ``left_out``, ``pending``."""

    agent: Agent
    messages: tuple[Message, ...]
    gateway: Gateway
    turn: Turn
    emit: EmitRunEvent
    client_tools: tuple[Tool, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)

    approvals: tuple[AnsweredInterrupt, ...] = ()
    """A person's decisions on the calls that the interrupted run asked about."""
    run_id: str = ""
    interactive: bool = False
    """A person can be asked to approve calls."""

    text: str = ""
    """The final answer's text."""
    interrupts: list[Interrupt] = field(default_factory=list)
    """Calls that wait for approval."""
    finish: str = ""
    usages: dict[str, ModelUsage] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    called_tools: dict[str, RegisteredTool] = field(default_factory=dict)
    """Tools called so far, by name."""
    question: str = ""
    """The user's last message."""
    argument_text: str = ""
    """Text that the next call's arguments may come from: the question, or the last results."""
    stage: str = ""
    past_calls: list[PastCall] = field(default_factory=list)
    """Calls that were made, with their results."""
    drafts: Drafts | None = None
    """The run's speculative calls; None where there are no tools."""
    calls_made: int = 0
    invalid_calls: int = 0
    depth: int = 0
    """0 for a run that a client asked for, 1 for its sub-agents, and so on."""
    label: str = ""
    """Prefix of its message ids; empty = the request's id."""
    first_byte: asyncio.Event | None = None
    """Set at a model's first event, for which siblings wait: see ``app.pipeline.subagents``."""
    any_call_failed: bool = False
    """A tool call ended with an error."""
    delegated: bool = False
    """It called a sub-agent."""
    subagents: dict[str, Agent] = field(default_factory=dict)
    leaders: PrefixLeaders = field(default_factory=PrefixLeaders)
    _ids: set[str] = field(default_factory=set)
    _guess: ToolGuess | None = None
    """The classifier's guess of its first tool calls, to be trained on."""
    message_count: int = 0

    async def run(self) -> None:
        """Run to the answer; raises ``GatewayError`` where there is none."""
        agent, gateway = self.agent, self.gateway
        tools = gateway.tools
        offered = {} if tools is None else await tools.offered(agent.tools)
        allowed = self.turn.tools_allowed
        if allowed is not None:
            offered = {name: tool for name, tool in offered.items() if name in allowed}
        self.label = self.label or self.turn.request_id
        self.question = prompt_view(self.messages, ()).text
        self.subagents = subagents.subagents_of(agent, gateway.agents, self.depth)
        candidates = choose_models(agent, self.messages, tuple(offered), gateway, self.turn)
        self._guess = None if self.approvals else tool_guess_of_run(agent, self.messages, self.turn)
        time = TimePlan.of(self.turn.deadline, gateway, candidates)
        transcript = list(self.messages)
        if self.approvals:
            transcript = await run_approved_calls(self, self.approvals, offered, time)
        if agent.workflow:
            workflow = WorkflowRun(self, self.question, time.tools_by_s)
            await workflow.execute()
            if workflow.answer:
                self.emit_answer(workflow.answer)
                return
            transcript.append(workflow.results_message())
        self.argument_text, self.stage = self.question, stage_of(())
        async with self._open_drafts(offered) as self.drafts:
            await self._loop(offered, candidates, transcript, time)

    async def _loop(
        self,
        offered: dict[str, RegisteredTool],
        candidates: list[Model],
        transcript: list[Message],
        time: TimePlan,
    ) -> None:
        """Model, tools, model, until there is an answer."""
        agent = self.agent
        plans = agent.plans and not self.client_tools and bool(offered or self.subagents)
        planned = PlanResults(self.question)
        for number in range(1, agent.max_turns + 1):
            last = not offered and not self.client_tools and not self.subagents
            last = last or number == agent.max_turns or self._limits_reached() or time.must_answer()
            model_turn = (
                PlanTurn(self, offered, time, number, planned, final=last)
                if plans
                else ModelTurn(self, offered, time, number, final=last)
            )
            writers = self._answer_models(candidates) if number > 1 else candidates
            transcript += await model_turn.run(writers, tuple(transcript))
            self.text = model_turn.text
            self.finish = model_turn.finish
            if number == 1 and not last and isinstance(model_turn, ModelTurn):
                self._record_first_calls(model_turn)
            waits = self.pending or self.interrupts
            if last or not model_turn.calls or waits or model_turn.time_is_up:
                return

    def _record_first_calls(self, first: ModelTurn) -> None:
        """Train the tool classifier on the first model call, if it was complete."""
        learning, whole = self.gateway.tool_use_learner, first.finish in COMPLETE_FINISHES
        if learning is not None and self._guess is not None and whole and not first.time_is_up:
            called = tuple(call.name for call in first.calls.values())
            learning.tools.observe(self._guess, called)

    def _open_drafts(
        self, offered: dict[str, RegisteredTool]
    ) -> Drafts | AbstractAsyncContextManager[None]:
        """The run's drafts, where there are tools to speculate on."""
        tools, agent = self.gateway.tools, self.agent
        if tools is None or not offered or not agent.speculate:
            return nullcontext()
        caller = ToolCaller(self.turn.tenant, self.turn.user)
        policy = SpeculationPolicy(
            agent.speculate, agent.value_usd_per_s, agent.max_waste_share, agent.remember
        )
        return Drafts(self.gateway.speculation, policy, tools, caller, agent=agent.name)

    def conversation_state(self) -> ConversationState:
        """What the model can read now."""
        return conversation_state(self.messages, self.past_calls)

    def _answer_models(self, candidates: list[Model]) -> list[Model]:
        """Models for the call that reads tool results: ``answer_model`` while no result is missing."""
        wanted = self.agent.answer_model
        if not wanted or self.left_out or self.invalid_calls or self.turn.tier is not None:
            return candidates
        model = assembly_model(self) if wanted == AUTO else self.gateway.models.get(wanted)
        if model is None:
            return candidates
        return [model, *(each for each in candidates if each is not model)]

    def _limits_reached(self) -> bool:
        tokens = sum(each.usage.total_tokens for each in self.usages.values())
        return (
            self.calls_made >= self.agent.max_calls
            or tokens >= self.agent.max_tokens
            or self.turn.cost_usd >= self.agent.max_cost_usd
            or self.invalid_calls > _MAX_INVALID_CALLS
        )

    def add_usage(self, model: Model, usage: Usage | None) -> None:
        """Add a model call's tokens to the run's."""
        if usage is None:
            return
        known = self.usages.get(model.name)
        total = usage if known is None else known.usage.plus(usage)
        self.usages[model.name] = ModelUsage(model.provider, model.upstream_model, total)
        whole = Usage()
        for each in self.usages.values():
            whole = whole.plus(each.usage)
        self.turn.usage = whole

    def emit_answer(self, text: str) -> None:
        """Emit an answer that no model wrote."""
        message_id = f"{self.label}-message-answer"
        self.emit(MessageStarted(message_id))
        self.emit(MessageText(message_id, text))
        self.emit(MessageEnded(message_id))
        self.text, self.finish = text, FinishReason.STOP.value

    async def ask_once(self, model: str, prompt: str) -> str:
        """One model's answer to one prompt, without tools or events; counted in this run's usage."""
        child = AgentRun(
            agent=Agent(self.agent.name, model=model),
            messages=(Message(Role.USER, (TextPart(prompt),)),),
            gateway=self.gateway,
            turn=self.turn,
            emit=lambda _: None,
            usages=self.usages,
            depth=self.depth + 1,
        )
        await child.run()
        return child.text

    async def delegate(self, call_id: str, other: Agent, task: str) -> ToolResult:
        """Run ``task`` on another agent; raises ``ToolError`` where it fails. Its events are emitted
        under its own id.
        """
        self.delegated = True
        tools = self.gateway.tools
        known = {} if tools is None else await tools.offered(other.tools)
        lead = self.leaders.lead(other, (each.spec.offered() for each in known.values()))
        if lead is None:
            await self.leaders.follow(other)

        def say(event: RunEvent) -> None:
            if isinstance(event, Inner) and not isinstance(event, Status):
                self.emit(Within(call_id, event))
            elif isinstance(event, Status | Within | SubagentStarted | SubagentEnded):
                self.emit(event)

        question = Message(Role.USER, (TextPart(task),))
        system = (Message(Role.SYSTEM, (TextPart(other.system),)),) if other.system else ()
        child = AgentRun(
            agent=other,
            messages=(*system, question),
            gateway=self.gateway,
            turn=self.turn,
            emit=say,
            usages=self.usages,
            depth=self.depth + 1,
            label=f"{self.label}-{call_id}",
            first_byte=lead,
            _ids=self._ids,
        )
        self.emit(SubagentStarted(call_id, other.name, task))
        try:
            await child.run()
        except GatewayError as error:
            self.emit(SubagentEnded(call_id, error.message, error.code))
            raise ToolError(f"failed: {error.message}", code="subagent_failed") from error
        except asyncio.CancelledError:
            self.emit(SubagentEnded(call_id, "cancelled", "cancelled"))
            raise
        finally:
            if lead is not None:
                lead.set()
        self.left_out += child.left_out
        self.emit(SubagentEnded(call_id, child.text))
        return ToolResult(child.text)

    def new_call_id(self) -> str:
        """An id for a call that no model made."""
        return self.unique_call_id(f"plan_{len(self._ids) + 1}_{self.turn.request_id[-8:]}")

    def unique_call_id(self, call_id: str) -> str:
        """The model's id for a call if it is unique in this run, else a new one."""
        found = call_id
        while not found or found in self._ids:
            found = f"call_{self.turn.request_id[-8:]}_{len(self._ids)}"
            self._ids.add(call_id)
        self._ids.add(found)
        return found
