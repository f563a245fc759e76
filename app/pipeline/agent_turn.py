"""One model call of a run and the tools that it calls: dispatched from the stream, results in any order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from app.domain.chat import (
    Conversation,
    Json,
    Message,
    Part,
    RedactedThinkingPart,
    RefusalPart,
    Role,
    TextPart,
    ThinkingPart,
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
    Interrupt,
    Status,
    StepFinished,
    StepStarted,
)
from app.domain.tools import ToolCaller, ToolResult
from app.domain.turn_record import ToolUse
from app.errors import ToolError, UpstreamProtocol
from app.learn.argument_sources import PastCall
from app.pipeline import subagents
from app.pipeline.agent_conversation import parse_result
from app.pipeline.agent_model_call import MessageWriter, ask_within_time
from app.pipeline.agent_time import TimePlan
from app.pipeline.fanout import Fanout
from app.pipeline.speculation import stage_of
from app.pipeline.subagents import parse_task
from app.pipeline.synthesis import shorten_result
from app.wire.json_text import decode_arguments

if TYPE_CHECKING:
    from app.pipeline.agent import AgentRun
    from app.tools.registry import RegisteredTool

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
    """A tool of the client's, which has to give its result."""
    made: bool = False
    """It was valid, and its tool was called."""
    ended: CallEnded | None = None


class ModelTurn:
    """One model call with the tools that it calls."""

    def __init__(
        self,
        run: AgentRun,
        offered: Mapping[str, RegisteredTool],
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
        self._drafts = run.drafts
        self._writer = MessageWriter(run, f"{run.label}-turn-{number}")
        self.calls: dict[int, _Call] = {}
        self.text = ""
        self.finish = ""
        self.time_is_up = False

    async def run(
        self, candidates: Sequence[Model], transcript: tuple[Message, ...]
    ) -> list[Message]:
        """Ask, run what is called, and give the messages that this adds to the transcript."""
        run, step = self._run, f"model {self._number}"
        run.emit(StepStarted(step))
        limit = run.agent.max_parallel_tools
        try:
            async with Fanout(
                self._run_call, limit=limit, on_event=self._on_outcome
            ) as self._fanout:
                if not self._final and self._drafts is not None:
                    self._drafts.start_turn(
                        self._offered,
                        stage=run.stage,
                        text=run.argument_text,
                        scene=run.conversation_state,
                    )
                answer = await self._ask(candidates, transcript)
                agent = run.agent
                await self._fanout.finish_with_quorum(
                    agent.quorum, agent.patience_s, self._may_be_left_out
                )
        finally:
            self._close_open()
            run.emit(StepFinished(step))
        return self._new_messages(answer)

    async def _ask(self, candidates: Sequence[Model], transcript: tuple[Message, ...]) -> Answer:
        run = self._run
        conversation = Conversation(
            messages=transcript,
            tools=(
                *(each.spec.offered() for each in self._offered.values()),
                *subagents.tool_declarations(run.subagents),
                *run.client_tools,
            ),
            tool_choice=ToolChoice("none") if self._final and self._has_tools() else None,
            sampling=run.sampling,
        )
        if not await ask_within_time(run, conversation, candidates, self._time, self._emit):
            self.time_is_up = True  # what it said so far must do
            self.text, self.finish = self._writer.text, "length"
            return answer_of_text(
                self.text, answer_id=run.turn.request_id, model=run.agent.name, created_s=0
            )
        answer = self._builder.answer()
        if answer is None:
            raise UpstreamProtocol("the model's answer ended before it was whole")
        self.text, self.finish = answer.text, answer.finish.value
        return answer

    def _has_tools(self) -> bool:
        run = self._run
        return bool(self._offered or run.client_tools or run.subagents)

    async def _emit(self, event: Event) -> None:
        """Handle one event of the model's stream; never waits, so the stream is read at the vendor's pace."""
        self._builder.add(event)
        run = self._run
        if run.first_byte is not None:
            run.first_byte.set()
        match event:
            case TextDelta(text) | RefusalDelta(text):
                self._writer.write(text)
            case ThinkingDelta(text):
                self._writer.write(text, reasoning=True)
            case ToolCallStarted(index, call_id, name):
                call = self.calls[index] = _Call(run.unique_call_id(call_id), name, index)
                run.emit(CallOpened(call.id, name, self._writer.parent_message_id))
            case ToolCallDelta(index, arguments):
                if arguments:
                    run.emit(CallArguments(self.calls[index].id, arguments))
            case ToolCallSealed(index, _, _, arguments):
                self._dispatch(self.calls[index], arguments)
            case _:
                pass

    def _dispatch(self, call: _Call, arguments: str) -> None:
        """Start a complete call while the model goes on writing."""
        run = self._run
        call.sealed = True
        call.started_ns = run.turn.timeline.now_ns()
        run.emit(CallSealed(call.id))
        if any(tool.name == call.name for tool in run.client_tools):
            call.pending = True
            run.pending.append(call.id)
            if self._drafts is not None:
                self._drafts.discard_untaken()  # what the client does with it is not known here
            return
        if self._final:
            self._refuse(call, "no tool may be called any more: answer now", "tool_limit")
            return
        if run.calls_made >= run.agent.max_calls:
            message = f"the run's limit of {run.agent.max_calls} calls is reached: answer now"
            self._refuse(call, message, "tool_limit")
            return
        run.calls_made += 1
        try:
            if call.name in run.subagents:
                call.arguments = parse_task(arguments)
                if self._drafts is not None:
                    self._drafts.discard_untaken()  # another agent may change anything
                self._fanout.add(Node(str(call.index), deadline_s=self._time.tool_time_left_s()))
                return
            registered = self._registered(call.name)
            call.arguments = registered.checked(arguments)
        except ToolError as error:
            run.invalid_calls += 1
            self._refuse(call, error.message, error.code, "invalid")
            return
        if registered.spec.approval:
            self._request_approval(call, registered)
            return
        run.called_tools[call.name] = registered
        call.made = True
        if self._drafts is not None:
            call.speculative = self._drafts.has_draft(call.name, call.arguments)
            changes = not registered.spec.effects.read_only
            self._drafts.record_call(call.name, call.arguments, changes=changes)
        run.emit(Status(registered.spec.status_text(call.arguments)))
        self._fanout.add(Node(str(call.index), deadline_s=self._time.tool_time_left_s()))

    def _request_approval(self, call: _Call, registered: RegisteredTool) -> None:
        """End the run with an interrupt for this call, where a person can be asked."""
        run = self._run
        if not run.interactive or run.depth:
            message = "needs a person's approval, which cannot be asked for here"
            self._refuse(call, f"{call.name} {message}", "tool_approval")
            return
        call.pending = True
        interrupt_id = f"{run.run_id}:{call.id}"
        message = f"Allow {call.name}? {registered.spec.status_text(call.arguments)}"
        run.interrupts.append(Interrupt(interrupt_id, call.id, call.name, call.arguments, message))

    def _registered(self, name: str) -> RegisteredTool:
        found = self._offered.get(name)
        if found is None:
            known = ", ".join(self._offered) or "none"
            raise ToolError(
                f"there is no tool {name[:64]!r}; there are: {known}", code="tool_unknown"
            )
        return found

    def _may_be_left_out(self, node: Node) -> bool:
        """Whether a call may be abandoned: only a read-only one, which leaves nothing half done."""
        registered = self._offered.get(self.calls[int(node.id)].name)
        return registered is not None and registered.spec.effects.read_only

    async def _run_call(self, node: Node, _: Mapping[str, object]) -> ToolResult:
        call = self.calls[int(node.id)]
        result = await self._result(call)
        return await shorten_result(self._run, call.name, result, self._time.tool_time_left_s())

    async def _result(self, call: _Call) -> ToolResult:
        run = self._run
        caller = ToolCaller(run.turn.tenant, run.turn.user)
        if call.name in run.subagents:
            with run.turn.timeline.stage("tools", call.name):
                task = str(call.arguments["task"])
                return await run.delegate(call.id, run.subagents[call.name], task)
        tools = run.gateway.tools
        assert tools is not None  # noqa: S101 - nothing is dispatched without tools
        with run.turn.timeline.stage("tools", call.name) as span:
            drafted = self._drafts and await self._drafts.take(call.name, call.arguments)
            if drafted:
                return drafted
            call.speculative = False
            result = await tools.call(call.name, call.arguments, caller, checked=True)
            if self._drafts is not None:
                took_s = (run.turn.timeline.now_ns() - span.start_ns) / 1e9
                self._drafts.record_duration(call.name, took_s, cached=result.cached)
            return result

    def _on_outcome(self, outcome: Outcome) -> None:
        """Emit the end of a call."""
        call, value, error = self.calls[int(outcome.id)], outcome.value, outcome.error
        self._run.any_call_failed = self._run.any_call_failed or not outcome.ok
        if isinstance(value, ToolResult):
            self._end_call(call, value.text, "cached" if value.cached else "ok")
        elif isinstance(error, ToolError):
            kind = "timeout" if error.code == "tool_timeout" else "error"
            self._end_call(call, f"{call.name} {error.message}", kind, error.code)
        elif outcome.ending is Ending.TIMED_OUT:
            self._run.left_out.append(call.name)
            text = f"{call.name} did not finish in the time that this run has; answer without it and say so"
            self._end_call(call, text, "left_out", "deadline_exceeded")
        elif outcome.ending is Ending.CANCELLED:
            self._end_call(call, f"{call.name} was cancelled", "cancelled", "cancelled")
        else:
            _log.error("tool_failed", exc_info=error, extra={"tool": call.name})
            self._end_call(call, f"{call.name} failed", "error", "tool_failed")

    def _refuse(self, call: _Call, message: str, code: str, kind: str = "error") -> None:
        self._end_call(call, message, kind, code)

    def _end_call(self, call: _Call, text: str, kind: str, code: str = "") -> None:
        turn = self._run.turn
        took_ns = turn.timeline.now_ns() - call.started_ns if call.started_ns else 0
        speculative = call.speculative and kind in _SUCCESSFUL
        call.ended = CallEnded(call.id, call.name, text, kind, code, took_ns / 1e9, speculative)
        self._run.emit(call.ended)
        start_ns = call.started_ns - turn.timeline.started_ns if call.started_ns else 0
        turn.record_tool(ToolUse(call.name, start_ns, took_ns, _metric_outcome(kind), speculative))

    def _close_open(self) -> None:
        """Close the open message, and give each call without a result one; runs however the turn ends."""
        self._writer.close()
        for call in self.calls.values():
            if not call.sealed:
                self._run.emit(CallSealed(call.id))
            if call.ended is None and not call.pending:
                self._end_call(call, f"{call.name} was cancelled", "cancelled", "cancelled")

    def _new_messages(self, answer: Answer) -> list[Message]:
        """The assistant's message and the results, in the order of the model's calls."""
        ids = iter([call.id for call in self.calls.values()])
        parts = tuple(_message_part(block, ids) for block in answer.blocks)
        results = tuple(
            ToolResultPart(
                call.id, (TextPart(ended.text),), is_error=ended.outcome not in _SUCCESSFUL
            )
            for call in sorted(self.calls.values(), key=lambda each: each.index)
            if (ended := call.ended) is not None
        )
        self._run.argument_text = "\n".join(
            each.ended.text for each in self.calls.values() if each.ended is not None
        )
        self._run.stage = stage_of([each.name for each in self.calls.values()])
        made = [
            PastCall(each.name, each.arguments, parse_result(each.ended.text))
            for each in self.calls.values()
            if each.ended is not None and each.name in self._offered and each.made
        ]
        self._run.past_calls += made
        if self._drafts is not None:
            self._drafts.end_turn(made)
        added = [Message(Role.ASSISTANT, parts)] if parts else []
        return [*added, Message(Role.TOOL, results)] if results else added


_SUCCESSFUL = frozenset({"ok", "cached"})


def _metric_outcome(kind: str) -> str:
    if kind in {"ok", "cached", "timeout"}:
        return kind
    return "timeout" if kind == "left_out" else "error"


def _message_part(block: AnswerBlock, ids: Iterator[str]) -> Part:
    match block:
        case ThinkingBlock(text, signature):
            return ThinkingPart(text, signature)
        case RedactedThinkingBlock(data):
            return RedactedThinkingPart(data)
        case RefusalBlock(text):
            return RefusalPart(text)
        case ToolCallBlock(_, name, arguments):
            # A history with arguments that are no object is refused by some vendors, for ever.
            fits = decode_arguments(arguments) is not None
            return ToolCallPart(next(ids), name, arguments if fits and arguments else "{}")
        case TextBlock(text):
            return TextPart(text)
        case _:
            assert_never(block)
