"""Shadow double-runs over a real upstream: off the path, judged, counted, and learned from."""

from __future__ import annotations

import asyncio

import pytest

from app.settings import loads
from tests.contract.test_settings_act import CHAT, chat_answer, gateway_over, question

pytestmark = pytest.mark.anyio
RIGHT, WRONG = "It was Ada Lovelace.", "It was somebody else."


async def labels_of(says, requests: int = 60, **shadow: object) -> list[float]:
    """The gains learned from ``requests`` questions at the highest share."""
    routing = {"fast_share": 1.0, "escalate": False, "shadow": {"share": 0.05, **shadow}}

    async def say(asked, body) -> None:
        await asked.answer(chat_answer(says(body)))

    async with gateway_over(say, routing=routing) as (client, _, running):
        gateway = running.context.edge.gateway
        for number in range(requests):
            await client.post(CHAT, json=question("auto", f"Who wrote number {number}?"))
        counts = running.context.telemetry.metrics.guards.shadows
        async with asyncio.timeout(20):  # a queue that is empty again has no event
            while gateway.shadow._waiting.qsize() or not counts._children:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return [label.gain for label in gateway.router_trainer.learner.labels]


def by_tier(body) -> str:
    return RIGHT if body["model"] == "sim-powerful" else WRONG


async def test_by_equality_a_different_answer_is_a_gain():
    assert set(await labels_of(by_tier, judge="exact")) == {1.0}
    assert set(await labels_of(lambda _: RIGHT, judge="exact")) == {0.0}


async def test_by_a_check_the_gain_is_that_of_passing_it():
    check = {"name": "ada", "pattern": "Ada"}
    assert set(await labels_of(by_tier, judge="check", check=check)) == {1.0}
    assert set(await labels_of(lambda _: WRONG, judge="check", check=check)) == {0.0}


async def test_a_model_judges_without_being_told_which_is_which():
    def says(body) -> str:
        text = body["messages"][0]["content"]
        if "<A>" not in text:
            return by_tier(body)
        return "A" if text.index(RIGHT) < text.index(WRONG) else "B"

    gains = await labels_of(says, judge="model", judge_model="large")
    assert set(gains) == {1.0}


async def test_without_a_share_nothing_is_run_twice():
    async def say(asked, _) -> None:
        await asked.answer(chat_answer(RIGHT))

    async with gateway_over(say, routing={"fast_share": 1.0}) as (client, upstream, running):
        for number in range(20):
            await client.post(CHAT, json=question("auto", f"Who wrote number {number}?"))
        assert len(upstream.asked) == 20
        assert running.context.edge.gateway.shadow is None


@pytest.mark.parametrize("shadow", ["{judge: model}", "{judge: check}", "{share: 0.06}"])
def test_a_judge_that_is_not_named_is_a_configuration_error(shadow):
    with pytest.raises(Exception, match=r"judge|share"):
        loads(f"routing: {{shadow: {shadow}}}", "x.yaml", {})
