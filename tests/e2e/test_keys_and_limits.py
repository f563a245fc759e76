"""Keys and their limits over HTTP: who gets in, who is turned away and how that is told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from app.domain.access import Access, Limits
from app.stores.key_file import KeyFile
from tests.contract.test_settings_act import chat_answer, gateway_over
from tests.support.gateway import Running, configuration, running_gateway
from tests.support.tool_server import Asked, ToolServer

pytestmark = pytest.mark.anyio
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
ADMIN_ONLY = [("GET", "/metrics"), ("GET", "/v1/savings"), ("GET", "/v1/speculation")]


@dataclass
class House:
    """A gateway with an upstream, a store of keys, and a client."""

    http: httpx2.AsyncClient
    upstream: ToolServer
    running: Running
    keys: KeyFile

    async def ask(self, key: str | None, model: str = "small", text: str = "Hi", **more: object):
        """Ask for a chat answer with ``key``."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return await self.http.post(CHAT, json=body, headers=headers)


@asynccontextmanager
async def house(tmp_path: Path, **sections: object) -> AsyncIterator[House]:
    async def say(asked: Asked, _: dict) -> None:
        await asked.answer(chat_answer("This is the answer, as it was asked for."))

    state = {"data_dir": str(tmp_path)}
    async with gateway_over(say, state=state, **sections) as (http, upstream, running):
        yield House(http, upstream, running, KeyFile(tmp_path / "keys"))


async def test_a_key_works_as_soon_as_it_is_made_and_not_once_it_is_revoked(tmp_path):
    async with house(tmp_path, auth={"required": True}) as it:
        assert (await it.ask(None)).status_code == 401
        key, access = it.keys.create(Access("", "acme"))
        assert (await it.ask(key)).status_code == 200
        second, _ = it.keys.rotate(access.id, 60)
        assert (await it.ask(key)).status_code == (await it.ask(second)).status_code == 200
        it.keys.revoke(access.id)
        refused = await it.ask(key)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "revoked_api_key"
        assert (await it.ask(second)).status_code == 200


async def test_a_key_asks_only_for_what_it_is_scoped_to(tmp_path):
    async with house(tmp_path) as it:
        key, _ = it.keys.create(Access("", "acme", models=frozenset({"small"}), agents=frozenset()))
        assert (await it.ask(key)).status_code == 200
        for model in ("large", "auto", "agent/any"):
            refused = await it.ask(key, model)
            assert refused.status_code == 403
            assert refused.json()["error"]["code"] == "model_not_allowed"
        listed = await it.http.get("/v1/models", headers={"x-api-key": key})
        assert [model["id"] for model in listed.json()["data"]] == ["small"]
        assert (
            await it.http.get("/v1/models/large", headers={"x-api-key": key})
        ).status_code == 404
        counted = {"model": "large", "messages": [{"role": "user", "content": "Hi"}]}
        reply = await it.http.post(
            f"{MESSAGES}/count_tokens", json=counted, headers={"x-api-key": key}
        )
        assert reply.status_code == 403


async def test_what_concerns_all_tenants_takes_an_admin_key_once_there_is_any_key(tmp_path):
    async with house(tmp_path) as it:
        for method, path in ADMIN_ONLY:
            assert (await it.http.request(method, path)).status_code == 200
        plain, _ = it.keys.create(Access("", "acme"))
        admin, _ = it.keys.create(Access("", "acme", admin=True))
        for method, path in ADMIN_ONLY:
            statuses = [
                (await it.http.request(method, path, headers=headers)).status_code
                for headers in ({}, {"x-api-key": plain}, {"x-api-key": admin})
            ]
            assert statuses == [401, 403, 200], path
        halted = await it.http.post("/v1/speculation?halted=true", headers={"x-api-key": plain})
        assert halted.status_code == 403


@pytest.mark.parametrize("stream", [False, True])
async def test_a_limit_is_told_before_it_is_met_and_when_it_is(tmp_path, stream):
    async with house(tmp_path) as it:
        limits = Limits(requests_per_minute=2, tokens_per_minute=100_000)
        key, _ = it.keys.create(Access("", "acme", limits=limits))
        first = await it.ask(key, stream=stream)
        assert first.status_code == 200
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert int(first.headers["x-ratelimit-remaining-tokens"]) < 100_000
        await it.ask(key, stream=stream)
        refused = await it.ask(key, stream=stream)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert (await it.ask(None)).headers.get("x-ratelimit-limit-requests") is None
        family = it.running.context.telemetry.metrics.guards.limited
        assert {label: cell.value for label, cell in family._children.items()} == {
            ("requests_per_minute",): 1
        }


async def test_an_anthropic_client_reads_its_own_headers(tmp_path):
    async with house(tmp_path, limits={"default": {"requests_per_minute": 1}}) as it:
        body = {"model": "small", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
        good, refused = [await it.http.post(MESSAGES, json=body) for _ in range(2)]
        assert good.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert "retry-after" in refused.headers


async def test_a_budget_is_spent_by_calls_and_outlives_the_gateway(tmp_path):
    limits = {"tenants": {"acme": {"usd_per_month": 1e-9}}}
    auth = {"keys": [{"key": "gw", "tenant": "acme"}]}
    async with house(tmp_path, limits=limits, auth=auth) as it:
        assert (await it.ask("gw")).status_code == 200
        refused = await it.ask("gw", text="Another")
        assert refused.json()["error"]["code"] == "budget_exceeded"
        assert (await it.ask(None)).status_code == 200
        assert len(it.upstream.asked) == 2
    async with house(tmp_path, limits=limits, auth=auth) as it:
        assert (await it.ask("gw")).status_code == 429
        assert not it.upstream.asked


async def test_requests_at_once_are_limited_and_a_place_is_free_when_its_client_leaves():
    go = asyncio.Event()

    async def wait(asked: Asked, _: dict) -> None:
        await go.wait()
        await asked.answer(chat_answer("Here it is, late as it may be."))

    auth = {"keys": [{"key": "gw", "tenant": "acme", "concurrent_requests": 1}]}
    async with gateway_over(wait, auth=auth) as (http, upstream, running):
        body = {"model": "small", "messages": [{"role": "user", "content": "Hi"}]}
        headers = {"x-api-key": "gw"}
        in_flight = running.context.edge.in_flight

        async def ask():
            return await http.post(CHAT, json=body, headers=headers)

        async with asyncio.TaskGroup() as group:
            first = group.create_task(ask())
            await upstream.arrived.get()
            refused = await ask()
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            first.cancel()
        while in_flight.now:  # noqa: ASYNC110 - a count has no event; no time is measured
            await asyncio.sleep(0)
        go.set()
        assert (await ask()).status_code == 200


async def test_a_request_that_is_refused_for_its_body_gives_its_place_back(tmp_path):
    auth = {"keys": [{"key": "gw", "tenant": "acme", "concurrent_requests": 1}]}
    async with house(tmp_path, auth=auth) as it:
        for _ in range(3):
            bad = await it.http.post(CHAT, content=b"{", headers={"x-api-key": "gw"})
            assert bad.status_code == 400
            assert (await it.ask("gw", "nobody")).status_code == 404
        assert (await it.ask("gw")).status_code == 200


async def test_a_tool_outside_a_keys_scope_is_not_called_for_it(upstream, tmp_path):
    """Nor is an answer that was made with it given to that key."""
    from tests.support.tool_server import tool_server

    async def ticket(asked: Asked) -> None:
        await asked.answer({"state": "open"})

    async with tool_server({"/tickets/T-1": ticket}) as tools:
        parameters = {"type": "object", "properties": {"id": {"type": "string"}}}
        tool = {
            "name": "get_ticket",
            "description": "Look up a ticket.",
            "http": {"method": "GET", "url": f"{tools.url}/tickets/{{id}}"},
            "parameters": {**parameters, "required": ["id"]},
            "cache_ttl_s": 60,
            "effects": {"read_only": True, "repeatable": True},
        }
        workflow = {"nodes": [{"id": "t", "tool": "get_ticket", "arguments": {"id": "T-1"}}]}
        agent = {"name": "desk", "tools": ["get_ticket"], "workflow": workflow["nodes"]}
        values = configuration(
            upstream.base_url, tools=[tool], agents=[agent], state={"data_dir": str(tmp_path)}
        )
        async with (
            running_gateway(values) as running,
            httpx2.AsyncClient(verify=NO_TLS, base_url=running.url, timeout=30) as http,
        ):
            keys = KeyFile(tmp_path / "keys")
            full, _ = keys.create(Access("", "acme"))
            bare, _ = keys.create(Access("", "acme", tools=frozenset()))
            body = {"model": "agent/desk", "messages": [{"role": "user", "content": "T-1?"}]}
            await http.post(CHAT, json=body, headers={"x-api-key": full})
            asked = len(tools.asked)
            assert asked >= 1
            await http.post(CHAT, json=body, headers={"x-api-key": bare})
            assert len(tools.asked) == asked
