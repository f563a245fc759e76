"""What answers called of the tools that they could have: ``ToolNeed`` learns it from here.

A routed request that offers tools is judged by what this agent's earlier ones called. Its own answer is kept
beside the way to the client, as frames, unread: it is read a while after the client has it, one answer at a
time and a hundred a second at most; more are left out, as a sample of so many says the same.

Only what was free to call and came whole teaches. A ``tool_choice`` that orders a call, or forbids it, says
what the caller wanted and nothing of what the model does by itself, so that agents that force their first
call would be held for agents that always call. A cut, failed or cancelled answer may have been about to
call. An answer from the cache, or of another's call, was counted when it was made. Where the powerful tier
was asked in place of the fast one, its answer is the one that was shown, and counts.
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
    """A whole answer that is not read yet."""

    guess: ToolGuess
    several_allowed: bool
    dialect: Dialect
    events: Sequence[Event]


def as_allowed(classification: Classification, body: Json) -> Classification:
    """``classification`` where the request itself says which calls there may be."""
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


def guess_of_run(agent: Agent, messages: Sequence[Message], turn: Turn) -> ToolGuess | None:
    """What a run's first model call teaches about: where it was judged, and told nothing beforehand."""
    judged = turn.classification if agent.model == AUTO else None
    told = agent.workflow or agent.plans or (messages and messages[-1].role is Role.TOOL)
    return None if judged is None or told else judged.tool_guess


class ToolsCalled:
    """Reads answers for the calls in them and lets ``tools`` know; one event loop owns it."""

    def __init__(self, tools: ToolNeed, codecs: Mapping[Dialect, Codec]) -> None:
        """Nothing waits."""
        self.tools = tools
        self._codecs = codecs
        self._jobs: deque[_Job] = deque(maxlen=_MOST_WAITING)
        self._timer: asyncio.TimerHandle | None = None

    def recorder(self, request: ChatRequest, turn: Turn, emit: Emit) -> Flight:
        """What keeps the answer, and is to be told it: the turn's own flight where ``emit`` is that."""
        if isinstance(emit, Flight) and emit is turn.flight:
            return emit
        own = Flight(request.dialect, request.stream, request.include_usage, cancel_nothing)
        own.recording(emit)
        return own

    async def after(
        self, going: Awaitable[None], told: Flight, request: ChatRequest, turn: Turn
    ) -> None:
        """Wait for the answer, then have it read where it teaches. Raises as ``going``."""
        judged = turn.classification
        await going
        if judged is None or judged.tool_guess is None or not turn.complete:
            return
        allowed = _several_allowed(request.body)
        job = _Job(judged.tool_guess, allowed, told.dialect, told.events)
        self._jobs.append(job)
        if self._timer is None:
            self._rest()

    def _rest(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_PAUSE_S, self._next)

    def _next(self) -> None:
        """Read one answer; the next one after a pause."""
        job = self._jobs.popleft()
        self._timer = None
        if self._jobs:
            self._rest()
        called = self._calls(job)
        if called is not None:
            self.tools.observe(job.guess, called, several_allowed=job.several_allowed)

    def _calls(self, job: _Job) -> tuple[str, ...] | None:
        """The tools that an answer calls; None where it is not whole, or cannot be read."""
        answer = answer_from_events(job.events, self._codecs[job.dialect])
        if answer is None or answer.finish not in COMPLETE_FINISHES:
            return None
        return tuple(call.name for call in answer.tool_calls)
