"""Which answers are read for the calls in them, whatever form they came in."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from app.bootstrap import CODECS
from app.classify.classifier import Classifier
from app.classify.tool_need import ToolNeed
from app.domain.chat import ChatRequest, Dialect
from app.domain.deadline import Deadline
from app.domain.decisions import Classification, PromptView, ToolGuess
from app.domain.events import (
    AnswerStarted,
    Event,
    Finished,
    FinishReason,
    Frames,
    ToolCallSealed,
    ToolCallStarted,
    WholeBody,
)
from app.pipeline.gateway import Turn
from app.pipeline.tool_use_learning import ToolUseLearner, apply_tool_choice
from app.telemetry.timeline import Timeline
from tests.support.providers import USAGE
from tests.support.virtual_time import run_virtually

TOOLS = ("look", "book")
CALLED = (
    AnswerStarted("a", "m"),
    ToolCallStarted(0, "c", "look"),
    ToolCallSealed(0, "c", "look", "{}"),
    Finished(FinishReason.TOOL_CALLS, USAGE),
)
CLASSIFIER = Classifier()


class RecordingToolNeed(ToolNeed):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[tuple[str, ...], bool]] = []

    def observe(
        self, guess: ToolGuess, called: tuple[str, ...], *, several_allowed: bool = True
    ) -> None:
        assert guess.names == TOOLS
        self.calls.append((called, several_allowed))


def classification() -> Classification:
    return CLASSIFIER.classify(PromptView("Go on.", tool_names=TOOLS))


async def answered(learning: ToolUseLearner, *events: Event, complete: bool = True, **body) -> None:
    """One request whose answer is ``events``; the client is told each of them."""
    request = ChatRequest(
        Dialect.CHAT, "auto", stream=True, body=body, raw=msgspec.json.encode(body)
    )
    turn = Turn("r", "t", Timeline(), Deadline(None), time.time())
    turn.classification = apply_tool_choice(classification(), body)
    told: list[Event] = []

    async def emit(event: Event) -> None:
        told.append(event)

    recorder = learning.recorder(request, turn, emit)

    async def going() -> None:
        for event in events:
            await recorder(event)
        turn.complete = complete

    await learning.learn_after(going(), recorder, request, turn)
    assert told == list(events)


def observations_of(*events: Event, **how) -> list[tuple[tuple[str, ...], bool]]:
    """What one answer teaches."""
    heard = RecordingToolNeed()

    async def go() -> None:
        await answered(ToolUseLearner(heard, CODECS), *events, **how)
        assert not heard.calls  # the answer is not read while its client waits
        await asyncio.sleep(1)

    run_virtually(go())
    return heard.calls


def test_an_answer_of_another_dialects_model_is_read_as_well():
    assert observations_of(*CALLED) == [(("look",), True)]


@pytest.mark.parametrize(
    "events",
    [
        CALLED[:-1],
        (*CALLED[:-1], Finished(FinishReason.LENGTH, USAGE)),
        (Frames(b'data: {"choices": 3}\n\n'),),
        (WholeBody(b"rubbish"),),
        (),
    ],
    ids=["no end", "cut", "odd frames", "no JSON", "nothing"],
)
def test_what_is_not_whole_or_cannot_be_read_teaches_nothing(events):
    assert observations_of(*events) == []


def test_an_answer_that_its_upstream_did_not_end_teaches_nothing():
    assert observations_of(*CALLED, complete=False) == []


@pytest.mark.parametrize(
    ("body", "taught"),
    [
        ({"tool_choice": "auto"}, [(("look",), True)]),
        ({"tool_choice": {"type": "auto"}}, [(("look",), True)]),
        ({"tool_choice": None}, [(("look",), True)]),
        ({"parallel_tool_calls": False}, [(("look",), False)]),
        (
            {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            [(("look",), False)],
        ),
        ({"tool_choice": {"type": "any"}}, []),
        ({"tool_choice": {"type": "tool", "name": "look"}}, []),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, []),
        ({"function_call": {"name": "look"}}, []),
        ({"tool_choice": 3}, []),
    ],
)
def test_only_what_was_free_to_call_teaches_and_several_only_where_they_may_be(body, taught):
    assert observations_of(*CALLED, **body) == taught


@pytest.mark.parametrize("choice", ["none", {"type": "none"}])
def test_who_forbids_calls_is_foreseen_none(choice):
    allowed = apply_tool_choice(classification(), {"tool_choice": choice})
    assert (allowed.tool_need, allowed.several_calls, allowed.tool_guess) == ((), 0.0, None)


def test_a_request_that_is_cancelled_teaches_nothing_and_is_told_so():
    heard = RecordingToolNeed()

    async def go() -> None:
        learning = ToolUseLearner(heard, CODECS)
        request = ChatRequest(Dialect.CHAT, "auto", stream=True, body={}, raw=b"{}")
        turn = Turn("r", "t", Timeline(), Deadline(None), time.time())
        turn.classification, turn.complete = classification(), True

        async def emit(_: Event) -> None:
            pass

        recorder = learning.recorder(request, turn, emit)

        async def going() -> None:
            for event in CALLED:
                await recorder(event)
            await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await learning.learn_after(going(), recorder, request, turn)
        await asyncio.sleep(1)

    run_virtually(go())
    assert not heard.calls


def test_of_many_at_once_some_are_read_one_at_a_time():
    heard = RecordingToolNeed()

    async def go() -> None:
        learning = ToolUseLearner(heard, CODECS)
        for _ in range(100):
            await answered(learning, *CALLED)
        await asyncio.sleep(0.1)
        assert len(heard.calls) < 15
        await asyncio.sleep(1)

    run_virtually(go())
    assert len(heard.calls) == 32
