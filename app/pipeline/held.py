"""The first tokens of a streamed fast answer, looked at before they are shown; and the grey band's race.

Nothing that was shown is taken back, so a stream can be exchanged for the powerful model's only while its
first tokens are held back. To hold every stream would cost what streaming is for. So one is held only
while what has come may yet turn out to be a refusal, or an answer in another language: most are let go with
their first token, and none is held for longer than ``hold_s`` after it.

In the grey band, where the operator wants it, the powerful model starts beside the fast one: it answers if it
speaks before the fast one's first tokens are let go, or where those betray a refusal.
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
from app.domain.language import language
from app.errors import UpstreamError
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.hedged import Race, until_decided
from app.ports import StreamReader
from app.routing.lacks import may_refuse, other_language, refuses

_LANGUAGE_CHARS = 160


class Lacking(Exception):
    """The fast answer, held back so far, is none; ``lack`` says why."""

    def __init__(self, lack: str) -> None:
        """Give the call up for ``lack``."""
        super().__init__(lack)
        self.lack = lack


class Beginning:
    """What an answer's first tokens say of it."""

    def __init__(self, reader: StreamReader, question: str, wanted: frozenset[str]) -> None:
        """Read frames with ``reader``; look for the lacks ``wanted``."""
        self._reader, self._question, self._wanted = reader, question, wanted
        # Only a question in another script than Latin is worth waiting for the language of its answer.
        asked = language(question) if "language" in wanted else None
        self._script_asked = asked is not None and len(asked) > 2  # noqa: PLR2004 - de, fr: two letters
        self.text = ""
        self.spoke = False

    def take(self, event: Event) -> str | None:
        """The lack that shows, "" when nothing speaks against the answer, None while one cannot tell."""
        events: Sequence[Event] = (event,)
        if isinstance(event, Frames):
            try:
                events = self._reader.feed(event.data)
            except UpstreamError:
                return ""  # what cannot be read is passed on as it is
        for each in events:
            verdict = self._one(each)
            if verdict is not None:
                return verdict
        return None

    def _one(self, event: Event) -> str | None:
        match event:
            case TextDelta(text):
                self.text += text
                self.spoke = self.spoke or bool(text)
                return self._of_text() if self.spoke else None
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

    def _of_text(self) -> str | None:
        text = self.text
        if not text.strip():
            return None
        if "refused" in self._wanted:
            if refuses(text):
                return "refused"
            if may_refuse(text):
                return None
        if "language" in self._wanted:
            if other_language(self._question, text):
                return "language"
            if self._script_asked and len(text) < _LANGUAGE_CHARS and language(text) is None:
                return None
        return ""


class HeldBack:
    """An ``Emit`` that keeps events back until ``beginning`` lets them go, or their time is over."""

    def __init__(self, emit: Emit, beginning: Beginning, hold_s: float, *, always: bool) -> None:
        """``always``: hold for the whole of ``hold_s`` even where nothing speaks against the answer."""
        self._emit, self._beginning, self._hold_s, self._always = emit, beginning, hold_s, always
        self._held: list[Event] = []
        self._lock = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None
        self._open = False

    async def __call__(self, event: Event) -> None:
        """Hold ``event`` back or hand it on. Raises ``Lacking`` for an answer that is none."""
        if self.is_open():
            await self._emit(event)
            return
        async with self._lock:
            if not self.is_open():  # it may have been while this one waited for its turn
                self._held.append(event)
                verdict = self._beginning.take(event)
                if verdict:
                    raise Lacking(verdict)
                done = isinstance(event, Finished)
                if verdict is not None and (done or not self._always):
                    await self._release()
                elif self._timer is None and (self._beginning.spoke or verdict is not None):
                    self._timer = asyncio.get_running_loop().create_task(self._later(), name="hold")
                return
        await self._emit(event)

    def is_open(self) -> bool:
        """Whether nothing is held any more."""
        return self._open

    @property
    def offer(self) -> Offer | None:
        """The way past the queue, once nothing is held."""
        return offer_of(self._emit) if self.is_open() else None

    async def flush(self) -> None:
        """The answer is whole: hand on what is still held."""
        async with self._lock:
            await self._release()

    async def aclose(self) -> None:
        """End the timer; wait for what it was doing."""
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.wait({self._timer})
            if not self._timer.cancelled():
                self._timer.exception()

    async def _later(self) -> None:
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


async def held_back(ask: Ask, turn: Turn, held: HeldBack) -> None:
    """Run ``ask`` with its first tokens held back; raises ``Lacking`` where they are no answer."""
    try:
        await ask(turn, held)
        await held.flush()
    finally:
        await held.aclose()


async def grey_race(
    fast: Ask, powerful: Ask, turn: Turn, emit: Emit, make: Callable[[Emit], HeldBack]
) -> str:
    """Ask both; the powerful one answers if it speaks before the fast one's first tokens are let go.

    Says who answered, ``fast`` or ``powerful``, and tells ``turn`` so before the first event. Raises what
    the fast one raised where neither answers.
    """
    turns = {name: copy.copy(turn) for name in ("fast", "powerful")}
    turns["powerful"].answered_tier = "powerful"

    def answers(winner: object) -> None:
        _adopt(turn, turns[str(winner)])
        turn.reason += f"; grey: {winner} spoke first"

    race = Race(emit, answers)

    async def hold(lane: Emit) -> None:
        await held_back(fast, turns["fast"], make(lane))

    first = race.enter("fast", hold)
    second = race.enter("powerful", lambda lane: powerful(turns["powerful"], lane))
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


_OF_THE_ANSWER = (
    "model", "upstream", "call", "usage", "finish", "complete", "tokens_streamed",
    "answered_tier", "reason", "upstream_ns", "attempts", "cost_usd",
)  # fmt: skip


def _adopt(turn: Turn, other: Turn) -> None:
    for name in _OF_THE_ANSWER:
        setattr(turn, name, getattr(other, name))


def beginning_of(request: ChatRequest, gateway: Gateway, wanted: frozenset[str]) -> Beginning:
    """The reading of the first tokens that answer ``request``."""
    codec = gateway.codecs[request.dialect]
    return Beginning(codec.reader(), codec.view(request.body).text, wanted)
