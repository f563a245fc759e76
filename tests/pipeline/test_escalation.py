"""Routed fast answers that are none: what is noticed, what is shown instead, and what is never taken back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec
import pytest

from app.bootstrap import _gateway, _model
from app.domain.chat import ChatRequest, Dialect
from app.domain.deadline import Deadline
from app.domain.decisions import Cacheability, CacheMode, Classification, Tier
from app.domain.events import (
    AnswerStarted,
    Event,
    Finished,
    FinishReason,
    TextDelta,
    ToolCallSealed,
    ToolCallStarted,
)
from app.errors import UpstreamStatus
from app.pipeline.gateway import Turn
from app.pipeline.turn import answer
from app.routing.escalation import EscalationPolicy, OperatorCheck
from app.telemetry.timeline import Timeline
from tests.support.gateway import configuration, settings_of
from tests.support.providers import USAGE, ScriptedProvider, answer_events
from tests.support.virtual_time import run_virtually

GOOD = "The other one knows that it was Ada Lovelace who wrote it."


class PacedProvider(ScriptedProvider):
    """Waits where a script says a number of seconds."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.paced: list[Sequence[Event | float]] = []
        self.cancelled = 0
        self.down = False

    async def stream(self, call, emit):
        if self.down:
            self.calls.append(call)
            raise UpstreamStatus("down", status=500)
        if not self.paced:
            await super().stream(call, emit)
            return
        self.calls.append(call)
        try:
            for step in self.paced.pop(0):
                if isinstance(step, float):
                    await asyncio.sleep(step)
                    continue
                call.timing.first_event_ns = call.timing.first_event_ns or 1
                await emit(step)
                if isinstance(step, Finished):
                    call.finish, call.complete = step.reason.value, True
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def text_events(
    *pieces: str | float, reason: FinishReason = FinishReason.STOP
) -> list[Event | float]:
    steps = [piece if isinstance(piece, float) else TextDelta(piece) for piece in pieces]
    return [AnswerStarted("a", "m"), *steps, Finished(reason, USAGE)]


class Harness:
    def __init__(self, policy: EscalationPolicy | None = None) -> None:
        values = configuration("http://127.0.0.1:1")
        values["models"] = [m for m in values["models"] if m["name"] in {"small", "large2"}]
        settings = settings_of(values)
        models = {model.name: _model(model, settings) for model in settings.models}
        self.fast, self.strong = PacedProvider("local"), PacedProvider("claude")
        self.gateway = _gateway(settings, models, {"local": self.fast, "claude": self.strong})
        self.gateway.retries = {"local": 0, "claude": 0}
        self.gateway.escalation = policy or EscalationPolicy()
        self.counted: list[tuple[str, str]] = []
        self.gateway.on_escalation = lambda lack, outcome: self.counted.append((lack, outcome))
        self.strong.say(*answer_events(GOOD))
        self.heard: list[tuple[float, str]] = []

    async def ask(
        self, text="Who wrote it?", *, stream=True, band="fast", **body
    ) -> tuple[Turn, str]:
        body = {
            "model": "auto", "stream": stream,
            "messages": [{"role": "user", "content": text}], **body,
        }  # fmt: skip
        request = ChatRequest(Dialect.CHAT, "auto", stream, body, msgspec.json.encode(body))
        turn = Turn("r", "t", Timeline(), Deadline(None), time.time())
        turn.cache_mode = CacheMode.BYPASS
        # The score decides for the fast tier, from the band that the test is about.
        score = 0.24 if band == "grey" else 0.01
        turn.classification = Classification(score, Cacheability.UNKNOWN, None, semantic_ok=False)
        if needs := body.get("tools"):
            turn.classification = Classification(
                score, Cacheability.UNKNOWN, None, semantic_ok=False,
                tool_need=((needs[0]["function"]["name"], 0.99),),
            )  # fmt: skip
        loop, emitted = asyncio.get_running_loop(), []
        begun_s = loop.time()

        async def emit(event: Event) -> None:
            if isinstance(event, TextDelta):
                self.heard.append((round(loop.time() - begun_s, 3), event.text))
            emitted.append(event)

        await answer(request, self.gateway, turn, emit)
        return turn, "".join(event.text for event in emitted if isinstance(event, TextDelta))


class TestStreams:
    def test_an_ordinary_answer_is_shown_with_its_first_token(self):
        async def go() -> None:
            harness = Harness()
            harness.fast.paced = [text_events("It ", 1.0, "was Ada.")]
            turn, emitted = await harness.ask()
            assert emitted == "It was Ada."
            assert harness.heard[0] == (0.0, "It ")
            assert turn.answered_tier == "fast"
            assert not harness.strong.calls

        run_virtually(go())

    @pytest.mark.parametrize(
        "steps",
        [
            text_events("I'm ", 0.02, "sorry, ", 0.02, "but I can't help with that."),
            text_events(reason=FinishReason.CONTENT_FILTER),
            text_events(""),
        ],
        ids=["words", "filter", "empty"],
    )
    def test_a_refusal_in_the_first_tokens_is_never_shown_and_the_powerful_tier_answers(
        self, steps
    ):
        async def go() -> None:
            harness = Harness()
            harness.fast.paced = [steps]
            turn, emitted = await harness.ask()
            assert emitted == GOOD
            assert turn.answered_tier == "powerful"
            assert "asked the powerful tier" in turn.reason
            assert [outcome for _, outcome in harness.counted] == ["gained"]
            assert harness.gateway.load.deployment("small").in_flight == 0

        run_virtually(go())

    def test_what_may_be_a_refusal_is_held_for_150_ms_and_then_stands(self):
        async def go() -> None:
            harness = Harness()
            harness.fast.paced = [text_events("I'm ", 3.0, "sorry, I can't help with that.")]
            turn, emitted = await harness.ask()
            assert emitted == "I'm sorry, I can't help with that."
            assert harness.heard[0] == (0.15, "I'm ")
            assert turn.answered_tier == "fast"

        run_virtually(go())

    def test_with_no_hold_streams_are_not_looked_at(self):
        async def go() -> None:
            harness = Harness(EscalationPolicy(hold_s=0))
            harness.fast.paced = [text_events("I'm sorry, but I can't help with that.")]
            _, emitted = await harness.ask()
            assert emitted.startswith("I'm sorry")

        run_virtually(go())

    def test_when_the_powerful_tier_fails_too_the_fast_one_is_asked_once_more(self):
        async def go() -> None:
            harness = Harness()
            refusal = text_events("I'm sorry, but I can't help with that.")
            harness.fast.paced = [refusal, refusal]
            harness.strong.down = True
            turn, emitted = await harness.ask()
            assert emitted.startswith("I'm sorry")
            assert turn.answered_tier == "fast"
            assert harness.counted == [("refused", "failed")]

        run_virtually(go())

    def test_another_language_than_the_questions_is_noticed_before_it_is_shown(self):
        async def go() -> None:
            harness = Harness()
            harness.fast.paced = [text_events("这个国家的首都是巴黎，它在塞纳河上。")]
            _, emitted = await harness.ask(
                "What is the capital of this country and how is it that it was not?"
            )
            assert emitted == GOOD
            assert harness.counted == [("language", "gained")]

        run_virtually(go())


class TestGreyBand:
    def grey(self) -> Harness:
        return Harness(EscalationPolicy(grey_hedge=True))

    def test_the_powerful_one_answers_if_it_speaks_while_the_fast_one_is_held(self):
        async def go() -> None:
            harness = self.grey()
            harness.fast.paced = [text_events(0.1, "Fast ", 5.0, "words.")]
            harness.strong.paced = [text_events(0.2, GOOD)]
            turn, emitted = await harness.ask(band="grey")
            assert turn.band == "grey"
            assert emitted == GOOD
            assert harness.heard[0][0] == 0.2
            assert turn.answered_tier == "powerful"
            assert harness.fast.cancelled == 1
            assert harness.counted == [("grey", "powerful")]
            assert turn.attempts == 2

        run_virtually(go())

    def test_the_fast_one_answers_when_its_hold_is_over_and_the_powerful_one_is_cancelled(self):
        async def go() -> None:
            harness = self.grey()
            harness.fast.paced = [text_events(0.1, "Fast ", 1.0, "words.")]
            harness.strong.paced = [[5.0, *text_events(GOOD)]]
            turn, emitted = await harness.ask(band="grey")
            assert emitted == "Fast words."
            assert harness.heard[0] == (0.25, "Fast ")
            assert harness.strong.cancelled == 1
            assert turn.answered_tier == "fast"
            assert turn.model is not None
            assert turn.model.name == "small"

        run_virtually(go())

    def test_it_is_off_unless_asked_for(self):
        async def go() -> None:
            harness = Harness()
            harness.fast.paced = [text_events("Fast words.")]
            await harness.ask(band="grey")
            assert not harness.strong.calls

        run_virtually(go())


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
    },
}  # fmt: skip


def tool_call_events(arguments: str) -> list[Event]:
    return [
        AnswerStarted("a", "m"),
        ToolCallStarted(0, "c", "weather"),
        ToolCallSealed(0, "c", "weather", arguments),
        Finished(FinishReason.TOOL_CALLS, USAGE),
    ]


SCHEMA = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}


class TestWholeAnswers:
    @pytest.mark.parametrize(
        ("lack", "events", "body"),
        [
            ("refused", answer_events("I cannot help with that."), {}),
            ("cut_off", answer_events("It was", FinishReason.LENGTH), {}),
            ("repetition", answer_events("It was " + "and then it was " * 30), {}),
            ("no_tool_call", answer_events("It is sunny."), {"tools": [TOOL]}),
        ],
    )
    def test_what_an_answer_lacks_is_noticed_and_counted(self, lack, events, body):
        async def go() -> None:
            harness = Harness()
            harness.fast.say(*events)
            _, emitted = await harness.ask(stream=False, **body)
            assert emitted == GOOD
            assert [one for one, _ in harness.counted] == [lack]

        run_virtually(go())

    def test_an_answer_cut_at_the_callers_own_limit_is_what_was_asked_for(self):
        async def go() -> None:
            harness = Harness()
            harness.fast.say(*answer_events("It was", FinishReason.LENGTH))
            _, emitted = await harness.ask(stream=False, max_tokens=2)
            assert emitted == "It was"

        run_virtually(go())

    @pytest.mark.parametrize(
        ("bad", "good", "body"),
        [
            (
                answer_events('{"nom": 1}'),
                answer_events('{"name": "Ada"}'),
                {"response_format": FORM},
            ),
            (
                tool_call_events('{"town": "Rome"}'),
                tool_call_events('{"city": "Rome"}'),
                {"tools": [TOOL]},
            ),
        ],
        ids=["answer", "tool"],
    )
    def test_a_violated_schema_is_told_to_the_fast_model_first(self, bad, good, body):
        async def go() -> None:
            harness = Harness()
            harness.fast.say(*bad)
            harness.fast.say(*good)
            turn, _ = await harness.ask(stream=False, **body)
            assert harness.counted == [("invalid", "mended")]
            assert not harness.strong.calls
            told = harness.fast.calls[1].native.body["messages"][-1]
            assert told["role"] == "user"
            assert "required property" in told["content"]
            assert turn.answered_tier == "fast"

        run_virtually(go())

    def test_after_a_second_violation_the_powerful_tier_is_asked(self):
        async def go() -> None:
            harness = Harness()
            harness.fast.say(*answer_events("no JSON"))
            harness.fast.say(*answer_events("nor this"))
            harness.strong._scripts.clear()
            harness.strong.say(*answer_events('{"name": "Ada"}'))
            _, emitted = await harness.ask(stream=False, response_format=FORM)
            assert emitted == '{"name": "Ada"}'
            assert harness.counted == [("invalid", "gained")]

        run_virtually(go())

    def test_a_lack_that_is_not_looked_for_is_none(self):
        async def go() -> None:
            harness = Harness(EscalationPolicy(lacks=frozenset()))
            harness.fast.say(*answer_events("I cannot help with that."))
            _, emitted = await harness.ask(stream=False)
            assert emitted == "I cannot help with that."

        run_virtually(go())

    def test_an_operators_check_is_told_too_and_one_that_hangs_finds_nothing(self):
        async def no_name(_question: str, text: str) -> str:
            return "" if "Ada" in text else "it names nobody"

        async def hang(_question: str, _text: str) -> str:
            await asyncio.sleep(100)
            return "never"

        async def go() -> None:
            own = (OperatorCheck("hang", hang, 1.0), OperatorCheck("names", no_name, 1.0))
            harness = Harness(EscalationPolicy(operator_checks=own))
            harness.fast.say(*answer_events("Somebody did."))
            harness.fast.say(*answer_events("Ada did."))
            _, emitted = await harness.ask(stream=False)
            assert emitted == "Ada did."
            assert harness.counted == [("names", "mended")]

        run_virtually(go())


def test_a_deadline_that_the_powerful_tier_cannot_meet_goes_to_the_fast_one():
    async def go() -> None:
        harness = Harness()
        load = harness.gateway.load
        for name, took_s in (("small", 0.5), ("large2", 5.0)):
            load.record_start(name)
            load.record_end(name, ok=True, ttft_s=took_s / 5, total_s=took_s)
        body = {"model": "auto", "messages": [{"role": "user", "content": "Why?"}]}
        request = ChatRequest(Dialect.CHAT, "auto", False, body, msgspec.json.encode(body))  # noqa: FBT003

        async def emit(_: Event) -> None:
            pass

        async def tier_with(left_s: float) -> Turn:
            deadline = Deadline.after(time.monotonic(), left_s)
            turn = Turn("r", "t", Timeline(), deadline, time.time())
            turn.cache_mode = CacheMode.BYPASS
            turn.classification = Classification(0.9, Cacheability.UNKNOWN, None, semantic_ok=False)
            await answer(request, harness.gateway, turn, emit)
            return turn

        assert (await tier_with(60.0)).answered_tier == Tier.POWERFUL
        hurried = await tier_with(2.0)
        assert hurried.answered_tier == Tier.FAST
        assert "powerful needs about" in hurried.reason

    run_virtually(go())
