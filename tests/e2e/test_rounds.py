"""Many sockets with something to read at once are served in rounds, and nobody can tell but by the clock."""

from __future__ import annotations

import asyncio
import json

import pytest

from app.api.acceptor import GatewayLoop
from app.upstream.rounds import MIN_ROUND_READS, Rounds
from tests.e2e.test_fast_path import (
    ANSWER,
    Counted,
    answering,
    counted,
    house,
    rest,
    taught,
)
from tests.e2e.test_fast_path_streams import DONE, END, HEAD, STOP, USAGE, body, chunk, frame
from tests.support.raw_server import PATIENCE_S, Peer

__all__ = ["counted"]
pytestmark = pytest.mark.anyio
MANY = 24


class Watched(Rounds):
    """Rounds that say how many were in each."""

    __slots__ = ("sizes",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.sizes: list[int] = []

    def _run_round(self, max_starts: int) -> None:
        self.sizes.append(len(self.pending_reads))
        super()._run_round(max_starts)


class WatchedLoop(GatewayLoop):
    """The server's own loop, whose sockets share their rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds = Watched(self)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """The server's own loop."""
    return "asyncio", {"loop_factory": WatchedLoop}


def rounds() -> Watched:
    """Those of the loop that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, WatchedLoop)
    return loop.rounds


def at_once() -> None:
    """Have the next that is heard begin a round."""
    rounds().direct_reads = 0


async def echoing(peer: Peer) -> None:
    """An upstream that says what it was asked."""
    while True:
        said = json.loads((await peer.request()).body)["messages"][-1]["content"]
        body = ANSWER.replace(b"Four.", said.encode())
        await peer.answer(body, head=b"content-type: application/json\r\n")


async def test_many_at_once_each_get_their_own_answer(counted: Counted) -> None:
    """Misses, then hits of the same (which the general path tells first), all in a few rounds."""
    async with house(echoing) as gateway:
        clients = await taught(gateway, MANY)
        for way in ("asked", "kept", "kept again"):
            del rounds().sizes[:]
            before = counted.whole, counted.told
            at_once()
            for number, client in enumerate(clients):
                client.send(f"the question of {number}")
            for number, client in enumerate(clients):
                status, headers, body = await client.read()
                said = json.loads(body)["choices"][0]["message"]["content"]
                assert (status, said) == (200, f"the question of {number}")
                assert headers["x-slipstream-cache"] == ("miss" if way == "asked" else "exact")
            assert max(rounds().sizes) >= MIN_ROUND_READS
            if way != "kept":
                done = counted.whole - before[0] + counted.told - before[1]
                assert done >= MANY // 2
        await rest(gateway)


async def test_clients_that_end_or_leave_in_a_round() -> None:
    """Who says no more behind its question is answered; who leaves is in nobody's way."""
    async with house(answering) as gateway:
        clients = await taught(gateway, MANY)
        for client in clients:
            await client.ask("a kept one")
        del rounds().sizes[:]
        at_once()
        for number, client in enumerate(clients):
            client.send("a kept one" if number % 3 else f"a new one {number}")
            if number % 4 == 1:
                client.writer.write_eof()
            elif number % 4 == 2:
                client.writer.transport.abort()
        for number, client in enumerate(clients):
            if number % 4 == 0 or (number % 4 == 1 and number % 3):
                status, *_ = await client.read()
                assert status == 200
        assert max(rounds().sizes) >= MIN_ROUND_READS
        await rest(gateway)


async def test_an_upstream_that_ends_behind_its_answer_in_a_round() -> None:
    """The answer is whole, so the end says nothing; the next question goes over another connection."""

    async def ending(peer: Peer) -> None:
        await peer.request()
        await peer.answer(ANSWER, head=b"content-type: application/json\r\n")
        peer.close()

    async with house(ending) as gateway:
        clients = await taught(gateway, MANY)
        for turn in range(2):
            at_once()
            for number, client in enumerate(clients):
                client.send(f"question {turn} of {number}")
            async with asyncio.timeout(PATIENCE_S):
                for client in clients:
                    status, *_ = await client.read()
                    assert status == 200
        await rest(gateway)


BEHIND = {
    "kept": dict[str, object](),
    "kept, then the end": {"ends": True},
    "kept, streamed": {"stream": True},
    "kept, streamed, then the end": {"stream": True, "ends": True},
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
async def test_what_was_asked_behind_a_question_is_answered_behind_it(
    behind: dict[str, object],
) -> None:
    """The first answer waits for the end of its round: one that is ready at once must not overtake it."""
    waits, go = asyncio.Event(), asyncio.Event()

    async def held(peer: Peer) -> None:
        while True:
            said = json.loads((await peer.request()).body)["messages"][-1]["content"]
            if said == "wait":
                waits.set()
                await go.wait()
            body = ANSWER.replace(b"Four.", said.encode())
            await peer.answer(body, head=b"content-type: application/json\r\n")

    async with house(held) as gateway, asyncio.timeout(PATIENCE_S):
        client, other, *_ = await taught(gateway, MANY)
        await client.ask("kept")
        client.send("wait")
        await waits.wait()
        asked = dict(behind)
        client.more = b"connection: close\r\n" if asked.pop("ends", False) else b""
        client.send("kept", **asked)
        await other.ask(
            "kept"
        )  # sent later: when it is answered, what was sent before has been read
        at_once()
        go.set()
        _, headers, body = await client.read()
        assert headers["x-slipstream-cache"] == "miss"
        assert json.loads(body)["choices"][0]["message"]["content"] == "wait"
        second = await client.reader.readuntil(b"\r\n\r\n")
        assert b"x-slipstream-cache: exact\r\n" in second
        assert b"kept" in await client.reader.readuntil(b"kept")


async def test_many_streams_at_once_each_get_their_own_tokens_to_the_end(counted: Counted) -> None:
    """More than a round begins at once; then all end together, and the next begin beside their ends."""

    async def telling(peer: Peer) -> None:
        while True:
            asked = json.loads((await peer.request()).body)
            said = asked["messages"][-1]["content"]
            if not asked.get("stream"):
                body = ANSWER.replace(b"Four.", said.encode())
                await peer.answer(body, head=b"content-type: application/json\r\n")
                continue
            words = [chunk(frame({"content": f" {said} {number}"})) for number in range(3)]
            await peer.send(HEAD + words[0])
            for piece in (*words[1:], chunk(STOP) + chunk(USAGE + DONE) + END):
                await peer.send(piece)

    async with house(telling) as gateway:
        clients = await taught(gateway, MANY)
        for turn in range(4):
            del rounds().sizes[:]
            at_once()
            for number, client in enumerate(clients):
                client.send(f"stream {turn} of {number}", stream=True)
            for number, client in enumerate(clients):
                await client.reader.readuntil(b"\r\n\r\n")
                told = await body(client)
                words = b"".join(
                    frame({"content": f" stream {turn} of {number} {each}"}) for each in range(3)
                )
                assert told.startswith(words)
                assert told.endswith(STOP + DONE)
            assert max(rounds().sizes) >= MIN_ROUND_READS
        assert counted.whole >= 4 * MANY
        await rest(gateway)
