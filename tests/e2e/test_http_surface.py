"""The HTTP surface: every endpoint, its verbs, shapes of errors, ids, and pages of other origins."""

from __future__ import annotations

import re

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import ModelInfo
from openai.types import Model

from tests.e2e.asking import DIALECTS, PATHS, body_of
from tests.e2e.conversations import user
from tests.support.gateway import configuration, running_gateway
from tests.support.official_clients import anthropic_at, openai_at
from tests.support.plain_http import NO_TLS

pytestmark = pytest.mark.anyio
PAGE = "http://page.example"
SURFACE = """
POST /v1/chat/completions, POST /v1/responses, POST /v1/messages, POST /v1/messages/count_tokens,
GET /v1/models, GET /v1/models/{id}, POST /v1/agent, GET /v1/runs/{id}, GET /v1/runs/{id}/events,
POST /v1/runs/{id}/cancel, POST /v1/jobs, GET /v1/jobs/{id}, GET /v1/jobs/{id}/events,
POST /v1/jobs/{id}/cancel, GET /v1/cache/stats, GET /v1/cache/entries/{id}, DELETE /v1/cache/entries/{id},
POST /v1/cache/invalidate, POST /v1/cache/feedback, POST /v1/feedback, POST /v1/prompts/lint,
POST /v1/prompts/warm, GET /v1/traces, GET /v1/traces/{id}, GET /v1/savings, GET /, GET /metrics, GET /livez,
GET /readyz
"""
INFERENCE = (*PATHS.values(), "/v1/messages/count_tokens", "/v1/agent")
SAID = {"model": "small", "max_tokens": 9, "input": "Hi", "messages": user("Hi")}


@pytest.fixture(scope="module")
async def running(upstream):
    values = configuration(
        upstream.base_url, server={"cors_origins": [PAGE], "max_body_bytes": 5000}
    )
    async with running_gateway(values) as gateway:
        yield gateway


@pytest.fixture(scope="module")
async def surface(running):
    async with httpx2.AsyncClient(verify=NO_TLS, base_url=running.url, timeout=20) as client:
        yield client


async def test_every_endpoint_stands_in_the_openapi_document_with_its_verb(surface):
    paths = (await surface.get("/openapi.json")).json()["paths"]
    there = {
        f"{verb.upper()} {re.sub('{[a-z_]+}', '{id}', path)}"
        for path, verbs in paths.items()
        for verb in verbs
    }
    assert {each.strip() for each in SURFACE.split(",")} <= there


@pytest.mark.parametrize("verb", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", INFERENCE)
async def test_another_verb_is_told_which_one_is_taken_in_the_dialects_form(surface, path, verb):
    reply = await surface.request(verb, path)
    assert reply.status_code == 405
    assert reply.headers["allow"] == "POST"
    assert reply.headers["x-request-id"]
    if verb == "HEAD":
        assert reply.content == b""
        return
    said = reply.json()
    code = said["code"] if path == "/v1/agent" else said["error"]["code"]
    assert code == "method_not_allowed"
    assert (said.get("type") == "error") is path.startswith("/v1/messages")


async def test_models_are_whole_in_the_types_of_both_packages(surface):
    """The packages do not check what they read: a field that is missing fails in the client's own code."""
    for model in (await surface.get("/v1/models")).json()["data"]:
        Model.model_validate(model, strict=True)
    version = {"anthropic-version": "2026-10-21"}
    for model in (await surface.get("/v1/models", headers=version)).json()["data"]:
        assert ModelInfo.model_validate(model).lifecycle == "active"


async def test_the_anthropic_package_pages_through_the_models(running):
    async with anthropic_at(running.url) as client:
        every = [model.id for model in (await client.models.list()).data]
        assert len(every) > 4
        assert [model.id async for model in client.models.list(limit=2)] == every
        page = await client.models.list(limit=2, after_id=every[0])
        assert ([each.id for each in page.data], page.has_more) == (every[1:3], True)
        page = await client.models.list(limit=2, before_id=every[3])
        assert ([each.id for each in page.data], page.has_more) == (every[1:3], True)
        page = await client.models.list(limit=1000, after_id=every[-1])
        assert (page.data, page.has_more, page.first_id) == ([], False, None)
        for wrong in ({"limit": 0}, {"limit": 1001}, {"after_id": "none"}, {"before_id": "none"}):
            with pytest.raises(anthropic.BadRequestError) as refused:
                await client.models.list(**wrong)
            assert refused.value.body["error"]["param"] == next(iter(wrong))


async def test_a_vendors_endpoint_that_is_not_here_is_a_404_in_the_vendors_form(running):
    """The packages show the message, which names the path."""
    async with openai_at(running.url) as chat, anthropic_at(running.url) as claude:
        for call, path in (
            (chat.embeddings.create(model="small", input="x"), "/v1/embeddings"),
            (chat.batches.list(), "/v1/batches"),
            (chat.responses.retrieve("resp_1"), "/v1/responses/resp_1"),
            (chat.chat.completions.retrieve("one"), "/v1/chat/completions/one"),
        ):
            with pytest.raises(openai.NotFoundError) as missing:
                await call
            told = (missing.value.code, missing.value.type)
            assert told == ("not_found", "invalid_request_error")
            assert path in str(missing.value)
            assert missing.value.request_id
        for call, path in (
            (claude.messages.batches.list(), "/v1/messages/batches"),
            (claude.beta.files.list(), "/v1/files"),
        ):
            with pytest.raises(anthropic.NotFoundError) as missing:
                await call
            body = missing.value.body
            assert body["error"]["type"] == "not_found_error"
            assert path in body["error"]["message"]
            assert body["request_id"] == missing.value.request_id


async def test_what_is_missing_in_a_family_of_our_own_is_a_problem_document(surface):
    paths = (await surface.get("/openapi.json")).json()["paths"]
    families = {path.split("/")[2] for path in paths if path.startswith("/v1/")}
    for family in families - {"chat", "responses", "messages", "models"}:
        reply = await surface.get(f"/v1/{family}/not/here/at/all")
        assert reply.status_code == 404
        assert reply.headers["content-type"] == "application/problem+json", family


async def test_the_anthropic_package_knows_the_request_id_of_an_error(running):
    """It reads ``request-id``, which no gateway's own error had."""
    async with anthropic.AsyncAnthropic(
        base_url=running.url,
        api_key="x",
        max_retries=0,
        http_client=httpx2.AsyncClient(verify=NO_TLS),
    ) as client:
        calls = (
            client.messages.create(model="none", max_tokens=9, messages=user("Hi")),
            client.messages.create(
                model="small", max_tokens=9, messages=user("Hi"), extra_body={"top_k": 3}
            ),
            client.messages.create(model="small", max_tokens=-1, messages=user("Hi")),
            client.messages.count_tokens(model="none", messages=user("Hi")),
            client.models.retrieve("none"),
        )
        for call in calls:
            with pytest.raises(anthropic.APIStatusError) as refused:
                await call
            body = refused.value.body
            assert isinstance(body, dict)
            assert refused.value.request_id == body["request_id"]
            assert refused.value.request_id == refused.value.response.headers["x-request-id"]


async def test_the_anthropic_package_knows_the_request_id_of_every_answer(running):
    """The vendor's own where there is one; ours from a cache, a lane, or a model of another API."""
    async with anthropic_at(running.url) as client:
        ids = []
        for model, question in (("small", "Whose id?"), ("small2", "Whose id?"), ("auto", "2 + 2")):
            said = {"model": model, "max_tokens": 900, "messages": user(question)}
            for wishes in ({}, {}, {}, {"x-slipstream-tags": "a"}):  # a miss, then hits
                whole = await client.messages.with_raw_response.create(**said, extra_headers=wishes)
                ids.append(whole.headers.get_list("request-id"))
                async with client.messages.stream(**said, extra_headers=wishes) as stream:
                    await stream.get_final_message()
                ids.append(stream.response.headers.get_list("request-id"))
        counted = await client.messages.with_raw_response.count_tokens(
            model="small", messages=user("Hi")
        )
        ids.append(counted.headers.get_list("request-id"))
        assert [len(each) for each in ids] == [1] * len(ids)
        assert len({each[0] for each in ids}) == len(ids)


async def test_an_error_of_the_gateways_own_has_one_request_id(running, script):
    """Also after the vendor's answer, whose own id was sent beside it."""
    async with anthropic_at(running.url) as client:
        for stream in (False, True):
            script("garbage", "garbage")
            with pytest.raises(anthropic.InternalServerError) as refused:
                await client.messages.create(
                    model="small2", max_tokens=9, messages=user("Broken?"), stream=stream
                )
            assert refused.value.body["request_id"] == refused.value.request_id


async def test_the_openai_package_knows_the_request_id_of_answers_and_errors(running):
    async with openai.AsyncOpenAI(
        base_url=f"{running.url}/v1", api_key="x", max_retries=0,
        http_client=httpx2.AsyncClient(verify=NO_TLS),
    ) as client:  # fmt: skip
        answer = await client.chat.completions.create(
            model="small", messages=user("Hi"), extra_headers={"x-request-id": "mine-1"}
        )
        assert answer._request_id == "mine-1"
        with pytest.raises(openai.NotFoundError) as refused:
            await client.responses.create(model="none", input="Hi")
        assert refused.value.request_id
        assert refused.value.code == "model_not_found"


@pytest.mark.parametrize("presented", [b"bad id", b"x" * 129, b"", "né".encode(), b"a\tb"])
async def test_a_request_id_that_is_not_well_formed_is_replaced_by_ours(surface, presented):
    for path, body in ((PATHS["chat"], SAID), ("/v1/traces", None)):
        headers = {"x-request-id": presented}
        if body is None:
            reply = await surface.get(path, headers=headers)
        else:
            reply = await surface.post(path, json=body, headers=headers)
        assert re.fullmatch(r"req_[0-9a-f]+\d+", reply.headers["x-request-id"])


@pytest.mark.parametrize("path", [*INFERENCE, "/v1/models", "/v1/traces", "/v1/cache/invalidate"])
async def test_a_page_of_a_named_origin_may_ask_and_read_and_no_other(surface, path):
    wanted = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,anthropic-version,x-stainless-os",
    }
    allowed = await surface.options(path, headers={"origin": PAGE, **wanted})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert "x-stainless-os" in allowed.headers["access-control-allow-headers"]
    stranger = await surface.options(path, headers={"origin": "http://evil.example", **wanted})
    assert "access-control-allow-origin" not in stranger.headers
    read = await surface.post(path, json=SAID, headers={"origin": PAGE})
    assert read.headers["access-control-allow-origin"] == PAGE
    shown = read.headers["access-control-expose-headers"]
    assert {"x-request-id", "server-timing", "retry-after"} <= set(shown.split(", "))


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_body_over_the_limit_is_the_dialects_own_413(surface, dialect):
    body = body_of(dialect, "small", "why? " * 2000)
    reply = await surface.post(PATHS[dialect], json=body)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "request_too_large"
    if dialect == "messages":
        assert reply.json()["error"]["type"] == "request_too_large"
    assert (
        await surface.post(PATHS[dialect], json=body_of(dialect, "small", "x"))
    ).status_code == 200
