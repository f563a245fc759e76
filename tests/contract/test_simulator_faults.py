"""Every fault does to a real socket what its name says, and the simulator lives on."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import AsyncIterator

import anthropic
import httpx2
import openai
import orjson
import pytest
from openai import AsyncOpenAI

from app.providers.simulator import (
    SimulatorSettings,
    built_in_profiles,
    expected_answer,
    running_simulator,
)
from app.providers.simulator.faults import FaultKind

pytestmark = pytest.mark.anyio

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Loopback speaks plain HTTP; loading the list of authorities would cost 100 ms a client."""

PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}


def body_for(dialect, *, stream=True, model="sim-fast", text="Hi"):
    if dialect == "responses":
        return {"model": model, "input": text, "stream": stream}
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "max_tokens": 200, "stream": stream}


@pytest.fixture
async def base_url() -> AsyncIterator[str]:
    async with running_simulator(SimulatorSettings(time_scale=0)) as url:
        yield url


@pytest.fixture
async def http(base_url) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"anthropic-version": "2023-06-01"}
    async with httpx2.AsyncClient(verify=NO_TLS, base_url=base_url, headers=headers) as client:
        yield client


async def ask(http, dialect, fault, *, stream=True):
    body = body_for(dialect, stream=stream)
    return await http.post(PATHS[dialect], json=body, headers={"x-sim-fault": fault})


async def raw(base_url, payload, fault):
    """Send one request by hand; gives what came and how the connection ended."""
    host, port = base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = orjson.dumps(payload)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n"
        b"x-sim-fault: %b\r\n\r\n%b" % (len(body), fault.encode(), body)
    )
    received = b""
    try:
        while data := await reader.read(65536):
            received += data
    except OSError as exc:
        return received, exc.errno
    finally:
        writer.close()
    return received, 0


@pytest.mark.parametrize("dialect", PATHS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("fault", "status"), [("429:7", 429), ("500", 500), ("529", 529)])
async def test_a_status_fault_has_the_dialects_error(http, dialect, stream, fault, status):
    reply = await ask(http, dialect, fault, stream=stream)
    assert reply.status_code == status
    assert reply.headers.get("retry-after") == ("7" if status == 429 else None)
    error = reply.json()
    if dialect == "messages":
        kinds = {429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"}
        assert (error["type"], error["error"]["type"]) == ("error", kinds[status])
        assert error["request_id"] == reply.headers["request-id"]
    else:
        assert {"message", "type", "param", "code"} == set(error["error"])


async def test_the_sdks_raise_their_own_errors(base_url):
    async with (
        AsyncOpenAI(
            base_url=f"{base_url}/v1",
            api_key="x",
            max_retries=0,
            http_client=httpx2.AsyncClient(verify=NO_TLS),
        ) as chat,
        anthropic.AsyncAnthropic(
            base_url=base_url,
            api_key="x",
            max_retries=0,
            http_client=httpx2.AsyncClient(verify=NO_TLS),
        ) as claude,
    ):
        messages = [{"role": "user", "content": "Hi"}]
        with pytest.raises(openai.RateLimitError):
            await chat.chat.completions.create(model="sim-fast!429", messages=messages)
        with pytest.raises(anthropic.OverloadedError):
            await claude.messages.create(model="sim-fast!529", max_tokens=9, messages=messages)
        with pytest.raises(openai.APIError, match="simulated"):
            async for _ in await chat.chat.completions.create(
                model="sim-fast!error-event:4", messages=messages, stream=True
            ):
                pass
        # On responses the SDK gives the error as the last event.
        events = [
            event
            async for event in await chat.responses.create(
                model="sim-fast!error-event:4", input="Hi", stream=True
            )
        ]
        assert [event.sequence_number for event in events] == [0, 1, 2, 3, 4]
        assert events[-1].type == "error"
        with pytest.raises(anthropic.APIStatusError, match="simulated"):
            async for _ in await claude.messages.create(
                model="sim-fast!error-event:4", max_tokens=99, messages=messages, stream=True
            ):
                pass


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reset_before_headers_sends_nothing(base_url, stream):
    received, error = await raw(base_url, body_for("chat", stream=stream), "reset")
    assert (received, error) == (b"", errno.ECONNRESET)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reset_mid_stream_follows_what_was_sent(base_url, stream):
    received, error = await raw(base_url, body_for("chat", stream=stream), "reset-mid-stream:2")
    assert error == errno.ECONNRESET
    assert received.startswith(b"HTTP/1.1 200")
    assert received.count(b"data: {") == (2 if stream else 0)


async def test_a_cut_leaves_the_chunked_body_open(base_url):
    received, error = await raw(base_url, body_for("chat"), "cut:2")
    assert error == 0
    assert received.count(b"data: {") == 2
    assert not received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("dialect", PATHS)
async def test_a_truncated_stream_ends_in_good_order_without_its_terminator(http, dialect):
    reply = await ask(http, dialect, "truncated:3")
    assert reply.status_code == 200
    assert reply.text.count("data: {") == 3
    assert "[DONE]" not in reply.text
    assert "message_stop" not in reply.text
    assert "response.completed" not in reply.text


@pytest.mark.parametrize("dialect", PATHS)
async def test_one_malformed_frame_stands_among_good_ones(http, dialect):
    good = (await http.post(PATHS[dialect], json=body_for(dialect))).text
    reply = await ask(http, dialect, "malformed-frame:3")
    frames = reply.text.strip().split("\n\n")
    assert len(frames) == len(good.strip().split("\n\n"))
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(frames[3].split("data: ")[1])
    assert orjson.loads(frames[4].split("data: ")[1])


@pytest.mark.parametrize("stream", [True, False])
async def test_garbage_and_emptiness_come_with_status_200(http, stream):
    garbage = await ask(http, "chat", "garbage", stream=stream)
    assert (garbage.status_code, garbage.content[:6]) == (200, b"<html>")
    empty = await ask(http, "chat", "empty", stream=stream)
    assert (empty.status_code, empty.content) == (200, b"")


@pytest.mark.parametrize("dialect", PATHS)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_drip_is_the_right_answer_in_tiny_pieces(http, dialect, stream):
    model = "sim-fast?answer_tokens=1"
    whole = await http.post(PATHS[dialect], json=body_for(dialect, stream=stream, model=model))
    dripped = await http.post(
        PATHS[dialect],
        json=body_for(dialect, stream=stream, model=model),
        headers={"x-sim-fault": "drip"},
    )
    # Ids and times differ from one answer to the next; the lengths do not.
    assert len(dripped.content) == len(whole.content)


@pytest.mark.parametrize(
    ("fault", "phase"),
    [("hang", "before_headers"), ("stall:2", "mid_body"), ("stall:0", "mid_body")],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_silence_lasts_until_the_peer_leaves_and_is_counted(
    http, base_url, fault, phase, stream
):
    del base_url
    with pytest.raises(httpx2.TimeoutException):
        await http.post(
            PATHS["chat"],
            json=body_for("chat", stream=stream),
            headers={"x-sim-fault": fault},
            timeout=0.1,
        )
    stats = await settled(http)
    assert stats["aborted"] == 1
    assert stats["leavings"][0]["phase"] == phase
    assert stats["leavings"][0]["after_s"] > 0


async def settled(http):
    """The statistics once nothing is in flight any more."""
    async with asyncio.timeout(5):
        while (stats := (await http.get("/sim/stats")).json())["in_flight"]:
            pass
    return stats


@pytest.mark.parametrize("stream", [True, False])
async def test_a_peer_that_leaves_while_the_model_thinks_is_noticed(stream):
    async with (
        running_simulator(SimulatorSettings(time_scale=100)) as url,
        httpx2.AsyncClient(verify=NO_TLS, base_url=url) as http,
    ):
        with pytest.raises(httpx2.TimeoutException):
            await http.post(PATHS["chat"], json=body_for("chat", stream=stream), timeout=0.1)
        stats = await settled(http)
    assert (stats["aborted"], stats["completed"]) == (1, 0)
    assert stats["leavings"][0]["phase"] == "before_headers"


async def test_a_refusal_takes_each_dialects_form(http):
    chat = (await ask(http, "chat", "refusal", stream=False)).json()
    assert chat["choices"][0]["message"]["refusal"]
    assert chat["choices"][0]["message"]["content"] is None
    responses = (await ask(http, "responses", "refusal", stream=False)).json()
    assert responses["output"][0]["content"][0]["type"] == "refusal"
    messages = (await ask(http, "messages", "refusal", stream=False)).json()
    assert messages["stop_reason"] == "refusal"
    assert messages["stop_details"]["type"] == "refusal"
    for dialect in PATHS:
        assert "refusal" in (await ask(http, dialect, "refusal")).text


async def test_an_unknown_fault_is_told_so(http):
    reply = await ask(http, "chat", "earthquake")
    assert reply.status_code == 400
    for kind in FaultKind:
        assert kind.value in reply.json()["error"]["message"]


async def test_a_script_of_faults_is_met_in_order(http):
    await http.post("/sim/faults", json={"script": ["429", None, "500"]})
    replies = [await http.post(PATHS["chat"], json=body_for("chat")) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [429, 200, 500, 200]
    stats = (await http.get("/sim/stats")).json()
    assert stats["faults"] == {"429": 1, "500": 1}
    assert stats["by_dialect"] == {"chat": 4}


async def test_random_faults_follow_the_seed():
    async def statuses(seed):
        settings = SimulatorSettings(seed=seed, time_scale=0, fault_rates={"500": 0.5})
        async with (
            running_simulator(settings) as url,
            httpx2.AsyncClient(verify=NO_TLS, base_url=url) as http,
        ):
            replies = [await http.post(PATHS["chat"], json=body_for("chat")) for _ in range(20)]
        return [reply.status_code for reply in replies]

    first = await statuses(1)
    assert first == await statuses(1)
    assert first != await statuses(2)
    assert set(first) == {200, 500}


async def test_a_model_above_its_capacity_answers_429_until_one_has_left():
    settings = SimulatorSettings(
        time_scale=100, profiles=built_in_profiles(sim_fast={"capacity": 1})
    )
    async with (
        running_simulator(settings) as url,
        httpx2.AsyncClient(verify=NO_TLS, base_url=url) as http,
        asyncio.TaskGroup() as group,
    ):
        slow = group.create_task(http.post(PATHS["chat"], json=body_for("chat")))
        while (await http.get("/sim/stats")).json()["in_flight"] == 0:
            pass
        refused = await http.post(PATHS["chat"], json=body_for("chat"))
        assert refused.status_code == 429
        slow.cancel()
        await settled(http)
        with pytest.raises(httpx2.TimeoutException):
            await http.post(PATHS["chat"], json=body_for("chat"), timeout=0.1)


async def test_bodies_are_kept_only_when_asked_for(http):
    await http.post(PATHS["chat"], json=body_for("chat"))
    assert (await http.get("/sim/requests")).json() == {"data": []}
    settings = SimulatorSettings(time_scale=0, keep_requests=2)
    async with (
        running_simulator(settings) as url,
        httpx2.AsyncClient(verify=NO_TLS, base_url=url) as keeping,
    ):
        for text in ("one", "two", "three"):
            await keeping.post(PATHS["chat"], json=body_for("chat", text=text))
        kept = (await keeping.get("/sim/requests?limit=5")).json()["data"]
    assert [entry["body"]["messages"][0]["content"] for entry in kept] == ["two", "three"]


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b'{"model": 5}', b'{"model": "sim-fast"}', b"{}"],
)
@pytest.mark.parametrize("path", PATHS.values())
async def test_a_bad_body_is_a_400_and_the_next_request_works(http, path, payload):
    reply = await http.post(path, content=payload)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]
    good = await http.post(PATHS["chat"], json=body_for("chat", stream=False))
    assert good.json()["choices"][0]["message"]["content"] == expected_answer("Hi", "sim-fast")


async def test_a_body_over_the_limit_is_a_413():
    settings = SimulatorSettings(time_scale=0, max_body_bytes=1_000)
    async with (
        running_simulator(settings) as url,
        httpx2.AsyncClient(verify=NO_TLS, base_url=url) as http,
    ):
        reply = await http.post(PATHS["chat"], json=body_for("chat", text="x" * 2_000))
        assert reply.status_code == 413
        assert (await http.post(PATHS["chat"], json=body_for("chat"))).status_code == 200


async def test_what_is_not_http_is_a_400(base_url):
    host, port = base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"\x16\x03\x01 hello\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_pipelined_requests_are_answered_in_order(base_url):
    host, port = base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    one = b"GET /v1/models/sim-fast HTTP/1.1\r\nhost: x\r\n\r\n"
    two = b"GET /v1/models/sim-powerful HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    writer.write(one + two)
    received = await reader.read()
    assert received.index(b'"sim-fast"') < received.index(b'"sim-powerful"')
    writer.close()
