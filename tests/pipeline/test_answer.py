"""`answer` with its real collaborators over in-memory models: who answers, and what is tried when."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
import pytest

from app.bootstrap import _gateway, _model
from app.domain.chat import ChatRequest, Dialect
from app.domain.deadline import Deadline
from app.domain.decisions import CacheMode, CacheOutcome, Tier
from app.domain.events import Event, FinishReason, Frames, TextDelta, WholeBody
from app.errors import (
    CacheOnlyMiss,
    DeadlineExceeded,
    NotFound,
    Unsupported,
    UpstreamClosed,
    UpstreamError,
    UpstreamStatus,
)
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.turn import answer
from app.telemetry.timeline import Timeline
from tests.support.gateway import configuration, settings_of
from tests.support.providers import ScriptedProvider, answer_events

pytestmark = pytest.mark.anyio
FAILED = UpstreamStatus("down", status=500)


@dataclass
class Harness:
    """A gateway over two scripted providers."""

    gateway: Gateway
    local: ScriptedProvider
    claude: ScriptedProvider

    async def ask(self, text: str, model: str = "small", **turn_fields) -> tuple[Turn, str]:
        """Answer one chat question; the turn and the emitted text."""
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        body |= turn_fields.pop("more", {})
        request = ChatRequest(Dialect.CHAT, model, False, body, msgspec.json.encode(body))  # noqa: FBT003
        deadline = turn_fields.pop("deadline", Deadline(None))
        turn = Turn("req_1", "acme", Timeline(), deadline, time.time())
        for name, value in turn_fields.items():
            setattr(turn, name, value)
        emitted: list[Event] = []

        async def emit(event: Event) -> None:
            emitted.append(event)

        try:
            await answer(request, self.gateway, turn, emit)
        finally:
            self.emitted = emitted
        return turn, "".join(map(text_of, emitted))


def text_of(event: Event) -> str:
    match event:
        case TextDelta(text):
            return text
        case WholeBody(body) | Frames(body):
            return msgspec.json.decode(body)["choices"][0]["message"]["content"]
        case _:
            return ""


@pytest.fixture
def harness() -> Harness:
    settings = settings_of(configuration("http://127.0.0.1:1"))
    models = {model.name: _model(model, settings) for model in settings.models}
    local, claude = ScriptedProvider("local"), ScriptedProvider("claude")
    return Harness(_gateway(settings, models, {"local": local, "claude": claude}), local, claude)


async def test_a_second_equal_question_is_answered_without_a_model(harness):
    first, text = await harness.ask("What is TCP?")
    second, again = await harness.ask("What is TCP?")
    assert (first.cache, second.cache) == (CacheOutcome.MISS, CacheOutcome.EXACT)
    assert text == again == "local"
    assert len(harness.local.calls) == 1
    assert second.saved_usd == first.cost_usd > 0


@pytest.mark.parametrize(
    ("mode", "outcome", "calls"),
    [
        (CacheMode.BYPASS, CacheOutcome.BYPASS, 2),
        (CacheMode.REFRESH, CacheOutcome.MISS, 2),
        (CacheMode.ONLY, CacheOutcome.EXACT, 1),
    ],
)
async def test_the_callers_wish_about_the_cache_is_followed(harness, mode, outcome, calls):
    await harness.ask("What is TCP?")
    turn, _ = await harness.ask("What is TCP?", cache_mode=mode)
    assert turn.cache is outcome
    assert len(harness.local.calls) == calls


async def test_only_asks_no_model(harness):
    with pytest.raises(CacheOnlyMiss):
        await harness.ask("What is TCP?", cache_mode=CacheMode.ONLY)
    assert not harness.local.calls


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.REFUSAL])
async def test_an_answer_that_is_not_whole_is_not_kept(harness, reason):
    harness.local.say(*answer_events("half", reason))
    await harness.ask("What is TCP?")
    assert (await harness.ask("What is TCP?"))[0].cache is CacheOutcome.MISS


async def test_a_lane_answers_auto_without_a_model(harness):
    turn, text = await harness.ask("What is 12 * 12?", model="auto")
    assert turn.cache is CacheOutcome.LANE
    assert "144" in text
    assert not harness.local.calls
    assert not harness.claude.calls


@pytest.mark.parametrize(
    "more",
    [{"n": 2}, {"logprobs": True}, {"max_tokens": 5}, {"stop": ["="]}, {"web_search_options": {}}],
    ids=str,
)
async def test_a_lane_leaves_to_a_model_what_asks_for_more_than_its_text(harness, more):
    turn, text = await harness.ask("What is 12 * 12?", model="auto", more=more)
    assert turn.cache is CacheOutcome.MISS
    assert text in {"local", "claude"}


async def test_an_unknown_model_is_named(harness):
    with pytest.raises(NotFound) as caught:
        await harness.ask("Hi", model="none")
    assert caught.value.param == "model"


@pytest.mark.parametrize("tier", list(Tier))
async def test_a_forced_tier_is_asked(harness, tier):
    turn, _ = await harness.ask("Compare two rivers", model="auto", tier=tier)
    assert turn.model.tier is tier
    assert turn.answered_tier == tier.value


async def test_a_named_deployment_is_tried_once_more_before_a_word_was_said(harness):
    harness.local.say(then=FAILED)
    turn, text = await harness.ask("Hi")
    assert (text, turn.attempts) == ("local", 2)
    harness.local.say(then=FAILED)
    harness.local.say(then=FAILED)
    with pytest.raises(UpstreamStatus):
        await harness.ask("Hello")


@pytest.mark.parametrize("status", [400, 401, 429])
async def test_what_another_try_cannot_change_is_told_at_once(harness, status):
    harness.local.say(then=UpstreamStatus("no", status=status))
    with pytest.raises(UpstreamStatus):
        await harness.ask("Hi")
    assert len(harness.local.calls) == 1


async def test_nothing_is_tried_again_after_the_first_event(harness):
    harness.local.say(*answer_events("part")[:2], then=UpstreamClosed("gone"))
    with pytest.raises(UpstreamError):
        await harness.ask("Hi")
    assert len(harness.local.calls) == 1
    assert (await harness.ask("Hi"))[0].cache is CacheOutcome.MISS


@pytest.mark.parametrize("status", [429, 500])
async def test_auto_falls_back_to_another_deployment_of_the_tier(harness, status):
    harness.local.say(then=UpstreamStatus("no", status=status))
    turn, text = await harness.ask("Compare two rivers", model="auto", tier=Tier.FAST)
    assert (text, turn.model.name, turn.attempts) == ("claude", "small2", 2)


async def test_a_deadline_that_has_passed_asks_nobody(harness):
    with pytest.raises(DeadlineExceeded):
        await harness.ask("Hi", deadline=Deadline(harness.gateway.clock() - 1))
    assert not harness.local.calls


async def test_a_deployment_that_cannot_carry_the_request_does_not_hide_why_the_first_failed(
    harness,
):
    """The first fails, the second's dialect refuses: the client hears of the failure, not of the refusal."""
    harness.local.say(then=FAILED)
    harness.claude.say(then=Unsupported("no such field there", param="seed"))
    with pytest.raises(UpstreamStatus):
        await harness.ask("Why is the sea salt?", "auto", tier=Tier.FAST)


async def test_a_deployment_that_cannot_carry_the_request_is_passed_over(harness):
    """The first's dialect refuses: the next is asked, at no cost to the retries."""
    harness.local.say(then=Unsupported("no such field there", param="seed"))
    harness.claude.say(*answer_events("from the other"))
    _, text = await harness.ask("Why is the sea salt?", "auto", tier=Tier.FAST)
    assert text == "from the other"
