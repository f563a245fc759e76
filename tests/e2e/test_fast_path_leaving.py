"""A client of the fast path may leave at any moment and in any company: nothing of its request is left.

Real sockets on both sides. The upstream says when it has reached the moment at which the client leaves, and
when its own connection was hung up.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
import trustme

from app.api.acceptor import GatewayLoop
from tests.e2e.semantic.conftest import PLAIN, Semantic, TopicModel
from tests.e2e.test_fast_path import (
    ANSWER,
    Client,
    Counted,
    connect,
    counted,
    house,
    newest,
)
from tests.e2e.test_fast_path import taught as taught_json
from tests.e2e.test_fast_path_streams import DONE, HEAD, ROLE, STOP, begin, body, chunk, frame
from tests.support.gateway import Running
from tests.support.raw_server import PATIENCE_S, Peer

pytestmark = pytest.mark.anyio
__all__ = ["counted"]
MANY = 30
JSON = b"content-type: application/json\r\n"


def answer_to(text: str) -> bytes:
    """A whole answer that says ``text``."""
    said = ANSWER.replace(b"Four.", text.encode())
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (JSON, len(said), said)


def stream_to(text: str) -> list[bytes]:
    """Likewise, word by word: the head, the role, the words, the end."""
    words = [chunk(frame({"content": word})) for word in (text, " and", " so", " on")]
    return [HEAD, chunk(ROLE), *words, chunk(STOP + DONE) + b"0\r\n\r\n"]


@dataclass(frozen=True)
class Window:
    """A moment at which a client may leave."""

    stream: bool
    pieces: int
    """Of the answer, which have come."""
    told: str
    """What the trace calls it."""


WINDOWS = {
    "before the head": Window(stream=True, pieces=0, told="before_headers"),
    "before the first token": Window(stream=True, pieces=1, told="before_first_token"),
    "behind the first token": Window(stream=True, pieces=2, told="mid_stream"),
    "mid-stream": Window(stream=True, pieces=5, told="mid_stream"),
    "in a JSON request": Window(stream=False, pieces=0, told="json"),
    "amid a JSON answer": Window(stream=False, pieces=1, told="json"),
}
in_each_window = pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)


@dataclass
class Upstream:
    """Says what it is asked; to who says "hold" only as much as the window has, until ``go``."""

    window: Window = WINDOWS["before the head"]
    reached: asyncio.Queue[Peer] = field(default_factory=asyncio.Queue)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    held: int = 0

    async def __call__(self, peer: Peer) -> None:
        while True:
            asked = json.loads((await peer.request()).body)
            text = asked["messages"][-1]["content"]
            whole = answer_to(text)
            pieces = stream_to(text) if asked.get("stream") else [whole[:-40], whole[-40:]]
            if "hold" in text:
                self.held += 1
                await peer.send(*pieces[: self.window.pieces])
                self.reached.put_nowait(peer)
                await self.go.wait()
                if peer.gone.is_set():
                    return
                del pieces[: self.window.pieces]
            if not asked.get("stream") and not ("hold" in text and self.window.pieces):
                pieces = [whole]
            await peer.send(*pieces)

    async def holds(self) -> Peer:
        """Who holds an answer; it must come to that."""
        return await asyncio.wait_for(self.reached.get(), PATIENCE_S)


def ours() -> set[asyncio.Task[object]]:
    """The tasks of the gateway's own code."""
    return {
        task
        for task in asyncio.all_tasks()
        if "/app/" in getattr(getattr(task.get_coro(), "cr_code", None), "co_filename", "")
    }


def left(gateway: Running) -> dict[str, int]:
    """What there is still of any request."""
    edge = gateway.context.edge
    gate, load = edge.gateway.providers["local"].limiter, edge.gateway.load.deployment("small")  # type: ignore[attr-defined]
    pool = edge.gateway.providers["local"].inner.pool.stats  # type: ignore[attr-defined]
    found = {
        "requests": edge.in_flight.now,
        "flights": len(edge.gateway.flights),
        "places": gate.in_use + gate.waiting,
        "calls": load.in_flight,
        "streams watched": len(edge.heartbeat._streams),
        "tasks of the server": len(gateway.server.server_state.tasks),
        "connections upstream": pool.in_flight,
        "in line for one": pool.waiting,
    }
    return {name: count for name, count in found.items() if count}


async def nothing_left(gateway: Running, tasks: set[asyncio.Task[object]]) -> None:
    """Wait until it is so; ``tasks`` were there before."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while left(gateway) or ours() - tasks:  # noqa: ASYNC110 - an end owes a test no event
                await asyncio.sleep(0.002)
    except TimeoutError:
        pytest.fail(f"{left(gateway)} {ours() - tasks}")


async def taught(gateway: Running, count: int = 1) -> list[Client]:
    """Clients whose heads are known, and as many connections upstream, whose heads are."""
    clients = await taught_json(gateway, count)
    for number in range(2):
        for place, client in enumerate(clients):
            await said_to(client, f"streamed lesson {number} {place}", stream=True)
    return clients


def send(client: Client, text: str, *, stream: bool) -> None:
    """Ask."""
    client.send(text, **({"stream": True} if stream else {}))


async def said_to(client: Client, text: str, *, stream: bool) -> None:
    """Ask, and see that the answer is this question's."""
    if stream:
        headers = await begin(client, text)
        assert headers["status"] == "200"
        assert await body(client) == streamed(text)
    else:
        status, _, said = await client.ask(text)
        assert (status, json.loads(said)["choices"][0]["message"]["content"]) == (200, text)


def streamed(text: str) -> bytes:
    """The frames of the whole stream."""
    words = (text, " and", " so", " on")
    return b"".join([ROLE, *[frame({"content": word}) for word in words], STOP, DONE])


async def arrived(gateway: Running, client: Client, window: Window) -> None:
    """Wait until the gateway has heard what the upstream has said."""
    if window.told == "mid_stream":
        await client.reader.readuntil(b"assistant" if window.pieces == 2 else b" so")
        return
    if window.pieces:
        flight = next(iter(gateway.context.edge.gateway.flights._flights.values()))
        async with asyncio.timeout(PATIENCE_S):
            while not flight._exchange.status:  # type: ignore[attr-defined]  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def leave_and_look(gateway: Running, upstream: Upstream, client: Client) -> None:
    """Leave in the upstream's window; nothing may be left, and the next is answered right."""
    window = upstream.window
    tasks = ours()
    send(client, "hold", stream=window.stream)
    peer = await upstream.holds()
    await arrived(gateway, client, window)
    client.writer.transport.abort()
    await peer.wait_gone()
    await nothing_left(gateway, tasks)
    trace = newest(gateway)
    assert (trace["status"], trace["disconnect"], trace["attempts"]) == (499, window.told, 1)
    following = await connect(gateway)
    for stream in (False, True):
        await said_to(following, f"next {stream}", stream=stream)
    await nothing_left(gateway, tasks)


@in_each_window
async def test_who_leaves_leaves_nothing(window: Window, counted: Counted) -> None:
    """The upstream is stopped."""
    upstream = Upstream(window)
    async with house(upstream) as gateway:
        (client,) = await taught(gateway)
        handed_over = counted.handed_over
        await leave_and_look(gateway, upstream, client)
        assert counted.handed_over > handed_over


@in_each_window
async def test_nor_over_tls(
    window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upstream is one behind TLS."""
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    upstream = Upstream(window)
    async with house(upstream, context) as gateway:
        (client,) = await taught(gateway)
        await leave_and_look(gateway, upstream, client)


async def joins(gateway: Running, client: Client, window: Window) -> None:
    """Ask what is being asked, and wait until that is one flight."""
    send(client, "hold", stream=window.stream)
    flight = next(iter(gateway.context.edge.gateway.flights._flights.values()))
    async with asyncio.timeout(PATIENCE_S):
        while not flight.followers:  # noqa: ASYNC110 - joining owes a test no event
            await asyncio.sleep(0.001)


@in_each_window
@pytest.mark.parametrize("who", ["the first stays", "the last stays", "first, last", "last, first"])
async def test_who_leaves_a_shared_call_leaves_it_to_the_others(window: Window, who: str) -> None:
    """It is stopped when nobody is left, in whatever order they go; who stays gets all."""
    upstream = Upstream(window)
    async with house(upstream) as gateway:
        first, last = await taught(gateway, 2)
        tasks = ours()
        send(first, "hold", stream=window.stream)
        peer = await upstream.holds()
        await arrived(gateway, first, window)
        await joins(gateway, last, window)
        flight = next(iter(gateway.context.edge.gateway.flights._flights.values()))
        order = [last, first] if who in {"the first stays", "last, first"} else [first, last]
        order[0].writer.transport.abort()
        async with asyncio.timeout(PATIENCE_S):
            while not flight.leader_gone if order[0] is first else flight.followers:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        if "stays" in who:
            assert not peer.gone.is_set()
            upstream.go.set()
            if not window.stream:
                status, _, said = await order[1].read()
                assert (status, b"hold" in said) == (200, True)
            elif window.told == "mid_stream" and order[1] is first:
                await asyncio.wait_for(first.reader.readuntil(b"\r\n0\r\n\r\n"), PATIENCE_S)
            else:
                await order[1].reader.readuntil(b"\r\n\r\n")
                assert await body(order[1]) == streamed("hold")
        else:
            order[1].writer.transport.abort()
            await peer.wait_gone()
        await nothing_left(gateway, tasks)
        assert upstream.held == 1
        following = await connect(gateway)
        await said_to(following, "next", stream=window.stream)
        await nothing_left(gateway, tasks)


class TestInARound:
    """On the server's own loop, whose sockets are served in rounds."""

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, object]]:
        """Its sockets share their rounds."""
        return "asyncio", {"loop_factory": GatewayLoop}

    @in_each_window
    @pytest.mark.parametrize(
        ("leaving", "how"), [(1, "before"), (MANY // 2, "behind"), (MANY // 2, "end")]
    )
    async def test_who_leaves_in_a_round_is_in_nobodys_way(
        self, window: Window, leaving: int, how: str
    ) -> None:
        """In the turn in which all the upstreams go on: before they do, or behind; or by a mere end."""
        upstream = Upstream(window)
        async with house(upstream) as gateway:
            clients = await taught(gateway, MANY + 1)
            tasks = ours()
            loop = asyncio.get_running_loop()
            assert isinstance(loop, GatewayLoop)
            for turn in range(2):
                upstream.go.clear()
                for number, client in enumerate(clients):
                    send(client, f"hold {turn} {number}", stream=window.stream)
                for _ in clients:
                    await upstream.holds()
                loop.rounds.direct_reads = 0
                if how == "behind":
                    upstream.go.set()
                    await asyncio.sleep(0)
                for client in clients[:leaving]:
                    if how == "end":
                        client.writer.write_eof()
                    else:
                        client.writer.transport.abort()
                upstream.go.set()
                for number, client in enumerate(clients[leaving:], leaving):
                    if window.stream:
                        await client.reader.readuntil(b"\r\n\r\n")
                        assert await body(client) == streamed(f"hold {turn} {number}")
                    else:
                        _, _, said = await client.read()
                        assert b'"hold %d %d"' % (turn, number) in said
                await nothing_left(gateway, tasks)
                clients[:leaving] = await taught(gateway, leaving)


@pytest.mark.slow
@pytest.mark.parametrize("hangs", [True, False], ids=["look-up under way", "look-up over"])
async def test_nor_while_a_miss_races_with_the_look_up(hangs: bool, counted: Counted) -> None:
    """In every window; the look-up ends with the request."""
    upstream = Upstream()
    cache = {"semantic": {"enabled": True, "race_for": ["*"]}}
    async with (
        house(upstream, cache=cache) as gateway,
        httpx2.AsyncClient(verify=PLAIN, base_url=gateway.url) as http,
    ):
        semantic = Semantic(gateway, http, TopicModel())
        await semantic.open()
        semantic.answers.cache.budget_s = 4 * PATIENCE_S
        semantic.answers.max_per_s = 1e9
        process = semantic.answers.cache.store.pid
        for name, window in WINDOWS.items():
            upstream.window = window
            (client,) = await taught(gateway)
            await nothing_left(gateway, ours())
            handed_over = counted.handed_over
            if hangs:
                os.kill(process, signal.SIGSTOP)
            try:
                tasks = ours()
                send(client, f"hold {name}", stream=window.stream)
                peer = await upstream.holds()
                await arrived(gateway, client, window)
                assert counted.handed_over == handed_over + 1
                client.writer.transport.abort()
                await peer.wait_gone()
                await nothing_left(gateway, tasks)
                trace = newest(gateway)
                assert (trace["status"], trace["disconnect"]) == (499, window.told)
            finally:
                if hangs:
                    os.kill(process, signal.SIGCONT)
            await said_to(await connect(gateway), f"next of {name}", stream=window.stream)
