"""Hold back and inspect the first tokens of a streamed fast answer; race both tiers in the grey band.

Nothing shown is taken back, so a stream can be replaced by the powerful model's only while its first tokens
are held. A stream is held only while its text may still turn out to be a refusal, or in another language:
most are released with their first token, and none is held longer than ``hold_s`` after it.

In the grey band, where the operator enables it, the powerful model starts beside the fast one: it answers if
its first event comes before the fast one's first tokens are released, or where those are a refusal.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence

from app.domain.chat import ChatRequest
from app.domain.events import (
    REFUSED_FINISHES,
    Emit,
    Event,
    Finished,
    Frames,
    Offer,
    RefusalDelta,
    TextDelta,
    ToolCallStarted,
    offer_of,
)
from app.domain.language import detect_language
from app.errors import UpstreamError
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.race import Race, until_decided
from app.ports import StreamReader
from app.routing.escalation import is_other_language, is_refusal, may_become_refusal

_LANGUAGE_CHARS = 160


class InadequateAnswer(Exception):
    """The fast answer, of which nothing was shown yet, is inadequate; ``lack`` says why."""

    def __init__(self, lack: str) -> None:
        """``lack``: an ``AnswerDefect``, or the name of an operator's check."""
        super().__init__(lack)
        self.lack = lack


class AnswerOpening:
    """Inspects an answer's first tokens for a lack."""

    def __init__(self, reader: StreamReader, question: str, wanted: frozenset[str]) -> None:
        """``reader`` parses frames; ``wanted`` are the lacks to look for."""
        self._reader, self._question, self._wanted = reader, question, wanted
        # Only for a question in a non-Latin script is it worth waiting for the language of its answer.
        asked = detect_language(question) if "language" in wanted else None
        self._script_asked = asked is not None and len(asked) > 2  # noqa: PLR2004 - de, fr: two letters
        self.text = ""
        self.has_text = False

    def inspect(self, event: Event) -> str | None:
        """The lack found, "" where the answer is fine, None while it is undecided."""
        events: Sequence[Event] = (event,)
        if isinstance(event, Frames):
            try:
                events = self._reader.feed(event.data)
            except UpstreamError:
                return ""  # unreadable frames pass unchanged
        for each in events:
            verdict = self._inspect_one(each)
            if verdict is not None:
                return verdict
        return None

    def _inspect_one(self, event: Event) -> str | None:
        match event:
            case TextDelta(text):
                self.text += text
                self.has_text = self.has_text or bool(text)
                return self._inspect_text() if self.has_text else None
            case RefusalDelta():
                return "refused" if "refused" in self._wanted else ""
            case ToolCallStarted():
                return ""
            case Finished(reason) if reason in REFUSED_FINISHES:
                return "refused" if "refused" in self._wanted else ""
            case Finished():
                return "empty" if "empty" in self._wanted and not self.text.strip() else ""
            case _:
                return None

    def _inspect_text(self) -> str | None:
        text = self.text
        if not text.strip():
            return None
        if "refused" in self._wanted:
            if is_refusal(text):
                return "refused"
            if may_become_refusal(text):
                return None
        if "language" in self._wanted:
            if is_other_language(self._question, text):
                return "language"
            if self._script_asked and len(text) < _LANGUAGE_CHARS and detect_language(text) is None:
                return None
        return ""


class HoldingEmit:
    """An ``Emit`` that holds events until ``opening`` releases them or ``hold_s`` has passed."""

    def __init__(self, emit: Emit, opening: AnswerOpening, hold_s: float, *, always: bool) -> None:
        """``always``: hold for all of ``hold_s``, even where the answer is fine."""
        self._emit, self._opening, self._hold_s, self._always = emit, opening, hold_s, always
        self._held: list[Event] = []
        self._lock = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None
        self._open = False

    async def __call__(self, event: Event) -> None:
        """Hold or forward ``event``; raises ``InadequateAnswer`` where a lack is found."""
        if self.is_open():
            await self._emit(event)
            return
        async with self._lock:
            if not self.is_open():  # it may have opened while this waited for the lock
                self._held.append(event)
                verdict = self._opening.inspect(event)
                if verdict:
                    raise InadequateAnswer(verdict)
                done = isinstance(event, Finished)
                if verdict is not None and (done or not self._always):
                    await self._release()
                elif self._timer is None and (self._opening.has_text or verdict is not None):
                    self._timer = asyncio.get_running_loop().create_task(
                        self._release_later(), name="hold"
                    )
                return
        await self._emit(event)

    def is_open(self) -> bool:
        """Whether events are forwarded directly."""
        return self._open

    @property
    def offer(self) -> Offer | None:
        """The inner ``offer``, once open."""
        return offer_of(self._emit) if self.is_open() else None

    async def flush(self) -> None:
        """Forward what is still held: the answer is complete."""
        async with self._lock:
            await self._release()

    async def aclose(self) -> None:
        """Cancel the timer and wait for its end."""
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.wait({self._timer})
            if not self._timer.cancelled():
                self._timer.exception()

    async def _release_later(self) -> None:
        await asyncio.sleep(self._hold_s)
        async with self._lock:
            await self._release()

    async def _release(self) -> None:
        if not self.is_open():
            for event in self._held:
                await self._emit(event)
            self._held.clear()
            self._open = True


Ask = Callable[[Turn, Emit], Awaitable[None]]


async def run_held(ask: Ask, turn: Turn, held: HoldingEmit) -> None:
    """Run ``ask`` with its first tokens held; raises ``InadequateAnswer`` where they show a lack."""
    try:
        await ask(turn, held)
        await held.flush()
    finally:
        await held.aclose()


async def race_grey_band(
    fast: Ask, powerful: Ask, turn: Turn, emit: Emit, make: Callable[[Emit], HoldingEmit]
) -> str:
    """Ask both tiers; the powerful one answers if its first event precedes the fast one's release.

    Returns who answered, ``fast`` or ``powerful``; ``turn`` is updated before the first event. Raises the
    fast one's failure where neither answers.
    """
    turns = {name: copy.copy(turn) for name in ("fast", "powerful")}
    turns["powerful"].answered_tier = "powerful"

    def on_win(winner: object) -> None:
        _adopt(turn, turns[str(winner)])
        turn.reason += f"; grey: {winner} spoke first"

    race = Race(emit, on_win)

    async def hold(to: Emit) -> None:
        await run_held(fast, turns["fast"], make(to))

    first = race.enter("fast", hold)
    second = race.enter("powerful", lambda to: powerful(turns["powerful"], to))
    try:
        await until_decided(race, first, second)
        winner = "powerful" if race.winner == "powerful" else "fast"
        await (second if winner == "powerful" else first)
        reason = turn.reason
        _adopt(turn, turns[winner])
        turn.reason = reason
        return winner
    finally:
        await race.close()
        loser = turns["fast" if race.winner == "powerful" else "powerful"]
        turn.attempts += loser.attempts


def _adopt(turn: Turn, other: Turn) -> None:
    turn.take_answer(other)
    turn.upstream_ns, turn.attempts, turn.cost_usd = (
        other.upstream_ns,
        other.attempts,
        other.cost_usd,
    )


def opening_of(request: ChatRequest, gateway: Gateway, wanted: frozenset[str]) -> AnswerOpening:
    """The inspector of an answer to ``request``."""
    codec = gateway.codecs[request.dialect]
    return AnswerOpening(codec.reader(), codec.view(request.body).text, wanted)
