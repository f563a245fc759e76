"""Bad input gets the dialect's own error: the right status, the field's name; the next request works."""

# ruff: noqa: PLR0917 (a test asks for as many fixtures as its promise has parts)
from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

import pytest

from tests.e2e.asking import DIALECTS, PATHS, body_of
from tests.e2e.conversations import user
from tests.support.raw_server import PATIENCE_S

pytestmark = pytest.mark.anyio


def told(reply, dialect: str) -> tuple[str, str | None]:
    """The message and the field of an error in the dialect's own form."""
    body = reply.json()
    error = body["error"]
    if dialect == "messages":
        assert body["type"] == "error"
        assert body["request_id"] == reply.headers["x-request-id"]
    assert error["type"]
    assert "Traceback" not in reply.text
    return error["message"], error.get("param")


async def the_next_request_works(http, dialect):
    reply = await http.post(PATHS[dialect], json=body_of(dialect, "small", "Still there?"))
    assert reply.status_code == 200


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[]", "object"),
        (b'"text"', "object"),
        (b"null", "object"),
        (b'{"model": "small", }', "JSON"),
        (b'{"model": "\xff\xfe"}', "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"model": NaN}', "JSON"),
    ],
)
async def test_what_is_not_a_json_object_is_a_400(http, dialect, raw, word):
    reply = await http.post(PATHS[dialect], content=raw)
    assert reply.status_code == 400
    assert word in told(reply, dialect)[0]
    await the_next_request_works(http, dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 99}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"tools": {"a": 1}}, "tools"),
        ({"tools": ["x"]}, "tools[0]"),
    ],
)
async def test_a_wrong_value_is_a_400_that_names_the_field(http, dialect, change, param):
    reply = await http.post(PATHS[dialect], json={**body_of(dialect, "small", "Hi"), **change})
    assert reply.status_code == 400
    message, named = told(reply, dialect)
    assert named == param
    assert param in message
    await the_next_request_works(http, dialect)


@pytest.mark.parametrize(
    ("dialect", "change", "param"),
    [
        ("chat", {"messages": []}, "messages"),
        ("chat", {"messages": "hello"}, "messages"),
        ("chat", {"messages": None}, "messages"),
        ("chat", {"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ("chat", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("chat", {"messages": user([{"type": "text"}])}, "messages[0].content[0].text"),
        ("chat", {"max_tokens": "many"}, "max_tokens"),
        ("chat", {"response_format": {"type": "poem"}}, "response_format.type"),
        ("messages", {"messages": []}, "messages"),
        ("messages", {"messages": "hello"}, "messages"),
        ("messages", {"max_tokens": None}, "max_tokens"),
        ("messages", {"max_tokens": -1}, "max_tokens"),
        ("messages", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("responses", {"input": 3}, "input"),
        ("responses", {"input": []}, "input"),
        ("responses", {"max_output_tokens": "many"}, "max_output_tokens"),
    ],
)
async def test_a_wrong_message_is_a_400_that_names_its_place(http, dialect, change, param):
    reply = await http.post(PATHS[dialect], json={**body_of(dialect, "small", "Hi"), **change})
    assert reply.status_code == 400
    assert told(reply, dialect)[1] == param
    await the_next_request_works(http, dialect)


@pytest.mark.parametrize(
    ("dialect", "model", "change", "param"),
    [
        ("chat", "small2", {"n": 2}, "n"),
        ("chat", "small2", {"logprobs": True}, "logprobs"),
        ("chat", "small2", {"x-new-field": 1}, "x-new-field"),
        ("chat", "small2", {"seed": 7}, "seed"),
        ("chat", "small2", {"web_search_options": {}}, "web_search_options"),
        ("chat", "small2", {"stream_options": {"x-new": 1}}, "stream_options.x-new"),
        ("responses", "small2", {"stream_options": {"x-new": 1}}, "stream_options.x-new"),
        ("responses", "small2", {"previous_response_id": "r"}, "previous_response_id"),
        ("responses", "small2", {"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ("responses", "small2", {"background": True}, "background"),
        ("messages", "small", {"top_k": 4}, "top_k"),
        ("messages", "small", {"x-new-field": 1}, "x-new-field"),
        ("messages", "small", {"container": "c"}, "container"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_another_api_cannot_carry_is_refused_by_name(
    http, dialect, model, change, param, stream
):
    """And the same request is the vendor's to judge where its own API is spoken."""
    body = {**body_of(dialect, model, "Carry this"), **change, "stream": stream}
    reply = await http.post(PATHS[dialect], json=body)
    assert reply.status_code == 400
    message, named = told(reply, dialect)
    assert named == param
    assert "cannot be carried" in message
    await the_next_request_works(http, dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_unknown_model_is_a_404_that_names_the_known_ones(http, dialect):
    reply = await http.post(PATHS[dialect], json=body_of(dialect, "no-such", "Hi"))
    assert reply.status_code == 404
    message, param = told(reply, dialect)
    assert param == "model"
    assert "no-such" in message
    assert "small2" in message


async def test_so_is_one_whose_tokens_are_to_be_counted_or_that_is_looked_up(http):
    body = {"model": "no-such", "messages": user("Hi")}
    replies = [
        await http.post("/v1/messages/count_tokens", json=body),
        await http.get("/v1/models/no-such"),
    ]
    for reply in replies:
        assert reply.status_code == 404
        assert "auto, small, small2" in reply.json()["error"]["message"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_another_verb_is_a_405_that_says_which_is_right(http, dialect, method):
    reply = await http.request(method, PATHS[dialect])
    assert reply.status_code == 405
    assert reply.headers["allow"] == "POST"
    assert "POST" in told(reply, dialect)[0]


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_another_verb_stays_one_however_often_a_connection_says_it(gateway, method):
    """From the second like one on its head was known, and taken for a POST."""
    url = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    body = json.dumps(body_of("chat", "small", "Hi")).encode()
    head = f"{method} {PATHS['chat']} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(3):
            writer.write(head.encode() + body)
            told = await reader.readuntil(b"\r\n\r\n")
            assert told.startswith(b"HTTP/1.1 405 ")
            await reader.readexactly(int(told.split(b"content-length: ")[1].split(b"\r\n")[0]))
    writer.close()


@pytest.mark.parametrize(
    "path", [*PATHS.values(), "/v1/messages/count_tokens", "/v1/agent", "/livez"]
)
async def test_the_answer_to_a_head_request_has_no_body(gateway, path):
    """Or its client would take the body for the beginning of the next answer."""
    url = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    async with asyncio.timeout(PATIENCE_S):
        writer.write(b"HEAD %b HTTP/1.1\r\nhost: x\r\n\r\n" % path.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        rest = await reader.read()
    writer.close()
    assert head.startswith(b"HTTP/1.1 200 " if path == "/livez" else b"HTTP/1.1 405 ")
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_body_over_the_limit_is_a_413(http, dialect):
    """Told before the body has been read, and the next connection is as good as new."""
    reply = await http.post(PATHS[dialect], json=body_of(dialect, "small", "x" * (1 << 20)))
    assert reply.status_code == 413
    assert str(1 << 20) in told(reply, dialect)[0]
    await the_next_request_works(http, dialect)


async def test_a_chunked_body_over_the_limit_is_a_413_too(http):
    async def pieces():
        for _ in range(40):
            yield b"x" * (1 << 15)

    reply = await http.post(PATHS["chat"], content=pieces())
    assert reply.status_code == 413
    await the_next_request_works(http, "chat")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-slipstream-cache", "sometimes"),
        ("x-slipstream-tier", "middle"),
        ("x-slipstream-user", ""),
        ("x-slipstream-user", "x" * 257),
        ("x-slipstream-tags", ",".join("abcdefghijklmnopq")),
        ("x-slipstream-deadline-ms", "soon"),
        ("x-slipstream-deadline-ms", "0"),
        ("x-slipstream-deadline-ms", "-5"),
        ("x-slipstream-deadline-ms", "1" * 5000),
    ],
)
async def test_a_bad_header_is_a_400_that_names_it(http, dialect, header, value):
    body = body_of(dialect, "small", "Hi")
    reply = await http.post(PATHS[dialect], json=body, headers={header: value})
    assert reply.status_code == 400
    message, param = told(reply, dialect)
    assert param == header
    assert header in message


@pytest.mark.parametrize("presented", ["has space", "x" * 200, "<script>"])
async def test_an_ill_formed_request_id_is_replaced(http, presented):
    body = body_of("chat", "small", "Hi")
    reply = await http.post(PATHS["chat"], json=body, headers={"x-request-id": presented})
    assert reply.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    "raw",
    [
        b"NONSENSE\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_is_not_http_does_not_harm_the_server(gateway, http, raw):
    """It is refused or cut off."""
    url = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(raw)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    assert not answer or answer.startswith(b"HTTP/1.1 4")
    writer.close()
    await the_next_request_works(http, "messages")
