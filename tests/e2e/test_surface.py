"""What a person and a dashboard see: models, headers, traces, savings, metrics, health; and who may ask."""

from __future__ import annotations

import re

import anthropic
import httpx2
import openai
import pytest

from app.providers.simulator import expected_answer
from tests.e2e.asking import DIALECTS, PATHS, body_of
from tests.e2e.conftest import NO_TLS
from tests.e2e.conversations import THINKER, user
from tests.support.gateway import configuration, running_gateway

pytestmark = pytest.mark.anyio
NAMES = ["auto", "small", "small2", "large", "large2", THINKER]
TIMING = re.compile(r"[a-z_]+;dur=[0-9]+(\.[0-9]+)?(, [a-z_]+;dur=[0-9]+(\.[0-9]+)?)*")


async def test_models_are_listed_in_both_vendors_forms(openai_client, anthropic_client):
    assert [model.id async for model in openai_client.models.list()] == NAMES
    assert [model.id async for model in anthropic_client.models.list()] == NAMES
    assert (await openai_client.models.retrieve("small")).owned_by == "local"
    assert (await anthropic_client.models.retrieve("small2")).type == "model"
    with pytest.raises(openai.NotFoundError):
        await openai_client.models.retrieve("none")
    with pytest.raises(anthropic.NotFoundError):
        await anthropic_client.models.retrieve("none")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_headers_say_what_answered_and_why(http, dialect, stream):
    body = body_of(dialect, "small2", "Who answers?", stream=stream)
    headers = {"x-request-id": f"my-{dialect}-{stream}", "x-slipstream-cache": "refresh"}
    said = (await http.post(PATHS[dialect], json=body, headers=headers)).headers
    assert said["x-request-id"] == f"my-{dialect}-{stream}"
    assert said["x-slipstream-cache"] == "miss"
    assert said["x-slipstream-model"] == "claude/sim-fast"
    assert said["x-slipstream-tier"] == "fast"
    assert said["x-slipstream-reason"]
    assert TIMING.fullmatch(said["server-timing"])
    assert "cache" in said["server-timing"]
    assert said["content-type"].startswith("text/event-stream" if stream else "application/json")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_auto_is_routed_and_a_tier_can_be_forced(http, dialect):
    for tier in ("fast", "powerful"):
        reply = await http.post(
            PATHS[dialect],
            json=body_of(dialect, "auto", "Compare two sorting algorithms."),
            headers={"x-slipstream-tier": tier},
        )
        assert reply.status_code == 200
        assert reply.headers["x-slipstream-tier"] == tier
        assert reply.headers["x-slipstream-model"].endswith(f"/sim-{tier}")
    free = await http.post(
        PATHS[dialect],
        json=body_of(dialect, "auto", "Name three rivers."),
        headers={"x-slipstream-cache": "refresh"},
    )
    assert free.headers["x-slipstream-tier"] in {"fast", "powerful"}
    assert "router" in free.headers["server-timing"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_lane_answers_without_a_model(http, upstream, dialect, stream):
    asked = upstream.simulator.stats.requests.total()
    reply = await http.post(
        PATHS[dialect], json=body_of(dialect, "auto", "What is 12 * 12?", stream=stream)
    )
    assert reply.status_code == 200
    assert reply.headers["x-slipstream-cache"] == "lane"
    assert "144" in reply.text
    assert upstream.simulator.stats.requests.total() == asked


async def test_traces_hold_the_waterfall_of_a_request(http):
    body = body_of("chat", "small", "Trace this", stream=True)
    reply = await http.post(PATHS["chat"], json=body, headers={"x-slipstream-cache": "refresh"})
    request_id = reply.headers["x-request-id"]
    trace = (await http.get(f"/v1/traces/{request_id}")).json()
    assert trace["request_id"] == request_id
    assert trace["status"] == 200
    assert trace["stream"] is True
    stages = [span["stage"] for span in trace["spans"]]
    assert stages[0] == "cache"
    assert {"upstream", "stream"} <= set(stages)
    assert trace["usage"]["output_tokens"] > 0
    assert trace["cost_usd"] > 0
    assert "Trace this" not in str(trace)
    newest = (await http.get("/v1/traces", params={"limit": 1})).json()["traces"]
    assert [t["request_id"] for t in newest] == [request_id]
    missing = await http.get("/v1/traces/none")
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"
    assert (await http.get("/v1/traces", params={"limit": 0})).status_code == 422


async def test_metrics_and_savings_count_what_was_served(http):
    body = body_of("chat", "small", "What does idempotent mean?")
    for _ in range(2):
        await http.post(PATHS["chat"], json=body)
    metrics = await http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "slipstream_" in metrics.text
    assert 'cache="exact"' in metrics.text or 'outcome="exact"' in metrics.text
    assert "idempotent" not in metrics.text
    savings = await http.get("/v1/savings", params={"window_s": 60})
    assert savings.status_code == 200
    assert savings.json()


async def test_health_and_the_document_of_the_surface(http):
    assert (await http.get("/livez")).status_code == 200
    ready = await http.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    paths = (await http.get("/openapi.json")).json()["paths"]
    assert {*PATHS.values(), "/v1/models", "/v1/traces", "/v1/cache/invalidate"} <= set(paths)
    assert "text/html" in (await http.get("/")).headers["content-type"]
    nowhere = await http.get("/nowhere")
    assert nowhere.status_code == 404
    assert nowhere.headers["content-type"] == "application/problem+json"


AUTH = {
    "required": True,
    "keys": [
        {"key": "gw-one", "tenant": "one"},
        {"key": "gw-two", "tenant": "two", "requests_per_minute": 2},
    ],
}


async def test_where_keys_are_required_a_stranger_is_refused_in_the_dialects_form(upstream):
    """And tenants share neither answers nor traces; a limit of requests is a 429 with retry-after."""
    values = configuration(upstream.base_url, auth=AUTH)
    async with (
        running_gateway(values) as running,
        httpx2.AsyncClient(verify=NO_TLS, base_url=running.url) as http,
    ):
        for dialect in DIALECTS:
            body = body_of(dialect, "small", "Hi")
            for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "gw-three"}):
                reply = await http.post(PATHS[dialect], json=body, headers=headers)
                assert reply.status_code == 401
                kind = reply.json()["error"]["type"]
                wanted = "authentication_error" if dialect == "messages" else None
                assert wanted in {None, kind}
        for path in ("/v1/models", "/v1/traces", "/v1/cache/stats", "/v1/savings"):
            assert (await http.get(path)).status_code == 401
        assert (await http.get("/livez")).status_code == 200
        body = body_of("chat", "small", "What does TCP mean?")
        one, two = {"authorization": "Bearer gw-one"}, {"x-api-key": "gw-two"}
        outcomes = [
            (await http.post(PATHS["chat"], json=body, headers=headers)).headers[
                "x-slipstream-cache"
            ]
            for headers in (one, one, two, two)
        ]
        assert outcomes == ["miss", "exact", "miss", "exact"]
        limited = await http.post(PATHS["chat"], json=body, headers=two)
        assert limited.status_code == 429
        assert int(limited.headers["retry-after"]) >= 1
        seen = (await http.get("/v1/traces", headers=one)).json()["traces"]
        assert {trace["tenant"] for trace in seen} == {"one"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_vendors_header_that_another_api_cannot_take_is_named(http, stream):
    """A beta that was asked for and not given; the version belongs to the form alone."""
    said = {"anthropic-version": "2026-10-21", "anthropic-beta": "context-1m", "openai-beta": "x"}
    for dialect, own, other in (("messages", "small2", "small"), ("chat", "small", "small2")):
        for model, named in ((own, None), (other, "anthropic-beta, openai-beta")):
            body = body_of(dialect, model, f"Which betas has {dialect}?", stream=stream)
            fresh = {"x-slipstream-cache": "bypass"}
            reply = await http.post(PATHS[dialect], json=body, headers={**said, **fresh})
            assert reply.status_code == 200
            assert reply.headers.get("x-slipstream-dropped") == named


@pytest.mark.parametrize("anthropic_form", [False, True])
async def test_what_goes_wrong_with_the_list_of_models_is_told_in_the_vendors_form(
    upstream, anthropic_form
):
    """As that of the endpoints beside it: an unknown name, a wrong key, a limit, another verb."""
    version = {"anthropic-version": "2023-06-01"} if anthropic_form else {}
    two = {"x-api-key": "gw-two", **version}
    async with (
        running_gateway(configuration(upstream.base_url, auth=AUTH)) as running,
        httpx2.AsyncClient(verify=NO_TLS, base_url=running.url) as http,
    ):
        wrong = [await http.get("/v1/models", headers=version)]
        wrong += [await http.put("/v1/models/small", headers=two)]
        wrong += [await http.get("/v1/models/none", headers=two) for _ in range(3)]
        assert [reply.status_code for reply in wrong] == [401, 405, 404, 404, 429]
        assert wrong[1].headers["allow"] == "GET, HEAD"
        assert int(wrong[-1].headers["retry-after"]) >= 1
        for reply in wrong:
            assert reply.headers["content-type"] == "application/json"
            said = reply.json()
            assert said["error"]["code"]
            if anthropic_form:
                assert said["type"] == "error"
                assert said["request_id"] == reply.headers["x-request-id"]
            else:
                assert set(said["error"]) == {"message", "type", "param", "code"}


async def test_the_official_packages_raise_their_own_authentication_error(upstream):
    async with (
        running_gateway(configuration(upstream.base_url, auth=AUTH)) as running,
        openai.AsyncOpenAI(
            base_url=f"{running.url}/v1",
            api_key="wrong",
            max_retries=0,
            http_client=httpx2.AsyncClient(verify=NO_TLS),
        ) as stranger,
        anthropic.AsyncAnthropic(
            base_url=running.url,
            api_key="gw-one",
            max_retries=0,
            http_client=httpx2.AsyncClient(verify=NO_TLS),
        ) as friend,
    ):
        with pytest.raises(openai.AuthenticationError):
            await stranger.chat.completions.create(model="small", messages=user("Hi"))
        answer = await friend.messages.create(model="small", max_tokens=500, messages=user("Hi"))
        assert answer.content[0].text == expected_answer("Hi", "sim-fast")


async def test_more_requests_than_may_be_in_flight_are_sent_away_for_a_moment(upstream):
    """At once, with 503 and when to come back."""
    server = {"max_inflight_requests": 1}
    async with (
        running_gateway(configuration(upstream.base_url, server=server)) as running,
        httpx2.AsyncClient(verify=NO_TLS, base_url=running.url) as http,
    ):
        running.context.edge.in_flight.now = 1
        for dialect in DIALECTS:
            reply = await http.post(PATHS[dialect], json=body_of(dialect, "small", "Hi"))
            assert reply.status_code == 503
            assert reply.headers["retry-after"] == "1"
        running.context.edge.in_flight.now = 0
        assert (
            await http.post(PATHS["chat"], json=body_of("chat", "small", "Hi"))
        ).status_code == 200
