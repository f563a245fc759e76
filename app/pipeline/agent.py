"""The loop of an agent: model, tools, model, with every call under way before the model has written
the next one.

Plan: one ``Fanout`` lives as long as one model call. The moment a call's arguments are sealed
inside the stream, they are checked and the tool is started beside the stream; results come in any
order and are told as they come; the transcript keeps the order in which the model called. When the
stream ends, only the slowest call is still to be waited for.

Invariants:

* Every call that was opened is sealed and ended, also when the run is cancelled or fails: a history
  without a result for each call is refused by every vendor, for ever.
* Nothing outlives ``run``: cancelled at any await it stops the model's stream and every tool, then
  leaves.
* Limits end a run with an answer: when turns, calls, tokens or money are used up, the model is
  asked once more with no tools to choose from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from app.domain.agents import Agent
from app.domain.chat import (
    Conversation,
    Json,
    Message,
    Part,
    RedactedThinkingPart,
    RefusalPart,
    Role,
    Sampling,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from app.domain.events import (
    Answer,
    AnswerBlock,
    AnswerBuilder,
    Event,
    RedactedThinkingBlock,
    RefusalBlock,
    RefusalDelta,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolCallBlock,
    ToolCallDelta,
    ToolCallSealed,
    ToolCallStarted,
)
from app.domain.models import Model
from app.domain.plan import Ending, Node, Outcome
from app.domain.replay import answer_of_text
from app.domain.run_events import (
    CallArguments,
    CallEnded,
    CallOpened,
    CallSealed,
    MessageEnded,
    MessageStarted,
    MessageText,
    ModelUsage,
    RunEvent,
    Status,
    StepFinished,
    StepStarted,
)
from app.domain.tools import ToolCaller, ToolResult
from app.domain.turn_record import ToolUse
from app.domain.usage import Usage
from app.errors import ToolError, UpstreamProtocol
from app.pipeline.agent_model import candidates_of, view_of
from app.pipeline.agent_time import TimePlan
from app.pipeline.converse import ask
from app.pipeline.fanout import Fanout
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.speculation import Drafts, Policy, stage_of
from app.ports import ModelCall

if TYPE_CHECKING:
    from app.tools.registry import Registered

Say = Callable[[RunEvent], None]
"""Take one event of the run; must neither block nor raise."""

_MENDS = 2
"""How often the model may mend arguments that do not fit, in one run."""
_log = logging.getLogger("slipstream.agent")


@dataclass(slots=True)
class _Call:
    """One call of the model's, from its first byte to its result."""

    id: str
    name: str
    index: int
    arguments: Json = field(default_factory=dict)
    sealed: bool = False
    started_ns: int = 0
    speculative: bool = False
    """It was started before the model asked for it."""
    pending: bool = False
    """The client's own tool: it has the result, not we."""
    ended: CallEnded | None = None


@dataclass(slots=True)
class AgentRun:
    """One run. Make one, ``await run()``; then read ``text``, ``usages``, ``left_out``, ``pending``."""

    agent: Agent
    messages: tuple[Message, ...]
    gateway: Gateway
    turn: Turn
    say: Say
    client_tools: tuple[Tool, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)

    text: str = ""
    """The final answer's text."""
    finish: str = ""
    usages: dict[str, ModelUsage] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    used: dict[str, Registered] = field(default_factory=dict)
    """Tools that were called."""
    readable: str = ""
    """What the next call's arguments may come from: the question, or the last results."""
    stage: str = ""
    calls_made: int = 0
    invalid: int = 0
    _ids: set[str] = field(default_factory=set)
    messages_said: int = 0

    async def run(self) -> None:
        """Run to the answer; raises ``GatewayError`` where there is none."""
        agent, gateway = self.agent, self.gateway
        tools = gateway.tools
        offered = {} if tools is None else await tools.offered(agent.tools)
        candidates = candidates_of(agent, self.messages, tuple(offered), gateway, self.turn)
        time = TimePlan.of(self.turn.deadline, gateway, candidates)
        transcript = list(self.messages)
        self.readable, self.stage = view_of(self.messages, ()).text, stage_of(())
        for number in range(1, agent.max_turns + 1):
            last = not offered and not self.client_tools
            last = last or number == agent.max_turns or self._is_spent() or time.must_answer()
            model_turn = _ModelTurn(self, offered, time, number, final=last)
            writers = self._writers(candidates) if number > 1 else candidates
            transcript += await model_turn.run(writers, tuple(transcript))
            self.text = model_turn.text
            self.finish = model_turn.finish
            if last or not model_turn.calls or self.pending or model_turn.time_is_up:
                return

    def _writers(self, candidates: list[Model]) -> list[Model]:
        """Who reads the tools' results: the agent's model for answers, while all results came."""
        model = self.gateway.models.get(self.agent.answer_model)
        if model is None or self.left_out or self.invalid or self.turn.tier is not None:
            return candidates
        return [model, *(each for each in candidates if each is not model)]

    def _is_spent(self) -> bool:
        tokens = sum(each.usage.total_tokens for each in self.usages.values())
        return (
            self.calls_made >= self.agent.max_calls
            or tokens >= self.agent.max_tokens
            or self.turn.cost_usd >= self.agent.max_cost_usd
            or self.invalid > _MENDS
        )

    def account(self, model: Model, usage: Usage | None) -> None:
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

    def own_id(self, call_id: str) -> str:
        """The model's id for a call where it is new in this run, else one of ours."""
        found = call_id
        while not found or found in self._ids:
            found = f"call_{self.turn.request_id[-8:]}_{len(self._ids)}"
            self._ids.add(call_id)
        self._ids.add(found)
        return found


class _ModelTurn:
    """One model call with the tools that it calls."""

    def __init__(
        self,
        run: AgentRun,
        offered: Mapping[str, Registered],
        time: TimePlan,
        number: int,
        *,
        final: bool,
    ) -> None:
        self._run = run
        self._offered = offered
        self._time = time
        self._final = final
        self._number = number
        self._builder = AnswerBuilder()
        self._drafts: Drafts | None = None
        self._message = ""
        self._parent = f"{run.turn.request_id}-turn-{number}"
        """The message that this turn's calls belong to, so that a client keeps them together."""
        self._reasoning = False
        self._texts: list[str] = []
        self.calls: dict[int, _Call] = {}
        self.text = ""
        self.finish = ""
        self.time_is_up = False

    async def run(
        self, candidates: Sequence[Model], transcript: tuple[Message, ...]
    ) -> list[Message]:
        """Ask, run what is called, and give the messages that this adds to the transcript."""
        run, step = self._run, f"model {self._number}"
        run.say(StepStarted(step))
        limit = run.agent.max_parallel_tools
        try:
            async with (
                self._drafting() as self._drafts,
                Fanout(self._work, limit=limit, on_event=self._on_outcome) as self._fanout,
            ):
                if not self._final and self._drafts is not None:
                    self._drafts.fire(self._offered)
                answer = await self._ask(candidates, transcript)
                await self._fanout.finished()
        finally:
            self._close()
            run.say(StepFinished(step))
        return self._added(answer)

    def _drafting(self) -> Drafts | AbstractAsyncContextManager[None]:
        """The turn's speculation, where there are tools to speculate on."""
        run, tools = self._run, self._run.gateway.tools
        if tools is None or not self._offered:
            return nullcontext()
        caller = ToolCaller(run.turn.tenant, run.turn.user)
        policy = Policy(run.agent.speculate, run.agent.value_usd_per_s, run.agent.max_waste_share)
        return Drafts(
            run.gateway.speculation,
            policy,
            tools,
            caller,
            agent=run.agent.name,
            stage=run.stage,
            text=run.readable,
        )

    async def _ask(self, candidates: Sequence[Model], transcript: tuple[Message, ...]) -> Answer:
        run = self._run
        conversation = Conversation(
            messages=transcript,
            tools=(*(each.spec.offered() for each in self._offered.values()), *run.client_tools),
            tool_choice=ToolChoice("none") if self._final and self._has_tools() else None,
            sampling=run.sampling,
        )
        turn = run.turn
        calls = [
            ModelCall(
                model,
                stream=True,
                deadline=self._time.deadline,
                conversation=conversation,
                neutral=True,
                request_id=turn.request_id,
            )
            for model in candidates
        ]
        try:
            async with asyncio.timeout_at(self._time.answer_by_s):
                await ask(calls, run.gateway, turn, self._emit)
        except TimeoutError:  # what it said so far must do
            self.time_is_up = True
            self.text, self.finish = "".join(self._texts), "length"
            return answer_of_text(
                self.text, answer_id=turn.request_id, model=run.agent.name, created_s=0
            )
        finally:
            call = turn.call
            if call is not None and call in calls:
                run.account(call.model, call.usage)
        answer = self._builder.answer()
        if answer is None:
            raise UpstreamProtocol("the model's answer ended before it was whole")
        self.text, self.finish = answer.text, answer.finish.value
        return answer

    def _has_tools(self) -> bool:
        return bool(self._offered or self._run.client_tools)

    async def _emit(self, event: Event) -> None:
        """Take one event of the model's stream; never waits, so the stream is read at the vendor's pace."""
        self._builder.add(event)
        run = self._run
        match event:
            case TextDelta(text) | RefusalDelta(text):
                self._texts.append(text)
                self._speak(text, reasoning=False)
            case ThinkingDelta(text):
                self._speak(text, reasoning=True)
            case ToolCallStarted(index, call_id, name):
                call = self.calls[index] = _Call(run.own_id(call_id), name, index)
                run.say(CallOpened(call.id, name, self._parent))
            case ToolCallDelta(index, arguments):
                if arguments:
                    run.say(CallArguments(self.calls[index].id, arguments))
            case ToolCallSealed(index, _, _, arguments):
                self._dispatch(self.calls[index], arguments)
            case _:
                pass

    def _speak(self, text: str, *, reasoning: bool) -> None:
        if not text:
            return
        run = self._run
        if self._message and self._reasoning != reasoning:
            self._hush()
        if not self._message:
            kind = "thought" if reasoning else "message"
            run.messages_said += 1
            self._message = f"{run.turn.request_id}-{kind}-{run.messages_said}"
            self._reasoning = reasoning
            if not reasoning:
                self._parent = self._message
            run.say(MessageStarted(self._message, reasoning))
        run.say(MessageText(self._message, text, reasoning))

    def _hush(self) -> None:
        if self._message:
            self._run.say(MessageEnded(self._message, self._reasoning))
            self._message = ""

    def _dispatch(self, call: _Call, arguments: str) -> None:
        """A call is complete: start it now, while the model goes on writing."""
        run = self._run
        call.sealed = True
        call.started_ns = run.turn.timeline.now_ns()
        run.say(CallSealed(call.id))
        if any(tool.name == call.name for tool in run.client_tools):
            call.pending = True
            run.pending.append(call.id)
            return
        tools = run.gateway.tools
        if tools is None or self._final:
            self._refuse(call, "no tool may be called any more: answer now", "tool_limit")
            return
        if run.calls_made >= run.agent.max_calls:
            message = f"the run's limit of {run.agent.max_calls} calls is reached: answer now"
            self._refuse(call, message, "tool_limit")
            return
        run.calls_made += 1
        try:
            registered = self._registered(call.name)
            call.arguments = tools.checked(registered, arguments)
        except ToolError as error:
            run.invalid += 1
            self._refuse(call, error.message, error.code, "invalid")
            return
        run.used[call.name] = registered
        if self._drafts is not None:
            call.speculative = self._drafts.foresaw(call.name, call.arguments)
            self._drafts.took(call.name, call.arguments)
        run.say(Status(registered.spec.status_of(call.arguments)))
        self._fanout.add(Node(str(call.index), deadline_s=self._time.for_tools_s()))

    def _registered(self, name: str) -> Registered:
        found = self._offered.get(name)
        if found is None:
            known = ", ".join(self._offered) or "none"
            raise ToolError(
                f"there is no tool {name[:64]!r}; there are: {known}", code="tool_unknown"
            )
        return found

    async def _work(self, node: Node, _: Mapping[str, object]) -> ToolResult:
        call, run = self.calls[int(node.id)], self._run
        caller = ToolCaller(run.turn.tenant, run.turn.user)
        tools = run.gateway.tools
        assert tools is not None  # noqa: S101 - nothing is dispatched without tools
        with run.turn.timeline.stage("tools", call.name) as span:
            drafted = self._drafts and await self._drafts.take(call.name, call.arguments)
            if drafted:
                return drafted
            call.speculative = False
            result = await tools.call(call.name, call.arguments, caller, checked=True)
            if self._drafts is not None:
                self._drafts.timed(call.name, (run.turn.timeline.now_ns() - span.start_ns) / 1e9)
            return result

    def _on_outcome(self, outcome: Outcome) -> None:
        """A tool has ended, one way or another: tell it."""
        call, value, error = self.calls[int(outcome.id)], outcome.value, outcome.error
        if isinstance(value, ToolResult):
            self._end(call, value.text, "cached" if value.cached else "ok")
        elif isinstance(error, ToolError):
            kind = "timeout" if error.code == "tool_timeout" else "error"
            self._end(call, f"{call.name} {error.message}", kind, error.code)
        elif outcome.ending is Ending.TIMED_OUT:
            self._run.left_out.append(call.name)
            text = f"{call.name} did not finish in the time that this run has; answer without it and say so"
            self._end(call, text, "left_out", "deadline_exceeded")
        elif outcome.ending is Ending.CANCELLED:
            self._end(call, f"{call.name} was cancelled", "cancelled", "cancelled")
        else:
            _log.error("tool_failed", exc_info=error, extra={"tool": call.name})
            self._end(call, f"{call.name} failed", "error", "tool_failed")

    def _refuse(self, call: _Call, message: str, code: str, kind: str = "error") -> None:
        self._end(call, message, kind, code)

    def _end(self, call: _Call, text: str, kind: str, code: str = "") -> None:
        turn = self._run.turn
        took_ns = turn.timeline.now_ns() - call.started_ns if call.started_ns else 0
        speculative = call.speculative and kind in _FINE
        call.ended = CallEnded(call.id, call.name, text, kind, code, took_ns / 1e9, speculative)
        self._run.say(call.ended)
        start_ns = call.started_ns - turn.timeline.started_ns if call.started_ns else 0
        turn.tools.append(ToolUse(call.name, start_ns, took_ns, _metric_outcome(kind), speculative))

    def _close(self) -> None:
        """Whatever ended this turn: no message stays open, and each call has its result."""
        self._hush()
        for call in self.calls.values():
            if not call.sealed:
                self._run.say(CallSealed(call.id))
            if call.ended is None and not call.pending:
                self._end(call, f"{call.name} was cancelled", "cancelled", "cancelled")

    def _added(self, answer: Answer) -> list[Message]:
        """The assistant's message and the results, in the order in which the model called."""
        ids = iter([call.id for call in self.calls.values()])
        parts = tuple(_part(block, ids) for block in answer.blocks)
        results = tuple(
            ToolResultPart(call.id, (TextPart(ended.text),), is_error=ended.outcome not in _FINE)
            for call in sorted(self.calls.values(), key=lambda each: each.index)
            if (ended := call.ended) is not None
        )
        self._run.readable = "\n".join(
            each.ended.text for each in self.calls.values() if each.ended is not None
        )
        self._run.stage = stage_of([each.name for each in self.calls.values()])
        added = [Message(Role.ASSISTANT, parts)] if parts else []
        return [*added, Message(Role.TOOL, results)] if results else added


_FINE = frozenset({"ok", "cached"})


def _metric_outcome(kind: str) -> str:
    if kind in {"ok", "cached", "timeout"}:
        return kind
    return "timeout" if kind == "left_out" else "error"


def _part(block: AnswerBlock, ids: Iterator[str]) -> Part:
    match block:
        case ThinkingBlock(text, signature):
            return ThinkingPart(text, signature)
        case RedactedThinkingBlock(data):
            return RedactedThinkingPart(data)
        case RefusalBlock(text):
            return RefusalPart(text)
        case ToolCallBlock(_, name, arguments):
            return ToolCallPart(next(ids), name, arguments or "{}")
        case TextBlock(text):
            return TextPart(text)
        case _:
            assert_never(block)
