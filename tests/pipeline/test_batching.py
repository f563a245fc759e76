"""Small tasks that come at once go as one call and are answered one by one, on virtual time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bootstrap import _gateway, _model
from app.domain.chat import ChatRequest, Conversation, Dialect, Message, Role, TextPart
from app.domain.deadline import Deadline
from app.domain.events import Answer, FinishReason, TextBlock
from app.domain.usage import Usage
from app.errors import UpstreamStatus
from app.pipeline.gateway import Turn
from app.pipeline.turn import answer
from app.prompts.tasks import Task, batch_conversation, split_answers, split_usage, task_of
from app.settings import SettingsError
from app.telemetry.timeline import Timeline
from tests.pipeline.test_answer import text_of
from tests.support.gateway import configuration, settings_of
from tests.support.providers import ScriptedProvider, answer_events
from tests.support.virtual_time import run_virtually

WINDOW_S = 0.005


class Labeller(ScriptedProvider):
    """Labels each task with its own text, in the form that was asked for; takes 1 s."""

    def __init__(self, bend=lambda told: told) -> None:
        super().__init__("local")
        self.bend = bend
        self.at_s: list[float] = []

    async def stream(self, call, emit):
        self.at_s.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1)
        if call.conversation is not None:
            tasks = json.loads(call.conversation.messages[-1].parts[0].text)
            told = [{"id": each["id"], "answer": f"label of {each['task']}"} for each in tasks]
            told = self.bend(told)
            if isinstance(told, Exception):
                self.say(then=told)
            else:
                structured = call.conversation.json_output is not None
                text = json.dumps({"answers": told} if structured else told)
                self.say(*answer_events(text))
        await super().stream(call, emit)


class Harness:
    """A gateway with a batched route, and callers with texts of their own."""

    def __init__(self, provider, abilities=None, **rule) -> None:
        batches = [{"model": "small", "window_ms": WINDOW_S * 1000, **rule}]
        values = configuration("http://127.0.0.1:1", prompts={"batches": batches})
        if abilities:
            values["models"][0]["abilities"] = abilities
        settings = settings_of(values)
        models = {model.name: _model(model, settings) for model in settings.models}
        self.provider = provider
        self.gateway = _gateway(settings, models, {"local": provider, "claude": provider})
        self.counted = Counter()
        self.gateway.batching.on_batch = lambda _, what, tasks: self.counted.update({what: tasks})

    async def ask(self, text, *, at_s=0.0, system="Say the label.", model="small", **turn_fields):
        await asyncio.sleep(at_s)
        options = turn_fields.pop("options", {})
        turns = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        body = {"model": model, "messages": turns, **options}
        stream = bool(options.get("stream"))
        request = ChatRequest(Dialect.CHAT, model, stream, body, msgspec.json.encode(body))
        deadline = turn_fields.pop("deadline", Deadline(None))
        turn = Turn("req_1", turn_fields.pop("tenant", "acme"), Timeline(), deadline, 0.0)
        for name, value in turn_fields.items():
            setattr(turn, name, value)
        emitted = []

        async def emit(event):
            emitted.append(event)

        await answer(request, self.gateway, turn, emit)
        return turn, "".join(map(text_of, emitted))


def all_at_once(harness, *asks):
    async def run():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(harness.ask(**each)) for each in asks]
        return [task.result() for task in tasks]

    return run_virtually(run())


TEXTS = [{"text": text, "at_s": at} for text, at in (("a", 0.0), ("bb", 0.001), ("ccc", 0.004))]


@pytest.mark.parametrize("structured", [True, False])
def test_tasks_of_one_window_are_one_call_and_each_hears_its_own_answer(structured):
    harness = Harness(Labeller(), {"structured_output": structured})
    told = all_at_once(harness, *TEXTS)
    assert [text for _, text in told] == ["label of a", "label of bb", "label of ccc"]
    (call,) = harness.provider.calls
    assert (call.conversation.json_output is not None) is structured
    assert call.conversation.messages[0].parts == (TextPart("Say the label."),)
    assert harness.provider.at_s == [1000.0 + WINDOW_S]


def test_usage_and_cost_are_split_and_add_up_to_the_call_s():
    harness = Harness(Labeller())
    turns = [turn for turn, _ in all_at_once(harness, *TEXTS)]
    assert sum(turn.usage.input_tokens for turn in turns) == 10
    assert sum(turn.usage.output_tokens for turn in turns) == 5
    price = harness.gateway.models["small"].price
    assert sum(turn.cost_usd for turn in turns) == pytest.approx(price.cost_usd(Usage(10, 0, 0, 5)))
    assert [turn.attempts for turn in turns] == [1, 0, 0]
    assert {turn.reason for turn in turns} == {"answered in a batch of 3"}


@pytest.mark.parametrize(
    ("bend", "alone"),
    [
        (lambda _: UpstreamStatus("no", status=400), 3),
        (lambda _: "no list", 3),
        (lambda told: told[1:], 1),
        (lambda told: [*told, told[0]], 1),
        (lambda told: [{**told[0], "answer": 7}, *told[1:]], 1),
        (lambda told: [{**each, "id": each["id"] + 9} for each in told], 3),
    ],
)
def test_who_got_no_answer_from_the_batch_asks_alone(bend, alone):
    harness = Harness(Labeller(bend))
    told = all_at_once(harness, *TEXTS)
    lacking = {"failed" if alone == len(TEXTS) else "unanswered": alone}
    assert +harness.counted == Counter(call=1, together=len(TEXTS) - alone, **lacking)
    assert sum(text == "local" for _, text in told) == alone
    assert len(harness.provider.calls) == 1 + alone
    assert all(
        text in {"local", f"label of {ask['text']}"}
        for (_, text), ask in zip(told, TEXTS, strict=True)
    )


def test_a_full_batch_does_not_wait_for_the_window_s_end():
    harness = Harness(Labeller(), most=2)
    all_at_once(harness, *TEXTS)
    assert harness.provider.at_s == [1000.001, 1000.004 + WINDOW_S]


@pytest.mark.parametrize(
    "second",
    [
        {"tenant": "other"},
        {"user": "someone"},
        {"system": "Say something else."},
        {"model": "small2"},
        {"options": {"temperature": 0.5}},
        {"options": {"stream": True}},
        {"options": {"stop": ["."]}},
        {"options": {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}},
        {"options": {"n": 2}},
        {"options": {"metadata": {"a": "b"}}},
        {"deadline": Deadline(9e9)},
        {"text": "long " * 1000},
    ],
)
def test_nothing_goes_together_that_differs_in_more_than_a_short_text(second):
    harness = Harness(Labeller())
    all_at_once(harness, {"text": "a"}, {"text": "b", **second})
    assert len(harness.provider.calls) == 2
    assert not any(
        call.conversation for call in harness.provider.calls if call.model.name == "small"
    )


def test_without_the_setting_nothing_waits():
    harness = Harness(Labeller(), tenant="other")
    all_at_once(harness, *TEXTS)
    assert harness.provider.at_s == [1000.0, 1000.001, 1000.004]


@pytest.mark.parametrize("leaves_at_s", [0.002, 0.5])
def test_when_the_opener_leaves_the_others_ask_alone(leaves_at_s):
    harness = Harness(Labeller())

    async def run():
        async with asyncio.TaskGroup() as group:
            first, *others = [group.create_task(harness.ask(**each)) for each in TEXTS]
            await asyncio.sleep(leaves_at_s)
            first.cancel()
        assert first.cancelled()
        return [other.result() for other in others]

    assert [text for _, text in run_virtually(run())] == ["local", "local"]


def test_when_a_member_leaves_the_others_are_served_and_bear_its_share():
    harness = Harness(Labeller())

    async def run():
        async with asyncio.TaskGroup() as group:
            first, gone, last = [group.create_task(harness.ask(**each)) for each in TEXTS]
            await asyncio.sleep(0.5)
            gone.cancel()
        return first.result(), last.result()

    told = run_virtually(run())
    assert [text for _, text in told] == ["label of a", "label of ccc"]
    assert sum(turn.usage.input_tokens for turn, _ in told) == 10


def conversation(text, **more):
    turns = (Message(Role.SYSTEM, (TextPart("S"),)), Message(Role.USER, (TextPart(text),)))
    return Conversation(turns, **more)


@given(st.lists(st.text(min_size=1, max_size=50), min_size=2, max_size=9))
def test_every_text_survives_the_way_into_the_batch_and_back(texts):
    tasks = [task_of(conversation(text), 100) for text in texts]
    asked = json.loads(batch_conversation(tasks, structured=True).messages[-1].parts[0].text)
    assert [each["task"] for each in asked] == texts
    told = [{"id": each["id"], "answer": each["task"]} for each in reversed(asked)]
    block = TextBlock(msgspec.json.encode({"answers": told}).decode())
    whole = Answer("i", "m", (block,), FinishReason.STOP)
    assert split_answers(whole, tasks) == texts


@given(st.text(max_size=60), st.integers(1, 4))
def test_no_answer_of_a_model_raises(text, size):
    tasks = [Task("t", conversation("x"))] * size
    found = split_answers(Answer("i", "m", (TextBlock(text),), FinishReason.STOP), tasks)
    assert len(found) == size


@given(
    st.builds(Usage, *[st.integers(0, 10_000)] * 5),
    st.lists(st.integers(0, 500), min_size=1, max_size=20).filter(any),
)
def test_shares_add_up_and_nobody_s_is_negative(usage, weights):
    parts = split_usage(usage, weights)
    total = Usage()
    for part in parts:
        total = total.plus(part)
        assert min(part.input_tokens, part.cached_tokens, part.output_tokens) >= 0
    assert total == usage


def test_a_batch_for_a_model_that_is_not_configured_is_refused_at_start():
    with pytest.raises(SettingsError, match="not configured"):
        Harness(Labeller(), model="nobody")
