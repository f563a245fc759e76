"""Ask a model on a run's behalf, in the run's time and on its account, and tell what it says as messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.domain.chat import Conversation
from app.domain.events import Emit
from app.domain.model_call import ModelCall
from app.domain.models import Model
from app.domain.run_events import MessageEnded, MessageStarted, MessageText
from app.pipeline.agent_time import TimePlan
from app.pipeline.converse import ask

if TYPE_CHECKING:
    from app.pipeline.agent import AgentRun


async def ask_in_time(
    run: AgentRun,
    conversation: Conversation,
    candidates: Sequence[Model],
    time: TimePlan,
    emit: Emit,
) -> bool:
    """Stream the first answering candidate's events to ``emit``; False where the time was up first.

    Tokens are put down to the run whatever happens. Raises what ``ask`` raises.
    """
    turn = run.turn
    calls = [
        ModelCall(
            model,
            stream=True,
            deadline=time.deadline,
            conversation=conversation,
            neutral=True,
            request_id=turn.request_id,
        )
        for model in candidates
    ]
    try:
        async with asyncio.timeout_at(time.answer_by_s):
            journal = run.gateway.journal
            await (ask if journal is None else journal.ask)(calls, run.gateway, turn, emit)
    except TimeoutError:
        return False
    finally:
        last = turn.call  # a retry's call is a copy of one of ours; another agent's is not
        retried = last is not None and last.conversation is conversation and last not in calls
        for call in [*calls, last] if retried else calls:
            if call is not None:
                run.account(call.model, call.usage)
    return True


class Speech:
    """What a model says in one turn, told as messages: opened by the first words, closed by ``hush``."""

    __slots__ = ("_message", "_reasoning", "_run", "_texts", "parent")

    def __init__(self, run: AgentRun, parent: str) -> None:
        """Say nothing yet. ``parent``: what calls belong to while there is no message."""
        self._run = run
        self._message = ""
        self._reasoning = False
        self._texts: list[str] = []
        self.parent = parent
        """The message that this turn's calls belong to, so that a client keeps them together."""

    @property
    def said(self) -> str:
        """All text so far, without reasoning."""
        return "".join(self._texts)

    def say(self, text: str, *, reasoning: bool = False) -> None:
        """More of the message, or of the reasoning, that is open; or the beginning of one."""
        if not text:
            return
        if not reasoning:
            self._texts.append(text)
        run = self._run
        if self._message and self._reasoning != reasoning:
            self.hush()
        if not self._message:
            kind = "thought" if reasoning else "message"
            run.messages_said += 1
            self._message = f"{run.label}-{kind}-{run.messages_said}"
            self._reasoning = reasoning
            if not reasoning:
                self.parent = self._message
            run.say(MessageStarted(self._message, reasoning))
        run.say(MessageText(self._message, text, reasoning))

    def hush(self) -> None:
        """Close the message that is open, if one is."""
        if self._message:
            self._run.say(MessageEnded(self._message, self._reasoning))
            self._message = ""
