"""The list of what is kept: paged, by tenant, without words unless the operator wants them shown."""

from __future__ import annotations

import json

import httpx2
import pytest

from tests.contract.test_settings_act import CHAT, chat_answer, gateway_over, question
from tests.support.tool_server import Asked

pytestmark = pytest.mark.anyio
ENTRIES = "/v1/cache/entries"
SECRET = "The word is heliotrope."
AUTH = {
    "required": True,
    "keys": [
        {"key": "gw-one", "tenant": "one"},
        {"key": "gw-two", "tenant": "two"},
        {"key": "gw-admin", "tenant": "one", "admin": True},
    ],
}


async def says(asked: Asked, _: dict) -> None:
    await asked.answer(json.loads(chat_answer(SECRET)))


async def ask(client: httpx2.AsyncClient, text: str, **headers: str) -> str:
    """How the cache served one question."""
    answer = await client.post(CHAT, json=question(text=text), headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-slipstream-cache"]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_pages_hold_every_entry_once_newest_first() -> None:
    async with gateway_over(says) as (client, _, _running):
        for number in range(7):
            await ask(client, f"Question {number}?", **{"x-slipstream-tags": f"t{number}"})
        await ask(client, "Question 3?")
        pages, after = [], ""
        while not pages or after:
            told = (await client.get(ENTRIES, params={"limit": 3, "after": after})).json()
            pages.append(told["entries"])
            after = told["next"]
        found = [entry for page in pages for entry in page]
        assert [len(page) for page in pages] == [3, 3, 1]
        assert sorted(entry["tags"][0] for entry in found) == [f"t{n}" for n in range(7)]
        kept = [entry["kept_unix_ms"] for entry in found]
        assert kept == sorted(kept, reverse=True)
        assert {entry["tags"][0]: entry["hits"] for entry in found}["t3"] == 1
        assert all(entry["model"] == "small" and entry["request_id"] for entry in found)


async def test_an_entry_is_its_tenant_s_alone() -> None:
    async with gateway_over(says, auth=AUTH) as (client, _, _running):
        await ask(client, "Mine?", **bearer("gw-one"))
        assert (await client.get(ENTRIES)).status_code == 401
        assert (await client.get(ENTRIES, headers=bearer("gw-two"))).json()["entries"] == []
        (mine,) = (await client.get(ENTRIES, headers=bearer("gw-one"))).json()["entries"]
        verdict = {"entry_id": mine["id"], "verdict": "wrong"}
        said = await client.post("/v1/cache/feedback", json=verdict, headers=bearer("gw-two"))
        assert said.status_code == 404
        assert await ask(client, "Mine?", **bearer("gw-one")) == "exact"


@pytest.mark.parametrize("show", [False, True])
async def test_words_are_shown_to_admins_where_the_operator_wants_it(show) -> None:
    async with gateway_over(says, auth=AUTH, cache={"show_text": show}) as (client, _, _running):
        await ask(client, "Which word?", **bearer("gw-one"))
        plain = await client.get(ENTRIES, headers=bearer("gw-one"))
        admin = await client.get(ENTRIES, headers=bearer("gw-admin"))
        assert "heliotrope" not in plain.text
        assert ("heliotrope" in admin.text) is show
        assert "text" not in plain.json()["entries"][0]


async def test_an_entry_that_is_called_wrong_is_not_given_again() -> None:
    async with gateway_over(says) as (client, _, _running):
        await ask(client, "Right or wrong?")
        (entry,) = (await client.get(ENTRIES)).json()["entries"]
        verdict = {"entry_id": entry["id"], "verdict": "right"}
        said = await client.post("/v1/cache/feedback", json=verdict)
        assert said.json() == {**verdict, "removed": False}
        assert await ask(client, "Right or wrong?") == "exact"
        said = await client.post("/v1/cache/feedback", json={**verdict, "verdict": "wrong"})
        assert said.json()["removed"] is True
        assert (await client.get(ENTRIES)).json() == {"entries": [], "next": ""}
        assert await ask(client, "Right or wrong?") == "miss"


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "kind=other", "after=x", "after=1-", "after=-" + "0" * 32]
)
async def test_a_query_that_makes_no_sense_is_refused(query) -> None:
    async with gateway_over(says) as (client, _, _running):
        wanted = 400 if query.startswith("after") else 422
        assert (await client.get(f"{ENTRIES}?{query}")).status_code == wanted


async def test_a_verdict_names_a_request_or_an_entry() -> None:
    async with gateway_over(says) as (client, _, _running):
        for named in ({}, {"request_id": "a", "entry_id": "b"}):
            said = await client.post("/v1/cache/feedback", json={**named, "verdict": "wrong"})
            assert said.status_code == 422
        gone = {"entry_id": "0" * 32, "verdict": "wrong"}
        assert (await client.post("/v1/cache/feedback", json=gone)).status_code == 404


async def test_without_hits_by_meaning_their_list_says_so() -> None:
    async with gateway_over(says) as (client, _, _running):
        told = await client.get(f"{ENTRIES}?kind=semantic")
        assert told.status_code == 404
        assert "cache.semantic.enabled" in told.json()["detail"]
