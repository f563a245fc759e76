"""HEAD on every GET route: what GET says in its status and headers, and no body."""

from __future__ import annotations

import asyncio
import re

import httpx2
import pytest

from tests.e2e.agent.test_agent_endpoint import body, desk, two_calls
from tests.support.gateway import configuration, running_gateway
from tests.support.plain_http import NO_TLS
from tests.support.tool_server import Asked

pytestmark = pytest.mark.anyio
PATIENCE_S = 30.0
CHANGING = {"x-request-id", "date", "content-length", "transfer-encoding"}
"""Headers whose value, or presence (RFC 9110, 9.3.2), may differ; lengths are compared below."""


@pytest.mark.parametrize("native", [True, False], ids=["our protocol class", "uvicorn's"])
async def test_head_answers_as_get_without_the_body_on_every_route_of_the_table(upstream, native):
    values = configuration(upstream.base_url, server={"cors_origins": ["http://page.example"]})
    async with (
        running_gateway(values, native=native) as gateway,
        httpx2.AsyncClient(verify=NO_TLS, base_url=gateway.url, timeout=20) as client,
    ):
        await client.get("/v1/models")  # the first request of a connection
        described = gateway.app.openapi()["paths"].items()
        table = [re.sub(r"\{\w+\}", "small", path) for path, verbs in described if "get" in verbs]
        files = ["/console/console.js", "/openapi.json", "/docs", "/v1/models/unknown"]
        assert len(table) >= 15
        for path in table + files:
            got, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.content) == (got.status_code, b""), path
            assert set(head.headers) - CHANGING == set(got.headers) - CHANGING, path
            for name in set(got.headers) - CHANGING:
                assert head.headers[name] == got.headers[name], (path, name)
            if path != "/metrics" and "content-length" in got.headers:
                assert head.headers["content-length"] == got.headers["content-length"], path
        assert (await client.get("/livez")).text == "ok\n", "the connection is still in step"


async def test_a_path_without_get_refuses_head_and_one_with_get_allows_it(surface_client):
    refused = await surface_client.head("/v1/cache/invalidate")
    assert (refused.status_code, refused.headers["allow"], refused.content) == (405, "POST", b"")
    wrong = await surface_client.post("/v1/savings")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
    assert (await surface_client.post("/v1/models")).headers["allow"] == "GET, HEAD"


async def test_head_of_a_stream_that_goes_on_ends_with_its_headers():
    async def hang(asked: Asked) -> None:
        await asked.until_gone()

    detached = body(forwardedProps={"on_disconnect": "detach"})
    async with (
        desk(two_calls, a=hang, b=hang) as (gateway, tools, _),
        httpx2.AsyncClient(verify=NO_TLS, base_url=gateway.url, timeout=PATIENCE_S) as client,
    ):
        job = (await client.post("/v1/jobs", json=body("job"))).json()["id"]
        async with client.stream("POST", "/v1/agent", json=detached):
            await asyncio.wait_for(tools.arrived.get(), PATIENCE_S)
            for path in ("/v1/runs/r1/events", f"/v1/jobs/{job}/events"):
                head = await client.head(path)
                assert (head.status_code, head.content) == (200, b""), path
                assert head.headers["content-type"].startswith("text/event-stream")
            await client.post("/v1/runs/r1/cancel")
            await client.post(f"/v1/jobs/{job}/cancel")


@pytest.fixture
async def surface_client(upstream):
    """A client of a gateway with an ordinary configuration."""
    async with (
        running_gateway(configuration(upstream.base_url)) as gateway,
        httpx2.AsyncClient(verify=NO_TLS, base_url=gateway.url, timeout=20) as client,
    ):
        yield client
