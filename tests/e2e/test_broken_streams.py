"""Streams that break at a chosen moment: after the client has read what came before.

The upstream is a bare socket that plays frames of the simulated vendors and then does one thing wrong, when
the test says so. Nothing depends on how bytes happen to be gathered.
"""

# ruff: noqa: PLR0917 (a test asks for as many fixtures as its promise has parts)
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from app.providers.simulator import expected_answer
from tests.e2e.asking import API_ERRORS, DIALECTS, PATHS, Asker, body_of
from tests.e2e.conftest import NO_TLS
from tests.e2e.conversations import ANTHROPIC_KIND, BOTH_KINDS
from tests.support.gateway import Running, configuration, running_gateway
from tests.support.official_clients import anthropic_at, openai_at
from tests.support.raw_server import PATIENCE_S, Peer, raw_server

pytestmark = pytest.mark.anyio

QUESTION = "Will it break?"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
SAID_FRAMES = 8
OPENAI_ERROR = b'data: {"error":{"message":"on fire","type":"server_error","code":null}}\n\n'
RESPONSES_ERROR = (
    b"event: error\n"
    b'data: {"type":"error","code":"server_error","message":"on fire","param":null,"sequence_number":99}\n\n'
)
ANTHROPIC_ERROR = (
    b"event: error\n"
    b'data: {"type":"error","error":{"type":"overloaded_error","message":"on fire"}}\n\n'
)


class Player:
    """An upstream that plays ``frames``, waits for ``go_on``, then sends ``ending`` and closes."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.ending = b""
        self.go_on = asyncio.Event()
        self.calls = 0

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        self.calls += 1
        await peer.send(HEAD, b"".join(self.frames[:SAID_FRAMES]))
        async with asyncio.timeout(PATIENCE_S):
            await self.go_on.wait()
        await peer.send(self.ending)
        peer.close()


@pytest.fixture
async def player() -> Player:
    return Player()


@pytest.fixture
async def gateway(player: Player) -> AsyncIterator[Running]:
    """A gateway over the player."""
    async with (
        raw_server(player) as server,
        running_gateway(configuration(f"http://127.0.0.1:{server.port}")) as running,
    ):
        yield running


@pytest.fixture
async def asker(gateway: Running) -> AsyncIterator[Asker]:
    """The packages, over connections of this test's own."""
    async with (
        openai_at(gateway.url) as one,
        anthropic_at(gateway.url) as two,
    ):
        yield Asker(one, two)


def spoken(dialect: str, model: str) -> str:
    """The dialect that the upstream of ``model`` speaks to this client."""
    if model == ANTHROPIC_KIND:
        return "messages"
    return "responses" if dialect == "responses" else "chat"


def error_frame(dialect: str, model: str) -> bytes:
    """The error of the dialect that the upstream speaks."""
    return {"messages": ANTHROPIC_ERROR, "chat": OPENAI_ERROR, "responses": RESPONSES_ERROR}[
        spoken(dialect, model)
    ]


async def record(direct: httpx2.AsyncClient, dialect: str, model: str) -> list[bytes]:
    """The frames that the simulated vendor sends for the question."""
    said = spoken(dialect, model)
    body = body_of(said, "sim-fast", QUESTION, stream=True)
    if said == "chat":
        body["stream_options"] = {"include_usage": True}
    reply = await direct.post(PATHS[said], json=body, headers={"anthropic-version": "2023-06-01"})
    return [frame + b"\n\n" for frame in reply.content.split(b"\n\n") if frame]


async def read_until_it_breaks(asker: Asker, player: Player, dialect: str, model: str) -> str:
    """The text that came; the player goes on as soon as some has."""
    said = ""
    try:
        async for piece in asker.streamed(dialect, model, QUESTION):
            said += piece
            if said:
                player.go_on.set()
    finally:
        assert said
        assert expected_answer(QUESTION, "sim-fast").startswith(said)
    return said


@pytest.mark.parametrize("model", BOTH_KINDS)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("ending", ["error", "half a frame", "nothing"])
async def test_the_client_gets_its_own_packages_error(
    asker, player, direct, dialect, model, ending
):
    """And nothing is asked again: the client has seen a part of the answer."""
    player.frames = await record(direct, dialect, model)
    player.ending = {
        "error": error_frame(dialect, model),
        "half a frame": player.frames[SAID_FRAMES][:40],
        "nothing": b"",
    }[ending]
    with pytest.raises(API_ERRORS) as caught:
        await read_until_it_breaks(asker, player, dialect, model)
    if ending == "error":
        assert "on fire" in str(caught.value)
    assert player.calls == 1


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_malformed_frame_is_an_error_across_dialects(asker, player, direct, dialect):
    """The translation cannot read it: what follows might belong to nothing."""
    model = "small" if dialect == "messages" else ANTHROPIC_KIND
    player.frames = await record(direct, dialect, model)
    player.ending = b'data: {"broken\n\n' + b"".join(player.frames[SAID_FRAMES:])
    with pytest.raises(API_ERRORS):
        await read_until_it_breaks(asker, player, dialect, model)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_malformed_frame_ends_a_stream_of_its_own_dialect_with_an_error_and_is_never_kept(
    gateway, player, direct, dialect
):
    """It was forwarded, and the vendors' packages raised on it without a word of what was wrong."""
    model = ANTHROPIC_KIND if dialect == "messages" else "small"
    player.frames = await record(direct, dialect, model)
    player.ending = b'data: {"broken\n\n' + b"".join(player.frames[SAID_FRAMES:])
    player.go_on.set()
    body = body_of(dialect, model, QUESTION, stream=True)
    async with httpx2.AsyncClient(verify=NO_TLS, base_url=gateway.url) as http:
        first = await http.post(PATHS[dialect], json=body)
        assert b'{"broken' not in first.content
        assert b"upstream_protocol" in first.content or b"is not JSON" in first.content
        for stream in (True, False):
            again = await http.post(
                PATHS[dialect],
                json={**body, "stream": stream},
                headers={"x-slipstream-cache": "only"},
            )
            assert again.status_code == 504
