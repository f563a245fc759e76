"""Verdicts on answers teach the router, live, against the simulated models."""

from __future__ import annotations

import httpx
import pytest

from app.providers.simulator import SimulatorSettings, running_simulator
from tests.support.gateway import Running, configuration, running_gateway

pytestmark = pytest.mark.anyio

HARD = "Prove that the sum of {a} and {b} over the integers modulo {a} is invariant, step by step."
EASY = "Say a friendly word about the town of number {a}{b}."


async def ask(client: httpx.AsyncClient, text: str, **headers: str) -> httpx.Response:
    """One routed request."""
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    response = await client.post("/v1/chat/completions", json=body, headers=headers)
    assert response.status_code == 200
    return response


async def say(client: httpx.AsyncClient, request_id: str, verdict: str) -> httpx.Response:
    """Give a verdict."""
    return await client.post("/v1/feedback", json={"request_id": request_id, "verdict": verdict})


async def test_verdicts_teach_the_router_which_questions_need_the_powerful_model() -> None:
    """After labels, hard questions score above easy ones by a clear margin, and the trace says so."""
    async with (
        running_simulator(SimulatorSettings(time_scale=0)) as upstream,
        running_gateway(configuration(upstream)) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=60) as client,
    ):
        teacher = gateway.context.edge.gateway.router_trainer
        for number in range(130):
            for kind, verdict in ((HARD, "bad"), (EASY, "good")):
                text = kind.format(a=number + 3, b=number * 7 + 1)
                answer = await ask(client, text)
                if answer.headers["x-slipstream-tier"] == "fast":
                    label = await say(client, answer.headers["x-request-id"], verdict)
                    assert label.json()["label"] == "learned"
                    await teacher.drained()
        assert teacher.learner.champion is not None
        hard = await score_of(gateway, client, HARD.format(a=901, b=17))
        easy = await score_of(gateway, client, EASY.format(a=901, b=17))
        assert hard > easy + 0.2


async def score_of(gateway: Running, client: httpx.AsyncClient, text: str) -> float:
    """The router's score of a question, from the trace of asking it."""
    answer = await ask(client, text)
    trace = gateway.context.telemetry.traces.get(answer.headers["x-request-id"])
    assert trace is not None
    assert isinstance(trace["complexity"], float)
    return trace["complexity"]


async def test_a_verdict_on_what_nobody_routed_or_remembers_is_told_so() -> None:
    """A forced tier is no label; an unknown request is a 404."""
    async with (
        running_simulator(SimulatorSettings(time_scale=0)) as upstream,
        running_gateway(configuration(upstream)) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=60) as client,
    ):
        forced = await ask(client, "Why is the sea salt?", **{"x-slipstream-tier": "fast"})
        label = await say(client, forced.headers["x-request-id"], "bad")
        assert label.json()["label"] == "not routed"
        routed = await ask(client, "Why is the sea blue?")
        first = await say(client, routed.headers["x-request-id"], "bad")
        assert first.json()["label"] in {"learned", "no label"}
        second = await say(client, routed.headers["x-request-id"], "bad")
        assert second.json()["label"] == "known already"
        unknown = await say(client, "req_nobody", "bad")
        assert unknown.status_code == 404
        wrong = await say(client, "req_nobody", "meh")
        assert wrong.status_code == 422
