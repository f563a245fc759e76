"""A stream on the fast path is what it is on the general path, whatever happens in the middle of it."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from tests.e2e.test_fast_path import (
    NEVER_ALIKE,
    SECRET,
    Client,
    Counted,
    connect,
    counted,
    house,
    newest,
    rest,
)
from tests.support.gateway import Running
from tests.support.raw_server import PATIENCE_S, Peer

pytestmark = pytest.mark.anyio
__all__ = ["counted"]

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def frame(delta: object, finish: str | None = None, **more: object) -> bytes:
    """One event of a Chat Completions stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    said = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    said |= {"choices": [choice], **more}
    return b"data: %b\n\n" % json.dumps(said, separators=(",", ":")).encode()


ROLE = frame({"role": "assistant", "content": ""})
WORDS = [frame({"content": f" word{number}"}) for number in range(6)]
STOP = frame({}, "stop")
USAGE = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[],'
    b'"usage":{"prompt_tokens":7,"completion_tokens":6,"total_tokens":13}}\n\n'
)


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


WHOLE = [HEAD + chunk(ROLE), *map(chunk, WORDS), chunk(STOP) + chunk(USAGE + DONE) + END]


class Upstream:
    """Streams ``pieces``, one write each; stops before piece ``pause`` until ``go`` is set."""

    def __init__(self) -> None:
        self.pieces = WHOLE
        self.pause = -1
        self.paused: asyncio.Queue[Peer] = asyncio.Queue()
        self.go = asyncio.Event()
        self.breaks_off = False

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            for place, piece in enumerate(self.pieces):
                if place == self.pause:
                    self.paused.put_nowait(peer)
                    await self.go.wait()
                await peer.send(piece)
            if self.breaks_off:
                peer.reset()
                return


async def begin(client: Client, text: str, **fields: object) -> dict[str, str]:
    """Ask for a stream; its headers."""
    client.send(text, stream=True, **fields)
    head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    return {"status": first.split()[1], **dict(line.split(": ", 1) for line in lines)}


async def body(client: Client) -> bytes:
    """What the chunks of the body hold, up to its end or the connection's."""
    said = b""
    while True:
        line = await asyncio.wait_for(client.reader.readline(), PATIENCE_S)
        if not line:
            return said + b"(cut)"
        size = int(line, 16)
        data = await client.reader.readexactly(size + 2)
        if not size:
            return said
        said += data[:-2]


async def stream(client: Client, text: str, **fields: object) -> tuple[dict[str, str], bytes]:
    """Ask for a stream and read it whole."""
    headers = await begin(client, text, **fields)
    if "content-length" in headers:
        return headers, await client.reader.readexactly(int(headers["content-length"]))
    return headers, await body(client)


async def warm(gateway: Running, upstream: Upstream, client: Client) -> None:
    """Have the client's head and the upstream's known."""
    pieces, upstream.pieces = upstream.pieces, WHOLE
    for number in range(3):
        await stream(client, f"warm {client.more!r} {number}")
    upstream.pieces = pieces
    await rest(gateway)


def same(headers: dict[str, str]) -> dict[str, str]:
    """The headers that do not change, and the names of all."""
    stages = [entry.split(";")[0] for entry in headers["server-timing"].split(", ")]
    kept = {name: value for name, value in headers.items() if name not in NEVER_ALIKE}
    return kept | {"names": " ".join(headers), "stages": " ".join(stages)}


@pytest.mark.parametrize("shown", [False, True], ids=["usage hidden", "usage shown"])
async def test_a_stream_says_the_same_by_both_ways(counted: Counted, shown: bool) -> None:
    """Headers, frames, and every field of the turn's record; asked again, the kept answer too."""
    upstream = Upstream()
    options = {"stream_options": {"include_usage": True}} if shown else {}
    async with house(upstream) as gateway:
        plain = await connect(gateway)
        tagged = await connect(gateway, b"x-slipstream-tags: a\r\n")
        for client in (plain, tagged):
            await warm(gateway, upstream, client)
        whole, handed_over = counted.whole, counted.handed_over
        told = []
        for client in (plain, tagged):
            headers, said = await stream(client, f"compare {client.more!r}", **options)
            told.append((same(headers), said, newest(gateway)))
        assert told[0] == told[1]
        assert told[0][1] == b"".join([ROLE, *WORDS, STOP, USAGE * shown, DONE])
        assert told[0][2]["usage"]["output_tokens"] == 6  # type: ignore[index]
        assert (counted.whole, counted.handed_over) == (whole + 1, handed_over)
        headers, said = await stream(plain, f"compare {plain.more!r}", **options)
        assert headers["x-slipstream-cache"] == "exact"
        assert b"word5" in said
        await rest(gateway)


def cut_everywhere() -> list[bytes]:
    """The stream in pieces of 37 bytes, cut without regard to anything."""
    raw = b"".join(WHOLE)
    return [raw[at : at + 37] for at in range(0, len(raw), 37)]


QUOTED = frame({"content": ' she said "no"\n'})
TOOL = frame({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": ""}}]})
MIDST = frame({"content": " so far"}, usage={"prompt_tokens": 7, "completion_tokens": 2})

ODD = {
    "words unlike the one before": [
        *WHOLE[:3],
        chunk(QUOTED),
        *map(chunk, WORDS[1:3]),
        b"0%x\r\n%b\r\n" % (len(WORDS[3]), WORDS[3]),
        chunk(TOOL),
        *map(chunk, WORDS[2:4]),
        chunk(MIDST),
        *WHOLE[5:],
    ],
    "words by twos": [
        *WHOLE[:3],
        chunk(WORDS[2]) + chunk(WORDS[3]),
        chunk(QUOTED) + chunk(WORDS[0]),
        chunk(WORDS[1]) + chunk(WORDS[2]) + chunk(WORDS[3]),
        chunk(WORDS[1]) + chunk(WORDS[2])[:30],
        chunk(WORDS[2])[30:] + chunk(WORDS[3]),
        chunk(WORDS[3]),
        *WHOLE[5:],
    ],
    "twos from the beginning": [
        HEAD + chunk(ROLE) + chunk(WORDS[0]),
        *(chunk(word) * 2 for word in WORDS),
        chunk(WORDS[3]) + chunk(STOP) + chunk(USAGE + DONE) + END,
    ],
    "half a word between words": [
        *WHOLE[:4],
        chunk(WORDS[3][:40]),
        chunk(WORDS[3][40:]),
        *WHOLE[5:],
    ],
    "a word inside of another": [
        *WHOLE[:4],
        chunk(WORDS[3][:-2]),
        *WHOLE[5:],
    ],
    "in one piece": [b"".join(WHOLE)],
    "in small pieces": cut_everywhere(),
    "two frames at once": [HEAD, chunk(ROLE + WORDS[0]), *map(chunk, WORDS[1:]), *WHOLE[-1:]],
    "no DONE": [HEAD + chunk(ROLE), *map(chunk, WORDS), chunk(STOP) + END],
    "DONE alone": [*WHOLE[:-1], chunk(STOP), chunk(USAGE), chunk(DONE), END],
    "something behind the end": [*WHOLE[:-1], chunk(STOP + USAGE + DONE), chunk(WORDS[0]) + END],
    "an error first": [HEAD + chunk(b'data: {"error":{"message":"no","type":"x"}}\n\n') + END],
    "an error later": [*WHOLE[:4], chunk(b'data: {"error":{"message":"no","type":"x"}}\n\n') + END],
    "an error that tells our key": [
        *WHOLE[:4],
        chunk(b'data: {"error":{"message":"no %b","type":"x"}}\n\n' % SECRET.encode()) + END,
    ],
    "cut off": [*WHOLE[:4], END],
    "no stream at all": [HEAD + chunk(b"<html>sorry</html>") + END],
    "a comment first": [HEAD + chunk(b": hello\n\n") + chunk(ROLE), *WHOLE[1:]],
}


@pytest.mark.parametrize("odd", ODD)
async def test_a_stream_that_is_not_plain_ends_alike_by_both_ways(
    counted: Counted, odd: str
) -> None:
    """Status, frames and the record."""
    upstream = Upstream()
    upstream.pieces = ODD[odd]
    async with house(upstream, server={"sse_comment_s": 30}) as gateway:
        plain = await connect(gateway)
        tagged = await connect(gateway, b"x-slipstream-tags: a\r\n")
        for client in (plain, tagged):
            await warm(gateway, upstream, client)
        told = []
        for client in (plain, tagged):
            headers, said = await stream(client, f"odd {client.more!r}")
            await rest(gateway)
            record = newest(gateway)
            request_id = headers["x-request-id"].encode()
            told.append((headers["status"], said.replace(request_id, b"ID"), record))
        assert told[0] == told[1]
        assert SECRET.encode() not in told[0][1]
        assert (await stream(plain, "and the next, whatever it brings"))[0]["status"] in {
            "200",
            told[0][0],
        }
        await rest(gateway)
    assert counted.whole + counted.handed_over > 0


@pytest.mark.parametrize("place", [1, 4])
async def test_a_broken_connection_ends_alike_by_both_ways(counted: Counted, place: int) -> None:
    """An error in the stream, nothing kept."""
    upstream = Upstream()
    async with house(upstream) as gateway:
        plain = await connect(gateway)
        tagged = await connect(gateway, b"x-slipstream-tags: a\r\n")
        for client in (plain, tagged):
            await warm(gateway, upstream, client)
        upstream.pieces, upstream.breaks_off = WHOLE[:place], True
        told = []
        for client in (plain, tagged):
            headers, said = await stream(client, f"broken {client.more!r}")
            await rest(gateway)
            record = newest(gateway)
            del record["attempts"]
            told.append(
                (headers["status"], said.replace(headers["x-request-id"].encode(), b""), record)
            )
        assert told[0] == told[1]
        assert counted.handed_over > 0


@pytest.mark.parametrize("place", [0, 1, 4])
async def test_a_client_that_leaves_a_stream_stops_it_and_counts_as_499(place: int) -> None:
    """Before the upstream's head, behind the first frame and later."""
    upstream = Upstream()
    async with house(upstream) as gateway:
        client = await connect(gateway)
        await warm(gateway, upstream, client)
        upstream.pause = place
        client.send("leave", stream=True)
        peer = await asyncio.wait_for(upstream.paused.get(), PATIENCE_S)
        if place:
            await client.reader.readuntil(b"word2" if place > 1 else b"assistant")
        client.writer.transport.abort()
        await asyncio.wait_for(peer.gone.wait(), PATIENCE_S)
        await rest(gateway)
        trace = newest(gateway)
        window = "mid_stream" if place else "before_headers"
        assert (trace["status"], trace["disconnect"], trace["attempts"]) == (499, window, 1)
        assert trace["cost_usd"] == 0


async def test_who_joins_a_stream_gets_what_was_said_and_the_rest() -> None:
    """Also when the first client leaves."""
    for leaves in (False, True):
        upstream = Upstream()
        async with house(upstream) as gateway:
            first, second = await connect(gateway), await connect(gateway)
            for client in (first, second):
                await warm(gateway, upstream, client)
            upstream.pause = 4
            await begin(first, "together")
            peer = await asyncio.wait_for(upstream.paused.get(), PATIENCE_S)
            headers = await begin(second, "together")
            assert headers["x-slipstream-cache"] == "coalesced"
            assert headers["x-slipstream-model"] == "local/sim-fast"
            if leaves:
                first.writer.transport.abort()
            upstream.go.set()
            whole = b"".join([ROLE, *WORDS, STOP, DONE])
            assert await body(second) == whole
            if not leaves:
                assert await body(first) == whole
            assert peer.requests <= 7
            await rest(gateway)


async def test_silence_is_filled_before_the_head_and_in_the_middle() -> None:
    """By comments, one after the other, as long as it lasts."""
    upstream = Upstream()
    async with house(upstream, server={"sse_comment_s": 0.05}) as gateway:
        client = await connect(gateway)
        await warm(gateway, upstream, client)
        for place in (0, 4):
            upstream.pause = place
            upstream.go.clear()
            headers = await begin(client, f"silent {place}")
            assert headers["status"] == "200"
            await asyncio.wait_for(client.reader.readuntil(b": keep-alive\n\n"), PATIENCE_S)
            await asyncio.wait_for(client.reader.readuntil(b": keep-alive\n\n\r\n"), PATIENCE_S)
            upstream.go.set()
            said = await body(client)
            assert WORDS[5] in said
            assert said.endswith(DONE)
            await rest(gateway)
            upstream.paused.get_nowait()


async def test_a_client_that_reads_slowly_holds_the_upstream_back_and_gets_all(
    counted: Counted,
) -> None:
    """What it has not read does not pile up here."""
    long = frame({"content": "x" * 60_000})
    upstream = Upstream()
    async with house(upstream) as gateway:
        client = await connect(gateway)
        await warm(gateway, upstream, client)
        client.reader._limit = 1 << 16  # type: ignore[attr-defined]
        upstream.pieces = [HEAD + chunk(ROLE), *itertools.repeat(chunk(long), 400), *WHOLE[-1:]]
        before = counted.handed_over
        await begin(client, "slow")
        async with asyncio.timeout(PATIENCE_S):
            while counted.handed_over == before:  # noqa: ASYNC110 - a full buffer owes a test no event
                await asyncio.sleep(0.005)
        assert await body(client) == b"".join([ROLE, long * 400, STOP, DONE])
        await rest(gateway)
        assert newest(gateway)["status"] == 200


async def test_a_shutdown_ends_a_stream_with_an_error_that_says_to_ask_again() -> None:
    """In the stream's own form, and the upstream is stopped."""
    upstream = Upstream()
    async with house(upstream) as gateway:
        client = await connect(gateway)
        await warm(gateway, upstream, client)
        upstream.pause = 3
        await begin(client, "too late")
        peer = await asyncio.wait_for(upstream.paused.get(), PATIENCE_S)
        gateway.context.edge.heartbeat.stopping = True
        for task in gateway.server.server_state.tasks:
            task.cancel(msg="the grace is over")
        said = await body(client)
        assert said.startswith(ROLE + WORDS[0])
        assert b"retry" in said
        await asyncio.wait_for(peer.gone.wait(), PATIENCE_S)
        await rest(gateway)


class Paced(Upstream):
    """Says each word only when the client has read the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[bytes, asyncio.Semaphore] = {}
        """By a word of the request."""

    async def __call__(self, peer: Peer) -> None:
        while True:
            asked = (await peer.request()).body
            heard = next((each for word, each in self.heard.items() if word in asked), None)
            for place, piece in enumerate(self.pieces):
                if heard is not None and 1 < place < len(self.pieces) - 1:
                    async with asyncio.timeout(PATIENCE_S):
                        await heard.acquire()
                await peer.send(piece)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (b"/v1/chat/completions", b""),
        (b"/v1/chat/completions", b"x-slipstream-tags: a\r\n"),
        (b"/v1/messages", b""),
    ],
    ids=["straight", "general", "another dialect"],
)
async def test_each_word_of_many_streams_goes_on_before_the_next_has_come(
    path: bytes, more: bytes
) -> None:
    """Nothing is gathered: an upstream that waits until its last word was read is never kept waiting."""
    upstream = Paced()
    async with house(upstream) as gateway:
        clients = [await connect(gateway, more) for _ in range(12)]
        for client in clients:
            client.path = path
        for client in clients[:2]:
            await warm(gateway, upstream, client)

        async def listen(number: int, client: Client) -> None:
            word = b"stream-%d-" % number
            heard = upstream.heard[word] = asyncio.Semaphore(0)
            await begin(client, word.decode(), max_tokens=9)
            for place in range(len(WORDS)):
                await asyncio.wait_for(client.reader.readuntil(b" word%d" % place), PATIENCE_S)
                heard.release()
            await asyncio.wait_for(client.reader.readuntil(b"\r\n0\r\n\r\n"), PATIENCE_S)

        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(listen(number, client))
        await rest(gateway)
