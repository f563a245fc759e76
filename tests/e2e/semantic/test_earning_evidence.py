"""From nothing to hits: a route gathers labels from its traffic, certifies a threshold, then serves."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from tests.e2e.semantic.conftest import PATIENCE_S, PLAIN, Semantic, TopicModel
from tests.support.gateway import configuration, running_gateway
from tests.support.tool_server import tool_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(180)]

TOPICS = {
    "photosynthesis": "Plants turn light into sugar.",
    "gravity": "Masses attract each other.",
    "inflation": "Prices rise over time.",
    "evaporation": "Liquid becomes vapour below boiling.",
    "erosion": "Wind and rivers wear rock away.",
    "friction": "Surfaces resist sliding.",
    "democracy": "Citizens elect their rulers.",
    "osmosis": "Solvent crosses a membrane.",
    "magnetism": "Moving charges pull iron.",
    "fermentation": "Yeast makes alcohol from must.",
    "recursion": "A function calls itself.",
    "symmetry": "A shape equals its mirror image.",
}
WORDINGS = (
    "What does {} mean?", "What is the meaning of {}?", "Explain what {} is.",
    "Define {} in a sentence.", "Explain the term {}.", "What does the term {} mean?",
    "Describe what {} means.", "What does the word {} mean?", "Explain {} in a sentence.",
    "Explain the meaning of {}.", "Describe {} in a sentence.", "Define the word {}.",
    "Define the term {}.", "Explain what {} means.",
)  # fmt: skip


async def test_a_route_earns_its_hits():
    model = TopicModel(dict(TOPICS))
    cache = {"semantic": {"enabled": True, "max_error_rate": 0.05, "audit_rate": 0.0}}
    async with (
        tool_server({"/v1/chat/completions": model.answer}) as upstream,
        running_gateway(configuration(upstream.url, cache=cache)) as running,
        httpx2.AsyncClient(verify=PLAIN, base_url=running.url, timeout=60) as http,
    ):
        semantic = Semantic(running, http, model)
        await semantic.there()
        semantic.answers.cache.budget_s = 10.0
        semantic.answers.max_per_s = 1e9
        for wording in WORDINGS[:-2]:
            for topic in TOPICS:
                reply = await semantic.ask(wording.format(topic))
                route = await semantic.answers.cache.routes.load("default\x00small")
                if route.state.mode == "shadow":
                    assert reply.headers["x-slipstream-cache"] == "miss"
        assert route.state.labels >= 120, "most of these are of a lasting kind"
        assert route.state.mode == "open", "labels without a wrong one certify 5 %"

        asked, hits = len(model.asked), 0
        for wording in WORDINGS[-2:]:
            for topic, answer in TOPICS.items():
                reply = await semantic.ask(wording.format(topic))
                hits += reply.headers["x-slipstream-cache"] == "semantic"
                assert reply.json()["choices"][0]["message"]["content"] == answer
        assert hits >= len(TOPICS)
        assert len(model.asked) - asked == 2 * len(TOPICS) - hits
        told = (await http.get("/v1/cache/stats")).json()["semantic"]["routes"][0]
        assert told["hits"] >= hits
        assert told["bound_per_request"] <= told["limit_per_request"] == 0.05
        await asyncio.wait_for(semantic.answers.drained(), PATIENCE_S)
