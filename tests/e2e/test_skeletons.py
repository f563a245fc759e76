"""Answers that stand ready but for a few words, over a real upstream: by one call, by none, or not."""

from __future__ import annotations

import json

import pytest

from app.settings import loads
from tests.contract.test_settings_act import CHAT, chat_answer, gateway_over, question
from tests.support.gateway import configuration

pytestmark = pytest.mark.anyio
LETTER = {
    "name": "leave_letter",
    "pattern": r"write a leave letter for (?P<who>\w+)",
    "template": "Dear {who}, I am away because {reason}.",
    "slots": [{"name": "reason", "hint": "a polite reason", "max_chars": 40}],
    "tests": [
        {
            "input": "Write a leave letter for Ann",
            "values": {"reason": "I move"},
            "output": "Dear Ann, I am away because I move.",
        }
    ],
}
HOURS = {
    "name": "hours",
    "pattern": "when is (?P<shop>[a-z]+) open",
    "template": "{shop} is open from 9 to 5.",
    "tests": [{"input": "when is Lumo open", "output": "Lumo is open from 9 to 5."}],
}
WHOLE = "Dear Bob, this is a whole letter that a model wrote."


async def ask(
    text: str, filling: str | int, *, stream: bool = False, times: int = 1, **more: object
):
    """The client's last answer, and what was asked of the upstream."""
    sent: list[dict] = []

    async def say(asked, body) -> None:
        sent.append(body)
        if body["messages"][0]["role"] != "system":
            await asked.answer(chat_answer(WHOLE))
        elif isinstance(filling, int):
            await asked.answer({"error": {"message": "no", "type": "server_error"}}, filling)
        else:
            await asked.answer(chat_answer(filling))

    lanes = {"skeletons": [LETTER, HOURS]}
    routing = {"fast_share": 1.0}
    over = gateway_over(say, lanes=lanes, routing=routing, provider={"retries": 0})
    async with over as (client, _, _running):
        for _ in range(times):
            answer = await client.post(CHAT, json=question("auto", text, stream=stream), **more)
    return answer, sent


def text_of(answer) -> str:
    return answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "filling", ['{"reason": "I move house"}', '```json\n{"reason": "I move house"}\n```']
)
async def test_open_slots_are_filled_by_one_short_call_of_the_fast_tier(filling):
    answer, (sent,) = await ask("Write a leave letter for Bob", filling)
    assert text_of(answer) == "Dear Bob, I am away because I move house."
    assert (sent["model"], answer.headers["x-slipstream-tier"]) == ("sim-fast", "fast")
    most = sent.get("max_tokens") or sent["max_completion_tokens"]
    assert most < 100
    assert answer.headers["x-slipstream-reason"] == (
        "skeleton leave_letter: the fast model filled reason"
    )
    assert answer.json()["usage"]["completion_tokens"] > 0


async def test_a_filled_skeleton_is_streamed_to_who_asks_for_a_stream():
    answer, sent = await ask(
        "Write a leave letter for Bob", '{"reason": "I move house"}', stream=True
    )
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for line in lines for choice in json.loads(line)["choices"]]
    said = "".join(delta.get("content") or "" for delta in deltas)
    assert (said, len(sent)) == ("Dear Bob, I am away because I move house.", 1)
    assert answer.text.rstrip().endswith("data: [DONE]")


async def test_a_filled_skeleton_is_kept_as_any_answer():
    answer, sent = await ask("Write a leave letter for Bob", '{"reason": "I move house"}', times=2)
    assert text_of(answer) == "Dear Bob, I am away because I move house."
    assert (answer.headers["x-slipstream-cache"], len(sent)) == ("exact", 1)


@pytest.mark.parametrize("filling", ["I would rather not.", '{"reason": "%s"}' % ("x" * 41), 500])
async def test_slots_that_cannot_be_filled_cost_a_call_and_no_answer(filling):
    answer, sent = await ask("Write a leave letter for Bob", filling)
    assert answer.status_code == 200, answer.text
    assert (text_of(answer), len(sent)) == (WHOLE, 2)
    assert (
        "skeleton leave_letter: its slots could not be filled"
        in (answer.headers["x-slipstream-reason"])
    )


async def test_a_skeleton_without_slots_asks_no_model():
    answer, sent = await ask("When is Lumo open", 500)
    assert (text_of(answer), sent) == ("Lumo is open from 9 to 5.", [])
    assert answer.headers["x-slipstream-cache"] == "lane"


async def test_a_tier_that_is_asked_for_by_name_is_asked_and_no_skeleton():
    answer, (sent,) = await ask(
        "Write a leave letter for Bob", "{}", headers={"x-slipstream-tier": "powerful"}
    )
    assert (text_of(answer), sent["model"]) == (WHOLE, "sim-powerful")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tests": [{"input": "write a leave letter for Ann", "output": "x"}]}, "no value for"),
        ({"template": "{nobody}"}, "nobody"),
        ({"pattern": "(?P<who>x"}, "RE2"),
    ],
)
def test_a_skeleton_that_fails_its_own_test_is_told_by_check(change, said, tmp_path, capsys):
    from app import cli

    file = tmp_path / "gateway.yaml"
    values = configuration("http://127.0.0.1:9", lanes={"skeletons": [{**LETTER, **change}]})
    file.write_text(json.dumps(values))
    loads(json.dumps(values), "x.yaml", {})
    assert cli.main(["check", str(file)]) != 0
    assert said in capsys.readouterr().err
