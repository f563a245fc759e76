"""A run's model call, within the run's time and counted in its usage; its text as message events."""

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


async def ask_within_time(
    run: AgentRun,
    conversation: Conversation,
    candidates: Sequence[Model],
    time: TimePlan,
    emit: Emit,
) -> bool:
    """Stream the first answering candidate's events to ``emit``; False where the time was up first.

    The tokens are counted in the run's usage in any case. Raises what ``ask`` raises.
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
                run.add_usage(call.model, call.usage)
    return True


class MessageWriter:
    """Emits the text of one model turn as messages: opened by the first text, closed by ``close``."""

    __slots__ = ("_message", "_reasoning", "_run", "_texts", "parent_message_id")

    def __init__(self, run: AgentRun, parent: str) -> None:
        """Emit nothing yet. ``parent``: the message id that calls get before there is a message."""
        self._run = run
        self._message = ""
        self._reasoning = False
        self._texts: list[str] = []
        self.parent_message_id = parent
        """The message that this turn's calls belong to, so that a client keeps them together."""

    @property
    def text(self) -> str:
        """All text so far, without reasoning."""
        return "".join(self._texts)

    def write(self, text: str, *, reasoning: bool = False) -> None:
        """Add text to the open message, or to the open reasoning; opens one where none is."""
        if not text:
            return
        if not reasoning:
            self._texts.append(text)
        run = self._run
        if self._message and self._reasoning != reasoning:
            self.close()
        if not self._message:
            kind = "thought" if reasoning else "message"
            run.message_count += 1
            self._message = f"{run.label}-{kind}-{run.message_count}"
            self._reasoning = reasoning
            if not reasoning:
                self.parent_message_id = self._message
            run.emit(MessageStarted(self._message, reasoning))
        run.emit(MessageText(self._message, text, reasoning))

    def close(self) -> None:
        """Close the open message, if any; idempotent."""
        if self._message:
            self._run.emit(MessageEnded(self._message, self._reasoning))
            self._message = ""
