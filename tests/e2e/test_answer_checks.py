"""The operator's own checks and triggers, as the configuration names them."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack

import pytest

from app.errors import ToolError
from app.operator_checks import escalation_of
from app.settings import SettingsError, TriggerSettings
from tests.contract.test_settings_act import CHAT, GOOD, chat_answer, gateway_over, question
from tests.support.tool_server import tool_server

pytestmark = pytest.mark.anyio


def names_ada(question: str, answer: str) -> bool:
    """Found by its import path."""
    assert question
    return "Ada" in answer


async def with_check(check: dict[str, object], answer: str) -> str:
    """What the check says of ``answer``."""
    settings = TriggerSettings.model_validate({"checks": [{"name": "own", **check}]})
    async with AsyncExitStack() as stack:
        [own] = escalation_of(settings, stack).operator_checks
        return await own.check("Who?", answer)


@pytest.mark.parametrize(
    "check",
    [
        {"pattern": "Ada"},
        {"json_schema": {"type": "object", "properties": {"name": {"const": "Ada"}}}},
        {"python": f"{__name__}:names_ada"},
    ],
)
async def test_each_way_of_checking_tells_good_from_bad(check):
    assert not await with_check(check, '{"name": "Ada"}')
    assert await with_check(check, '{"name": "Bob"}')


async def test_a_check_by_url_is_asked_and_its_words_are_the_fault():
    async def judge(asked) -> None:
        good = "Ada" in json.loads(asked.body)["answer"]
        await asked.answer({"ok": good, "message": "" if good else "names nobody"})

    async with tool_server({"/judge": judge}) as server:
        check = {"url": f"{server.url}/judge"}
        assert not await with_check(check, "Ada")
        assert await with_check(check, "Bob") == "names nobody"
    with pytest.raises(ToolError):
        await with_check(check, "the server is gone")


@pytest.mark.parametrize(
    "check", [{"pattern": "(?=a)"}, {"python": "no.such:thing"}, {"python": "json:no_such"}]
)
async def test_a_check_that_cannot_be_made_stops_the_start_and_says_which(check):
    with pytest.raises(SettingsError, match="own"):
        await with_check(check, "")


@pytest.mark.parametrize("check", [{}, {"pattern": "a", "url": "http://x"}])
async def test_a_check_has_exactly_one_way(check):
    with pytest.raises(ValueError, match="exactly one"):
        await with_check(check, "")


async def asked_with(answers: list[str], **triggers: object) -> tuple[str, list[str]]:
    """What the client got, and which models were asked, where the fast one says ``answers`` in turn."""
    models: list[str] = []

    async def say(asked, body) -> None:
        models.append(body["model"])
        await asked.answer(answers.pop(0) if body["model"] == "sim-fast" else chat_answer(GOOD))

    routing = {"fast_share": 1.0, "triggers": triggers}
    async with gateway_over(say, routing=routing) as (client, _, _running):
        answer = await client.post(CHAT, json=question("auto", logprobs=True))
    return answer.json()["choices"][0]["message"]["content"], models


async def test_a_configured_check_asks_the_fast_model_again_and_then_the_powerful_one():
    checks = [{"name": "ada", "pattern": "Ada"}]
    text, models = await asked_with(
        [chat_answer("Bob did."), chat_answer("Ada did.")], checks=checks
    )
    assert (text, models) == ("Ada did.", ["sim-fast"] * 2)
    text, models = await asked_with([chat_answer("Bob did.")] * 2, checks=checks)
    assert (text, models) == (GOOD, ["sim-fast", "sim-fast", "sim-powerful"])


async def test_an_unsure_answer_is_one_below_the_configured_log_probability():
    unsure = json.loads(chat_answer("It may have been Bob."))
    unsure["choices"][0]["logprobs"] = {"content": [{"token": "It", "logprob": -3.0}]}
    _, models = await asked_with([json.dumps(unsure)], min_mean_logprob=-1.5)
    assert models == ["sim-fast", "sim-powerful"]
    _, models = await asked_with([json.dumps(unsure)], min_mean_logprob=-4)
    assert models == ["sim-fast"]


async def test_only_the_configured_lacks_are_looked_for():
    _, models = await asked_with([chat_answer("")], lacks=["refused"])
    assert models == ["sim-fast"]
