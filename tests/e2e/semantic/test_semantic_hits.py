"""Hits by meaning from the outside: what is served, what never is, and what ends it."""

from __future__ import annotations

import asyncio
import json
import time
from uuid import uuid4

import pytest

from app.cache.semantic import FreshAnswer, SemanticQuery, route_name
from app.cache.stored_answer import StoredAnswer
from app.domain.invalidation import InvalidationFilter
from tests.e2e.semantic.conftest import OPEN

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(autouse=True)
async def _nothing_kept(semantic):
    await semantic.open()
    await semantic.http.post("/v1/cache/invalidate", json={"all": True})
    semantic.model.asked.clear()


CAPITAL = "What is the capital city of France?"
REWORDED = "What's the capital city of France?"


def outcome(reply) -> str:
    """How the cache served it."""
    assert reply.status_code == 200, reply.text
    return reply.headers["x-slipstream-cache"]


def text_of(reply) -> str:
    """The answer."""
    return reply.json()["choices"][0]["message"]["content"]


async def test_another_wording_is_served_the_kept_answer_and_says_why(semantic):
    semantic.model.topics = {"france": "Paris is the capital of France."}
    first = await semantic.ask(CAPITAL)
    second = await semantic.ask(REWORDED)
    assert (outcome(first), outcome(second)) == ("miss", "semantic")
    assert text_of(second) == text_of(first)
    assert second.json()["usage"]["total_tokens"] == 16
    assert second.headers["x-slipstream-reason"].startswith("score 0.")
    assert "France" not in second.headers["x-slipstream-reason"]
    assert len(semantic.model.asked) == 1
    assert "embed;dur=" in second.headers["server-timing"]


async def test_a_hit_is_told_in_the_form_that_is_asked_for(semantic):
    semantic.model.topics = {"france": "Paris is the capital of France."}
    await semantic.ask(CAPITAL)
    streamed = await semantic.ask(REWORDED, more={"stream": True})
    assert outcome(streamed) == "semantic"
    chunks = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: {")]
    said = "".join(
        c["delta"].get("content") or "" for x in chunks for c in json.loads(x)["choices"]
    )
    assert said == "Paris is the capital of France."
    assert streamed.text.rstrip().endswith("data: [DONE]")


async def test_nothing_is_served_by_meaning_before_there_is_evidence(semantic):
    route = await semantic.answers.cache.routes.load("default\x00small")
    route.state.threshold = None
    labels = route.state.labels
    first, second = await semantic.ask(CAPITAL), await semantic.ask(REWORDED)
    assert (outcome(first), outcome(second)) == ("miss", "miss")
    assert "embed" not in second.headers["server-timing"], "in shadow mode nobody waits for it"
    assert route.state.labels == labels + 2


@pytest.mark.parametrize(
    ("kept", "asked", "same", "why"),
    [
        ("Explain how a chess game of 10 minutes for each player works.",
         "Explain how a chess game of 30 minutes for each player works.",
         "Please explain how a chess game of 10 minutes for each player works.", "another number"),
        ("Explain why a strong acid is dangerous to the skin.",
         "Explain why a weak acid is dangerous to the skin.",
         "Please explain why a strong acid is dangerous to skin.", "opposite words"),
        ("Explain why copper is magnetic.", "Explain why copper is not magnetic.",
         "Please explain why copper is magnetic.", "one of the two is negated"),
        ("Explain the history of the railway in Norway.",
         "Explain the history of the railway in Sweden.",
         "Explain the railway history of Norway.", "another name"),
        ("Explain how Rome defeated Carthage at sea.", "Explain how Carthage defeated Rome at sea.",
         "Please explain how Rome defeated Carthage at sea.", "the same words in other roles"),
    ],
    ids=["number", "antonym", "negation", "name", "role"],
)  # fmt: skip
async def test_a_near_miss_is_refused_for_its_difference_and_nothing_else(
    semantic, kept, asked, same, why
):
    """The near-miss is near enough to be served, another wording is served, the difference forbids it."""
    semantic.model.topics = {}
    assert outcome(await semantic.ask(kept)) == "miss"
    near = await semantic.answers.cache.store.recall(asked, *await _partition(semantic))
    cosine = {each.question.text: each.cosine for each in near.near}[kept]
    assert cosine >= OPEN.score, "a route that scores by cosine alone would serve it"
    refused = await semantic.ask(asked)
    assert outcome(refused) == "miss"
    told = (await semantic.http.get(f"/v1/traces/{refused.headers['x-request-id']}")).json()
    assert why in told["cache"]["words"]
    assert told["cache"]["words"][-1] == "that forbids a hit at any score"
    assert semantic.model.asked == [kept, asked]
    assert outcome(await semantic.ask(same)) == "semantic", "the control: another wording is a hit"


async def _partition(semantic) -> tuple[str, int]:
    """The partition of the questions kept, and how many near ones to look at."""
    found, _ = await semantic.answers.cache.store.page("default", "", 1)
    return found[0].partition, 10


@pytest.mark.parametrize(
    "change",
    [
        {"user": "bob"},
        {"more": {"temperature": 0.3}},
        {"more": {"max_tokens": 50}},
        {"more": {"response_format": {"type": "json_object"}}},
        {"more": {"seed": 7}},
        {"history": [{"role": "system", "content": "You are a pirate."}]},
        {"history": [{"role": "user", "content": "Hello there"},
                     {"role": "assistant", "content": "Hi."}]},
        {"model": "large"},
        {"tier": "fast"},
    ],
    ids=str,
)  # fmt: skip
async def test_a_question_never_meets_one_of_another_partition(semantic, change):
    await semantic.open("large")
    assert outcome(await semantic.ask(CAPITAL)) == "miss"
    assert outcome(await semantic.ask(REWORDED, **change)) == "miss"
    assert outcome(await semantic.ask(REWORDED)) == "semantic", "the same partition does meet"


async def test_a_turn_that_needs_the_others_gets_exact_look_ups_alone(semantic):
    history = [
        {"role": "user", "content": "Who wrote the opera Aida?"},
        {"role": "assistant", "content": "Verdi."},
    ]
    before = await semantic.answers.cache.store.count()
    assert outcome(await semantic.ask("Where was he born, exactly?", history=history)) == "miss"
    assert await semantic.answers.cache.store.count() == before


async def test_a_wrong_hit_is_removed_and_not_repeated(semantic):
    await semantic.ask(CAPITAL)
    hit = await semantic.ask(REWORDED)
    assert outcome(hit) == "semantic"
    said = {"request_id": hit.headers["x-request-id"], "verdict": "wrong"}
    answered = await semantic.http.post("/v1/cache/feedback", json=said)
    assert answered.json()["removed"] is True
    route = await semantic.answers.cache.routes.load("default\x00small")
    assert any(record.wrong for record in route.state.entries.values())
    assert outcome(await semantic.ask(REWORDED)) == "miss"


@pytest.mark.parametrize("which", [{"all": True}, {"tags": ["geo"]}, {"model": "small"}], ids=str)
async def test_invalidation_is_in_force_for_the_very_next_request(semantic, which):
    await semantic.ask(CAPITAL, tags="geo,facts")
    assert outcome(await semantic.ask(REWORDED)) == "semantic"
    answered = await semantic.http.post("/v1/cache/invalidate", json=which)
    assert answered.json()["invalidated"] >= 1
    assert outcome(await semantic.ask(REWORDED)) == "miss"


async def test_another_tag_or_model_leaves_an_entry_alone(semantic):
    await semantic.ask(CAPITAL, tags="geo")
    await semantic.http.post("/v1/cache/invalidate", json={"tags": ["other"]})
    await semantic.http.post("/v1/cache/invalidate", json={"model": "large"})
    assert outcome(await semantic.ask(REWORDED)) == "semantic"


async def test_an_entry_is_described_and_forgotten_by_its_id(semantic):
    await semantic.ask(CAPITAL)
    hit = await semantic.ask(REWORDED)
    trace = (await semantic.http.get(f"/v1/traces/{hit.headers['x-request-id']}")).json()
    entry_id = trace["cache"]["entry"]
    semantic.running.context.edge.gateway.exact.remove(entry_id)
    described = (await semantic.http.get(f"/v1/cache/entries/{entry_id}")).json()
    assert described["kind"] == "semantic"
    assert described["model"] == "small"
    gone = await semantic.http.delete(f"/v1/cache/entries/{entry_id}")
    assert gone.json() == {"invalidated": 1}
    assert (await semantic.http.get(f"/v1/cache/entries/{entry_id}")).status_code == 404
    assert outcome(await semantic.ask(REWORDED)) == "miss"


async def test_only_is_answered_by_meaning_too_and_bypass_and_refresh_are_not(semantic):
    await semantic.ask(CAPITAL)
    assert outcome(await semantic.ask(REWORDED, cache="only")) == "semantic"
    assert outcome(await semantic.ask(REWORDED, cache="bypass")) == "bypass"
    assert outcome(await semantic.ask(REWORDED, cache="refresh")) == "miss"


async def test_identical_requests_that_look_at_once_still_share_one_call(semantic):
    semantic.model.topics = {"tokyo": "Tokyo has many."}
    async with asyncio.TaskGroup() as together:
        for _ in range(20):
            together.create_task(semantic.ask("How many people live in Tokyo altogether?"))
    assert len(semantic.model.asked) == 1


async def test_the_statistics_tell_mode_bound_and_evidence(semantic):
    await semantic.ask(CAPITAL)
    await semantic.ask(REWORDED)
    told = (await semantic.http.get("/v1/cache/stats")).json()["semantic"]
    route = next(r for r in told["routes"] if r["model"] == "small")
    assert told["entries"] >= 1
    assert (route["mode"], route["threshold"], route["bound_per_hit"]) == ("open", 0.75, 0.004)
    assert route["hits"] >= 1
    metrics = (await semantic.http.get("/metrics")).text
    assert 'slipstream_semantic_looks_total{outcome="hit"}' in metrics


async def test_what_is_kept_by_meaning_is_listed_page_by_page_and_can_be_called_wrong(semantic):
    await semantic.http.post("/v1/cache/invalidate", json={"all": True})
    await semantic.ask(CAPITAL)
    await semantic.ask("How does a heat pump work in winter?")
    found, after = [], ""
    for _ in range(2):
        query = {"kind": "semantic", "limit": 1, "after": after}
        told = (await semantic.http.get("/v1/cache/entries", params=query)).json()
        found += told["entries"]
        after = told["next"]
    assert after == ""
    assert len({entry["id"] for entry in found}) == len(found) == 2
    assert {(entry["kind"], entry["model"]) for entry in found} == {("semantic", "small")}
    assert "heat pump" not in json.dumps(found)
    gone = {"entry_id": found[0]["id"], "verdict": "wrong"}
    assert (await semantic.http.post("/v1/cache/feedback", json=gone)).json()["removed"] is True
    left = (await semantic.http.get("/v1/cache/entries?kind=semantic")).json()["entries"]
    assert [entry["id"] for entry in left] == [found[1]["id"]]


async def test_what_began_before_an_invalidation_is_not_kept_however_many_came_since(semantic):
    cache, now_s = semantic.answers.cache, time.time()
    kept = StoredAnswer(
        group="", text="30 days.", finish="stop", model="topical", tier="", request_id="r-1",
        route=route_name("default", "small"),
    )  # fmt: skip
    for named in ("tag", "entry"):
        asked = SemanticQuery(
            uuid4().hex, "ab" * 32, kept.route, f"How long is the {named}?", "default", now_s
        )
        what = {"tags": ("gone",)} if named == "tag" else {"entry_id": asked.entry_id}
        cache.block(InvalidationFilter("default", **what))
        for number in range(600):
            other = {"tags": (f"t{number}",)} if named == "tag" else {"entry_id": uuid4().hex}
            cache.block(InvalidationFilter("default", **other))
        await cache.import_answer(asked, FreshAnswer(kept, "small", ("gone",), 60.0))
        assert await cache.store.fetch(asked.entry_id) is None
