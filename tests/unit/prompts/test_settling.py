"""Learning from calls that are over: in their order, in small pieces, bounded, and all of it when asked."""

from __future__ import annotations

import asyncio
import json

import pytest

from app.domain.chat import Dialect
from app.domain.deadline import Deadline
from app.domain.decisions import Tier
from app.domain.model_call import ModelCall
from app.domain.models import Model
from app.domain.usage import Price
from app.prompts.learning_queue import MAX_WAITING, SLICE_NS, LearningQueue
from app.prompts.prefix import RenderedPrompt, RenderSteps, render, render_steps
from tests.support.turns import turns_of_others

pytestmark = pytest.mark.anyio
MODEL = Model("m", "p", "m", Tier.FAST, Price(1.0, 2.0))
MESSAGES = 100


class Clock:
    """A tenth of a slice passes whenever somebody looks."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += SLICE_NS // 10
        return self.now_ns


class Learner:
    """Calls to learn from, and what was learned of them."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.learned: list[tuple[str, int]] = []
        self.settling = LearningQueue(self.read, self.learn, Clock())

    def call(self, name: str, *, body: bytes | None = None) -> ModelCall:
        call = ModelCall(MODEL, stream=False, deadline=Deadline(None))
        call.request_id = name
        turns = [{"role": "user", "content": f"{name} says {i}. " * 9} for i in range(MESSAGES)]
        self.bodies[name] = json.dumps({"messages": turns}).encode() if body is None else body
        return call

    def read(self, call: ModelCall) -> RenderedPrompt | RenderSteps:
        if call.request_id.startswith("read"):
            return render(self.bodies[call.request_id], Dialect.CHAT)
        return render_steps(self.bodies[call.request_id], Dialect.CHAT)

    def learn(self, call: ModelCall, rendered: RenderedPrompt) -> None:
        self.learned.append((call.request_id, len(rendered.blocks)))


async def test_several_long_prompts_are_read_over_many_turns_of_the_loop_in_their_order() -> None:
    """No turn of the loop does more than a slice: not one prompt of a hundred messages is read in one."""
    learner = Learner()
    for name in "abc":
        learner.settling.add(learner.call(name))
    looks = 0
    while learner.settling.run_slice():
        looks += 1
    assert learner.learned == [("a", MESSAGES), ("b", MESSAGES), ("c", MESSAGES)]
    assert looks >= 3 * MESSAGES / 10


async def test_others_have_the_loop_while_somebody_waits_for_all_of_it() -> None:
    learner = Learner()
    for name in "abc":
        learner.settling.add(learner.call(name))
    async with turns_of_others() as turns:
        await learner.settling.drained()
    assert [name for name, _ in learner.learned] == ["a", "b", "c"]
    assert turns.taken >= 2 * MESSAGES / 10


async def test_nobody_waits_for_what_came_after_they_began_to_wait() -> None:
    learner = Learner()
    learner.settling.add(learner.call("a"))
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(learner.settling.drained())
        await asyncio.sleep(0)
        learner.settling.add(learner.call("b"))
        await waiting
        assert [name for name, _ in learner.learned] == ["a"]
        learner.settling.drain()


async def test_it_goes_on_by_itself_until_all_is_learned() -> None:
    learner, over = Learner(), asyncio.Event()
    settling = learner.settling = LearningQueue(learner.read, lambda *_: over.set())
    settling.add(learner.call("a"))
    await asyncio.wait_for(over.wait(), 30)
    assert len(settling) == 0


async def test_draining_finishes_the_reading_that_is_under_way_and_all_that_waits() -> None:
    learner = Learner()
    for name in "ab":
        learner.settling.add(learner.call(name))
    assert learner.settling.run_slice()
    learner.settling.drain()
    assert learner.learned == [("a", MESSAGES), ("b", MESSAGES)]


async def test_what_is_read_already_is_learned_at_once_but_never_past_what_is_not() -> None:
    learner = Learner()
    for name in ("read 1", "read 2", "c", "read 4"):
        learner.settling.add(learner.call(name))
    learner.settling.drain_rendered()
    assert [name for name, _ in learner.learned] == ["read 1", "read 2"]
    learner.settling.drain()
    assert [name for name, _ in learner.learned] == ["read 1", "read 2", "c", "read 4"]


async def test_a_prompt_that_cannot_be_read_is_passed_over() -> None:
    learner = Learner()
    for name, body in (("a", b"[1,"), ("b", b'{"messages":[{}]}')):
        learner.settling.add(learner.call(name, body=body))
    learner.settling.add(learner.call("c"))
    learner.settling.drain()
    assert learner.learned == [("c", MESSAGES)]


async def test_no_more_than_so_many_wait() -> None:
    learner = Learner()
    for number in range(MAX_WAITING + 3):
        learner.settling.add(learner.call(str(number)))
    assert [name for name, _ in learner.learned] == ["0", "1", "2"]
    learner.settling.drain()


async def test_who_learns_may_ask_for_all_of_it() -> None:
    """Whoever is told of a call may look at figures, which has everything learned first."""
    learner = Learner()

    def learn(call: ModelCall, rendered: RenderedPrompt) -> None:
        learner.settling.drain()
        learner.learn(call, rendered)

    learner.settling = LearningQueue(learner.read, learn, Clock())
    for name in "abc":
        learner.settling.add(learner.call(name))
    learner.settling.drain()
    assert {name for name, _ in learner.learned} == set("abc")
    assert len(learner.settling) == 0
