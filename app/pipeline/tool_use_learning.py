"""Teach ``ToolNeed`` which of the offered tools answers called.

A routed request that offers tools is classified by what this agent's earlier requests called. Its own answer
is recorded unparsed on its way to the client, and parsed a while after, one at a time and at most a hundred a
second; the rest are dropped, as such a sample suffices.

Only complete answers that were free to call count. A ``tool_choice`` that forces or forbids a call shows what
the caller wanted, not what the model does: agents that force their first call would look like agents that
always call. A cut, failed or cancelled answer might still have called. Cached and joined answers were counted
when they were made. After an escalation the powerful tier's answer, which was shown, counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple

from app.cache.coalesce import Flight
from app.classify.tool_need import ToolNeed
from app.domain.agents import Agent
from app.domain.chat import ChatRequest, Dialect, Json, Message, Role
from app.domain.decisions import Classification, ToolGuess
from app.domain.events import COMPLETE_FINISHES, Emit, Event
from app.domain.models import AUTO
from app.pipeline.gateway import Turn, cancel_nothing
from app.pipeline.replay import answer_from_events
from app.ports import Codec

_PAUSE_S = 0.01
_MOST_WAITING = 32


class _Job(NamedTuple):
    """A complete answer that is not parsed yet."""

    guess: ToolGuess
    several_allowed: bool
    dialect: Dialect
    events: Sequence[Event]


def apply_tool_choice(classification: Classification, body: Json) -> Classification:
    """``classification`` under the request's own ``tool_choice`` and ``parallel_tool_calls``."""
    choice = body.get("tool_choice", body.get("function_call"))
    kind = choice.get("type", "named") if isinstance(choice, Mapping) else choice
    if kind == "none":
        return classification._replace(tool_need=(), several_calls=0.0, tool_guess=None)
    if kind is not None and kind != "auto":
        classification = classification._replace(tool_guess=None)
    return classification if _several_allowed(body) else classification._replace(several_calls=0.0)


def _several_allowed(body: Json) -> bool:
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("disable_parallel_tool_use") is True:
        return False
    return body.get("parallel_tool_calls") is not False


def tool_guess_of_run(agent: Agent, messages: Sequence[Message], turn: Turn) -> ToolGuess | None:
    """The guess that a run's first model call can teach; None where it was not routed, or was instructed."""
    judged = turn.classification if agent.model == AUTO else None
    instructed = agent.workflow or agent.plans or (messages and messages[-1].role is Role.TOOL)
    return None if judged is None or instructed else judged.tool_guess


class ToolUseLearner:
    """Parses answers for their tool calls, and reports them to ``tools``; one event loop owns it."""

    def __init__(self, tools: ToolNeed, codecs: Mapping[Dialect, Codec]) -> None:
        """Start with an empty queue."""
        self.tools = tools
        self._codecs = codecs
        self._jobs: deque[_Job] = deque(maxlen=_MOST_WAITING)
        self._timer: asyncio.TimerHandle | None = None

    def recorder(self, request: ChatRequest, turn: Turn, emit: Emit) -> Flight:
        """The flight that records the answer for ``emit``: the turn's own where ``emit`` is that."""
        if isinstance(emit, Flight) and emit is turn.flight:
            return emit
        own = Flight(request.dialect, request.stream, request.include_usage, cancel_nothing)
        own.recording(emit)
        return own

    async def learn_after(
        self, answering: Awaitable[None], recorder: Flight, request: ChatRequest, turn: Turn
    ) -> None:
        """Await the answer, then queue it where it can teach. Raises as ``answering``."""
        judged = turn.classification
        await answering
        if judged is None or judged.tool_guess is None or not turn.complete:
            return
        allowed = _several_allowed(request.body)
        job = _Job(judged.tool_guess, allowed, recorder.dialect, recorder.events)
        self._jobs.append(job)
        if self._timer is None:
            self._schedule()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_PAUSE_S, self._read_next)

    def _read_next(self) -> None:
        """Parse one answer; the next one after a pause."""
        job = self._jobs.popleft()
        self._timer = None
        if self._jobs:
            self._schedule()
        called = self._tools_called(job)
        if called is not None:
            self.tools.observe(job.guess, called, several_allowed=job.several_allowed)

    def _tools_called(self, job: _Job) -> tuple[str, ...] | None:
        """The tools that an answer calls; None where it is incomplete or unreadable."""
        answer = answer_from_events(job.events, self._codecs[job.dialect])
        if answer is None or answer.finish not in COMPLETE_FINISHES:
            return None
        return tuple(call.name for call in answer.tool_calls)
