"""A body may come compressed, on every endpoint; what cannot be read is refused by name."""

from __future__ import annotations

import gzip
import json
import zlib

import httpx2
import pytest

from app.providers.simulator import expected_answer
from tests.support.gateway import configuration, running_gateway
from tests.support.plain_http import NO_TLS

pytestmark = pytest.mark.anyio
MOST = 200_000
PATHS = {
    "/v1/chat/completions": lambda said: said["choices"][0]["message"]["content"],
    "/v1/responses": lambda said: said["output"][-1]["content"][0]["text"],
    "/v1/messages": lambda said: said["content"][0]["text"],
}


def bare(data: bytes) -> bytes:
    """Deflate as some send it: without zlib's own head and sum."""
    squeezed = zlib.compressobj(wbits=-15)
    return squeezed.compress(data) + squeezed.flush()


CODINGS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
}


def asked(path: str, text: str) -> bytes:
    said = [{"role": "user", "content": text}]
    body: dict[str, object] = {"model": "small", "max_tokens": 500, "messages": said}
    if path == "/v1/responses":
        body = {"model": "small", "input": text}
    return json.dumps(body).encode()


@pytest.fixture(scope="module")
async def http(upstream):
    values = configuration(
        upstream.base_url, server={"max_body_bytes": MOST, "max_bodies_bytes": 4 * MOST}
    )
    async with (
        running_gateway(values) as running,
        httpx2.AsyncClient(verify=NO_TLS, base_url=running.url, timeout=20) as client,
    ):
        yield client


async def post(http, path: str, data: bytes, coding: str, **headers: str):
    said = {"content-type": "application/json", "content-encoding": coding, **headers}
    return await http.post(path, content=data, headers=said)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("coding", CODINGS)
async def test_a_compressed_body_is_answered_like_any_other(http, path, coding):
    for text in ("What is a tide?", "What is a tide?", "And an ebb? " * 9_000):
        answer = await post(http, path, CODINGS[coding](asked(path, text)), coding)
        assert answer.status_code == 200, answer.text
        assert PATHS[path](answer.json()) == expected_answer(text, "sim-fast")
        plain = await http.post(path, content=asked(path, text))
        assert PATHS[path](plain.json()) == expected_answer(text, "sim-fast")


async def test_deflate_without_its_wrapping_and_a_body_in_chunks_are_read_too(http):
    body = asked("/v1/messages", "Why?")

    async def pieces():
        for at in range(0, len(body), 7):
            yield bare(body)[at : at + 7]

    for data in (bare(body), pieces()):
        assert (await post(http, "/v1/messages", data, "deflate")).status_code == 200
    plain = await http.post("/v1/messages", content=body, headers={"content-encoding": "identity"})
    assert plain.status_code == 200


@pytest.mark.parametrize(
    "path", [*PATHS, "/v1/messages/count_tokens", "/v1/agent", "/v1/prompts/lint"]
)
@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "nonsense"])
async def test_a_coding_that_is_not_read_is_named_with_those_that_are(http, path, coding):
    answer = await post(http, path, b"\x1f\x8b whatever", coding)
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip, deflate"
    assert coding in answer.text
    assert "unsupported_content_encoding" in answer.text


@pytest.mark.parametrize(
    "path", [*PATHS, "/v1/messages/count_tokens", "/v1/agent", "/v1/prompts/lint"]
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-9],
        lambda data: data + b"more",
        lambda _: b"{}",
        lambda d: b"\x1f\x8b" + d,
    ],
)
async def test_a_broken_one_is_refused_and_the_next_request_works(http, path, damage):
    answer = await post(http, path, damage(gzip.compress(asked("/v1/messages", "Hi"))), "gzip")
    assert answer.status_code == 400
    assert "content-encoding" in answer.text
    assert "invalid_encoding" in answer.text
    assert (await http.post("/v1/messages", content=asked("/v1/messages", "Hi"))).status_code == 200


@pytest.mark.parametrize(
    "path", [*PATHS, "/v1/messages/count_tokens", "/v1/agent", "/v1/prompts/lint"]
)
async def test_a_bomb_stops_at_the_limit_of_bodies(http, path):
    bomb = gzip.compress(b" " * (MOST * 200))
    assert len(bomb) < MOST
    answer = await post(http, path, bomb, "gzip")
    assert answer.status_code == 413
    for _ in range(6):  # what the bomb was counted for is given back
        small = await post(http, "/v1/messages", gzip.compress(asked("/v1/messages", "Hi")), "gzip")
        assert small.status_code == 200


async def test_a_question_of_lint_and_of_a_count_may_be_compressed(http):
    body = gzip.compress(asked("/v1/messages", "Hi"))
    counted = await post(http, "/v1/messages/count_tokens", body, "gzip")
    assert counted.json()["input_tokens"] > 0
    assert (await post(http, "/v1/prompts/lint", body, "gzip")).status_code == 200
