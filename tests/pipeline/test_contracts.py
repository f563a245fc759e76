"""Output contracts on the way through the pipeline: for the model that is chosen, on every fallback anew."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from app.bootstrap import _gateway, _model
from app.domain.chat import ChatRequest, Dialect
from app.domain.deadline import Deadline
from app.domain.events import (
    AnswerBuilder,
    AnswerStarted,
    Finished,
    FinishReason,
    Frames,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ThinkingSealed,
    WholeBody,
)
from app.errors import UpstreamStatus
from app.pipeline.gateway import Turn
from app.pipeline.turn import serve
from app.settings import SettingsError
from app.telemetry.timeline import Timeline
from tests.support.gateway import configuration, settings_of
from tests.support.providers import USAGE, ScriptedProvider, answer_events

SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}}
DOWN = UpstreamStatus("down", status=503)
BUSY = UpstreamStatus("busy", status=429)


class Harness:
    """A gateway with contracts, over an OpenAI and an Anthropic upstream that are scripted."""

    def __init__(self, *contracts, abilities=None, **sections) -> None:
        values = configuration(
            "http://127.0.0.1:1", prompts={"contracts": list(contracts)}, **sections
        )
        for model in values["models"]:
            model["abilities"] = (abilities or {}).get(model["name"], {})
        settings = settings_of(values)
        models = {model.name: _model(model, settings) for model in settings.models}
        openai = frozenset({Dialect.CHAT, Dialect.RESPONSES})
        self.local = ScriptedProvider("local", openai)
        self.claude = ScriptedProvider("claude", frozenset({Dialect.MESSAGES}))
        providers = {"local": self.local, "claude": self.claude}
        self.gateway = _gateway(settings, models, providers)

    async def asked(self, model, dialect=Dialect.CHAT, *, contract="", **more):
        turns = [{"role": "user", "content": "Who wrote it?"}]
        body = {"model": model, "messages": turns, "max_tokens": 4000, **more}
        stream = bool(more.get("stream"))
        request = ChatRequest(dialect, model, stream, body, msgspec.json.encode(body))
        turn = Turn("req_1", "acme", Timeline(), Deadline(None), 0.0)
        turn.contract = contract
        events = []

        async def take(event):
            events.append(event)

        await serve(request, self.gateway, turn, take)
        return events, turn

    def ask(self, *arguments, **more):
        return asyncio.run(self.asked(*arguments, **more))


def answer_of(events):
    builder = AnswerBuilder()
    for event in events:
        builder.add(event)
    return builder.answer()


def test_each_candidate_gets_the_manner_of_its_own_tier_in_its_own_words():
    contract = {
        "model": "auto",
        "tiers": {"fast": {"effort": "low"}, "powerful": {"effort": "high"}},
    }
    kinds = {"local": "effort", "claude": "adaptive"}
    names = {"small": "local", "small2": "claude", "large": "local", "large2": "claude"}
    harness = Harness(contract, abilities={k: {"thinking": kinds[v]} for k, v in names.items()})
    harness.local.say(then=DOWN)
    harness.claude.say(then=DOWN)
    with pytest.raises(UpstreamStatus):
        harness.ask("auto", tools=[])
    calls = [*harness.local.calls, *harness.claude.calls]
    assert {call.model.provider for call in calls} == {"local", "claude"}
    for call in calls:
        word = "low" if call.model.tier == "fast" else "high"
        if call.native is not None:
            assert call.native.body["reasoning_effort"] == word
        else:
            assert call.conversation.sampling.effort == word


def test_a_fallback_that_does_not_go_on_from_a_beginning_gets_the_schema_and_nothing_is_put_before():
    contract = {"model": "auto", "json_schema": SCHEMA, "prefill": "{"}
    can = {"prefill": True}
    harness = Harness(contract, abilities={"small2": can, "large2": can})
    for failing, other in ((harness.local, harness.claude), (harness.claude, harness.local)):
        harness.local.calls.clear()
        harness.claude.calls.clear()
        failing.say(then=DOWN)
        other.say(*answer_events('{"label": "x"}' if other is harness.local else '"label": "x"}'))

        events, _ = harness.ask("auto", temperature=0.1 if other is harness.local else 0.2)
        assert answer_of(events).text == '{"label": "x"}'
        answering = (other.calls or failing.calls)[-1]
        assert answering.prefill == ("{" if answering.model.provider == "claude" else "")
        if answering.native is not None:
            assert "response_format" in answering.native.body
        else:
            assert answering.conversation.json_output is None


def test_hidden_reasoning_is_not_kept_either_and_a_request_without_the_contract_sees_it():
    harness = Harness({"model": "small", "name": "plain", "hide_reasoning": True})
    emitted = (
        AnswerStarted("a", "m"),
        ThinkingDelta("secret"),
        ThinkingSealed(""),
        TextDelta("<think>also</think>Yes."),
        Finished(FinishReason.STOP, USAGE),
    )
    for _ in range(2):
        harness.local.say(*emitted)
    events, turn = harness.ask("small", contract="plain")
    answer = answer_of(events)
    assert (answer.text, answer.usage, turn.usage) == ("Yes.", USAGE, USAGE)
    assert not any(isinstance(block, ThinkingBlock) for block in answer.blocks)
    again, turn = harness.ask("small", contract="plain")
    assert turn.cache == "exact"
    assert "secret" not in repr(again)
    open_, turn = harness.ask("small")
    assert turn.cache == "miss"
    assert answer_of(open_).text == "<think>also</think>Yes."
    assert len(harness.local.calls) == 2


def test_frames_and_whole_answers_of_the_clients_own_dialect_are_changed_as_they_pass():
    harness = Harness({"model": "small", "hide_reasoning": True})
    message = {"role": "assistant", "content": "Yes.", "reasoning_content": "secret"}
    body = {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"x": 1},
    }
    harness.local.say(WholeBody(json.dumps(body).encode()))
    (whole,), _ = harness.ask("small")
    del message["reasoning_content"]
    assert json.loads(whole.body) == body
    parts = [
        {"index": 0, "delta": {"role": "assistant", "content": ""}},
        {"index": 0, "delta": {"reasoning_content": "secret"}},
        {"index": 0, "delta": {"content": "Yes."}},
    ]
    frames = [b"data: %b\n\n" % json.dumps({"choices": [part]}).encode() for part in parts]
    harness.local.say(*(Frames(frame) for frame in frames))
    events, _ = harness.ask("small", stream=True)
    assert [event.data for event in events] == [frames[0], frames[2]]


def test_who_did_not_opt_in_is_asked_for_and_answered_with_the_very_same_objects():
    contract = {
        "model": "small",
        "name": "full",
        "max_tokens": 3,
        "json_schema": SCHEMA,
        "hide_reasoning": True,
        "verbosity": "low",
    }
    harness = Harness(contract)
    whole = WholeBody(b'{"choices":[{"message":{"content":"<think>a</think>","reasoning":"b"}}]}')
    harness.local.say(whole)
    events, _ = harness.ask("small")
    assert events[0] is whole
    (call,) = harness.local.calls
    assert call.native.terms is None
    assert call.native.body == {
        "model": "small",
        "messages": [{"role": "user", "content": "Who wrote it?"}],
        "max_tokens": 4000,
    }
    assert call.native.raw == msgspec.json.encode(call.native.body)


def test_a_call_that_is_made_again_is_begun_again():
    harness = Harness(
        {"model": "small2", "prefill": "Yes,"}, abilities={"small2": {"prefill": True}}
    )
    harness.claude.say(then=DOWN)
    harness.claude.say(*answer_events(" certainly."))
    events, _ = harness.ask("small2", Dialect.MESSAGES)
    assert answer_of(events).text == "Yes, certainly."
    assert [call.native.body["messages"][-1] for call in harness.claude.calls] == [
        {"role": "assistant", "content": "Yes,"}
    ] * 2


@pytest.mark.parametrize(
    ("contract", "says"),
    [
        ({"model": "none", "max_tokens": 3}, "is not configured"),
        ({"model": "small", "prefill": "{"}, "small would begin an answer of its own"),
        ({"model": "auto", "prefill": "{"}, "would begin an answer of its own"),
        ({"model": "small2", "prefill": "{ "}, "white space"),
        ({"model": "small", "effort": "high"}, "effort would be told to no model"),
        ({"model": "small2", "verbosity": "low"}, "verbosity would be told to no model"),
        ({"model": "small", "tiers": {"powerful": {"effort": "low"}}}, "tiers.powerful.effort"),
        ({"model": "large2", "json_schema": SCHEMA}, "large2 takes no schema"),
    ],
)
def test_a_contract_that_a_model_of_its_route_cannot_keep_is_refused_at_start(contract, says):
    with pytest.raises(SettingsError, match=says):
        Harness(contract, abilities={"large2": {"structured_output": False}})
