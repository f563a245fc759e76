"""Same dialect in and out: what a client sends and what the upstream says pass as they came.

The upstream is a bare socket, so that bytes can be compared, and fields can be sent that no vendor has yet.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.e2e.asking import DIALECTS, PATHS
from tests.e2e.conftest import NO_TLS
from tests.support.gateway import Running, configuration, running_gateway
from tests.support.raw_server import Peer, Request, raw_server

pytestmark = pytest.mark.anyio
MODELS = {"chat": "small", "responses": "small", "messages": "small2"}

MESSAGES = (
    b'[ {"role": "user",  "x-new": [1.0, 2e5, 12345678901234567890], "content":"h\\u00e9y"} ]'
)
BODIES = {
    "chat": b'{"x-first":{"b":1,"a":[]},"stream_options":{"include_usage":true, "x":1},"model":"small",'
    b'"messages":%b,"stream":true}' % MESSAGES,
    "responses": b'{"input":%b,"x-new":{"z":1, "a":2},"model":"small","stream":true}' % MESSAGES,
    "messages": b'{"max_tokens":9,"messages":%b,"model":"small2","x-new":null,"stream":true}'
    % MESSAGES,
}
STREAMS = {
    "chat": b': hello\n\nid: 7\ndata: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"x-new":{"b":[ 1 ]},"choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},'
    b'"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\r\n\r\n'
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}\n\n'
    b"data: [DONE]\n\n",
    "responses": b'event: response.created\ndata: {"type":"response.created","sequence_number":0,"response":'
    b'{"id":"r","object":"response","created_at":1,"model":"m","output":[],"status":"in_progress"}}\n\n'
    b'event: response.x_new\ndata: {"type":"response.x_new", "sequence_number":1}\n\n'
    b'event: response.completed\ndata: {"type":"response.completed","sequence_number":2,"response":'
    b'{"id":"r",'
    b'"object":"response","created_at":1,"model":"m","status":"completed","output":[{"type":"message",'
    b'"id":"i","role":"assistant","status":"completed","content":[{"type":"output_text","text":"Hi","annotations":[]}]}],'
    b'"usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2}}}\n\n',
    "messages": b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message",'
    b'"role":"assistant","model":"m","content":[],"x-new":1,"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
    b'event: ping\ndata: {"type": "ping"}\n\nevent: x_new\ndata: {"type":"x_new","a": 1}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":'
    b'{"type":"text","text":""}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
    b'{"type":"text_delta","text":"Hi"}}\n\n'
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":1}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
}
DOCUMENTS = {
    "chat": b'{"id":"c","object":"chat.completion","created":1,"model":"m", "x-new":[1.50],'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"Hi","x":{}},"finish_reason":"stop"}]}\n',
    "responses": b'{"id":"r","object":"response","created_at":1,"model":"m","status":"completed", '
    b'"x-new":1.50,"output":[{"type":"message","id":"i","role":"assistant","status":"completed","content":'
    b'[{"type":"output_text","text":"Hi","annotations":[]}]}]}',
    "messages": b'{"id":"m","type":"message","role":"assistant","model":"m", "x-new":1.50,"content":'
    b'[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}',
}


class Echo:
    """An upstream that answers with what it was given and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.status = b"200 OK"
        self.head = b"content-type: text/event-stream\r\n"
        self.pieces: tuple[bytes, ...] = ()

    async def __call__(self, peer: Peer) -> None:
        while True:
            self.requests.append(await peer.request())
            length = sum(map(len, self.pieces))
            head = b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n" % (self.status, self.head, length)
            await peer.send(head, *self.pieces)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def gateway(echo: Echo) -> AsyncIterator[Running]:
    """A gateway over the echo; one operator's key stands upstream."""
    async with raw_server(echo) as server:
        url = f"http://127.0.0.1:{server.port}"
        values = configuration(url)
        keys = {"local": "sk-upstream", "claude": "sk-upstream"}
        for name, provider in values["providers"].items():
            provider["api_key"] = keys[name]
        async with running_gateway(values) as running:
            yield running


@pytest.fixture
async def http(gateway: Running) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(verify=NO_TLS, base_url=gateway.url) as client:
        yield client


@pytest.mark.parametrize("size", [0, 1, 7], ids=["at once", "byte by byte", "in sevens"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_frames_come_out_as_they_went_in(echo, http, dialect, size):
    """Unknown fields and events, comments, ids, odd spaces and line ends included, however they are split."""
    data = STREAMS[dialect]
    echo.pieces = tuple(data[i : i + size] for i in range(0, len(data), size)) if size else (data,)
    reply = await http.post(PATHS[dialect], content=BODIES[dialect])
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.content == data


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_json_answer_comes_out_as_it_went_in(echo, http, dialect):
    echo.head, echo.pieces = b"content-type: application/json\r\n", (DOCUMENTS[dialect],)
    body = BODIES[dialect].replace(b',"stream":true', b"")
    body = body.replace(b'"stream_options":{"include_usage":true, "x":1},', b"")
    reply = await http.post(PATHS[dialect], content=body)
    assert reply.content == DOCUMENTS[dialect]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_request_goes_up_as_it_came_but_for_the_models_name(echo, http, dialect):
    """Unknown fields, the order of keys, the spelling of numbers and every space within a value."""
    echo.pieces = (STREAMS[dialect],)
    await http.post(PATHS[dialect], content=BODIES[dialect])
    sent = echo.requests[0].body
    name = MODELS[dialect].encode()
    assert sent == BODIES[dialect].replace(b'"model":"%b"' % name, b'"model":"sim-fast"')


async def test_a_stream_without_a_wish_for_usage_gets_none(echo, http):
    """The gateway asks for it on its own account and keeps the chunk that tells it."""
    echo.pieces = (STREAMS["chat"],)
    body = BODIES["chat"].replace(b'"stream_options":{"include_usage":true, "x":1},', b"")
    reply = await http.post(PATHS["chat"], content=body)
    assert json.loads(echo.requests[0].body)["stream_options"] == {"include_usage": True}
    start = STREAMS["chat"].index(b'data: {"id":"c","choices":[],')
    end = STREAMS["chat"].index(b"data: [DONE]")
    assert reply.content == STREAMS["chat"][:start] + STREAMS["chat"][end:]
    trace = (await http.get("/v1/traces")).json()["traces"][0]
    assert trace["usage"]["output_tokens"] == 1


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_vendors_headers_travel_and_the_clients_key_does_not(echo, http, dialect):
    """The gateway's own key opens the gateway; the operator's key opens the vendor."""
    echo.pieces = (STREAMS[dialect],)
    echo.head += b"x-ratelimit-remaining-requests: 41\r\nset-cookie: a=b\r\n"
    headers = {
        "authorization": "Bearer gw-secret",
        "x-api-key": "gw-secret",
        "anthropic-beta": "x-1",
        "openai-organization": "org-1",
        "cookie": "secret=1",
    }
    reply = await http.post(PATHS[dialect], content=BODIES[dialect], headers=headers)
    sent = echo.requests[0].headers
    assert sent[b"anthropic-beta"] == b"x-1"
    assert sent[b"openai-organization"] == b"org-1"
    assert b"cookie" not in sent
    assert b"gw-secret" not in b"".join(sent.values())
    assert b"sk-upstream" in b"".join(sent.values())
    assert reply.headers["x-ratelimit-remaining-requests"] == "41"
    assert "set-cookie" not in reply.headers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_upstreams_own_error_body_comes_out_as_it_went_in(echo, http, dialect, stream):
    echo.status, echo.head = b"422 Unprocessable Entity", b"content-type: application/json\r\n"
    echo.pieces = (b'{"error": {"message":"no", "type":"x_new_error","x":[1.0]},"type":"error"}',)
    body = BODIES[dialect] if stream else BODIES[dialect].replace(b',"stream":true', b"")
    reply = await http.post(PATHS[dialect], content=body)
    assert reply.status_code == 422
    assert reply.content == echo.pieces[0]
    assert len(echo.requests) == 1


async def test_an_upstream_without_the_responses_api_is_served_by_chat():
    """Learnt from its first 404, for that request and for all after it."""
    served: list[bytes] = []

    async def only_chat(peer: Peer) -> None:
        while True:
            request = await peer.request()
            served.append(request.line.split()[1])
            if b"/responses" in request.line:
                await peer.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nnot found")
            else:
                await peer.answer(DOCUMENTS["chat"], head=b"content-type: application/json\r\n")

    async with (
        raw_server(only_chat) as server,
        running_gateway(configuration(f"http://127.0.0.1:{server.port}")) as running,
        httpx2.AsyncClient(verify=NO_TLS, base_url=running.url) as client,
    ):
        for text in ("one", "two"):
            reply = await client.post("/v1/responses", json={"model": "small", "input": text})
            assert reply.json()["output"][0]["content"][0]["text"] == "Hi"
    assert served == [b"/v1/responses", b"/v1/chat/completions", b"/v1/chat/completions"]
