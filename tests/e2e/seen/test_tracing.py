"""With an OTLP endpoint a request's spans arrive at a collector, and the upstream sees the same trace."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.support.gateway import configuration, running_gateway
from tests.support.otlp import running_collector
from tests.support.scripted_model import Speaking, scripted_model

pytestmark = pytest.mark.anyio
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def answer(speaking: Speaking) -> None:
    """Say a word."""
    await speaking.text("a friend")
    await speaking.finish()


async def asked(*, spans: bool, **headers: str):
    """Ask once, streamed; the headers that the upstream was sent, and the spans that came."""
    with running_collector() as collector:
        telemetry = {"log_level": "error", **({"otlp_endpoint": collector.url} if spans else {})}
        async with (
            scripted_model(answer) as upstream,
            running_gateway(configuration(upstream.url, telemetry=telemetry)) as gateway,
            httpx.AsyncClient(base_url=gateway.url) as client,
        ):
            body = {
                "model": "small",
                "stream": True,
                "messages": [{"role": "user", "content": "Who goes there?"}],
            }
            said = await client.post("/v1/chat/completions", json=body, headers=headers)
            assert said.status_code == 200
            came = await asyncio.to_thread(collector.wait_for, 3) if spans else []
        return upstream.asked[-1].headers, came


async def test_the_spans_arrive_and_the_upstream_joins_the_same_trace() -> None:
    sent, spans = await asked(spans=True, traceparent=CALLER)
    by_name = {span.name: span for span in spans}
    assert {"chat small", "cache"} <= set(by_name)
    _, trace_id, span_id, _ = sent["traceparent"].split("-")
    assert trace_id == CALLER.split("-")[1]
    client_span = next(span for span in spans if span.kind == span.SPAN_KIND_CLIENT)
    assert client_span.span_id.hex() == span_id


async def test_without_an_endpoint_the_caller_s_trace_travels_on_as_it_came() -> None:
    sent, _ = await asked(spans=False, traceparent=CALLER, tracestate="vendor=1")
    assert sent["traceparent"] == CALLER
    assert sent["tracestate"] == "vendor=1"
    sent, _ = await asked(spans=False)
    assert "traceparent" not in sent
