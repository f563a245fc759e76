"""Two hundred connections at once that ask, pipeline, end and leave as they like: each hears its own answers.

What each does is drawn from one seed; when it happens is the machine's. On the server's own loop, so that
many of them share a round.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from random import Random
from urllib.parse import urlsplit

import pytest

from app.api.acceptor import GatewayLoop
from tests.e2e.test_fast_path import ANSWER, Counted, counted
from tests.e2e.test_fast_path_leaving import house, nothing_left, ours
from tests.e2e.test_fast_path_streams import DONE, HEAD, ROLE, STOP, chunk, frame
from tests.support.gateway import Running
from tests.support.raw_server import PATIENCE_S, Peer

pytestmark = pytest.mark.anyio
__all__ = ["counted"]
CONNECTIONS = 200
TURNS = 12
SHARED = 12
"""Questions that many ask."""
OPENAI = (
    b"accept: application/json\r\nuser-agent: AsyncOpenAI/Python 3.52.0\r\nx-stainless-lang: python\r\n"
    b"authorization: Bearer sk-nobodys\r\ncontent-type: application/json\r\n"
)
OTHER = OPENAI.replace(b"AsyncOpenAI", b"OpenAI") + b"x-stainless-retry-count: 0\r\n"
HEADS = (b"", OPENAI, OTHER)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """The server's own loop, whose sockets share their rounds."""
    return "asyncio", {"loop_factory": GatewayLoop}


def pieces_of(text: str) -> list[bytes]:
    """A stream that says ``text``, a word each."""
    words = [chunk(frame({"content": f"{word} "})) for word in text.split()]
    return [HEAD + chunk(ROLE), *words, chunk(STOP + DONE) + b"0\r\n\r\n"]


async def echoing(peer: Peer) -> None:
    """Says what it is asked; in what pieces depends on the question."""
    while True:
        asked = json.loads((await peer.request()).body)
        text = asked["messages"][-1]["content"]
        draw = Random(text)
        for _ in range(draw.choice([0, 0, 1, 5])):
            await asyncio.sleep(0)
        if asked.get("stream"):
            raw = b"".join(pieces_of(text))
            cuts = sorted(draw.sample(range(1, len(raw)), 3))
            cut = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
            await peer.send(*draw.choice([[raw], pieces_of(text), cut]))
            continue
        said = ANSWER.replace(b"Four.", text.encode())
        head = b"content-type: application/json\r\n"
        if draw.random() < 0.2:
            await peer.send(
                b"HTTP/1.1 200 OK\r\n%btransfer-encoding: chunked\r\n\r\n" % head,
                chunk(said) + b"0\r\n\r\n",
            )
        else:
            await peer.answer(said, head=head)


def request(text: str, lines: bytes, *, stream: bool) -> tuple[bytes, bytes]:
    """Head and body."""
    asked: dict[str, object] = {"model": "small", "messages": [{"role": "user", "content": text}]}
    asked |= {"stream": True} if stream else {}
    body = json.dumps(asked, separators=(",", ":")).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n"
    return head % (lines, len(body)), body


async def said_by(reader: asyncio.StreamReader) -> str:
    """What the next answer says, whole or streamed."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
    headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    if b"content-length" in headers:
        told = json.loads(await reader.readexactly(int(headers[b"content-length"])))
        text: str = told["choices"][0]["message"]["content"]
        return text.strip()  # kept from a stream it ends as that did
    raw = b""
    while size := int(await reader.readline(), 16):
        raw += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    *events, last, nothing = raw.split(b"\n\n")
    assert (last, nothing) == (b"data: [DONE]", b"")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events if event[:1] == b"d"]
    deltas = [choice["delta"] for each in chunks for choice in each["choices"]]
    return "".join([delta.get("content") or "" for delta in deltas]).strip()


class Guest:
    """One of the crowd."""

    def __init__(self, gateway: Running, number: int, did: Counter[str]) -> None:
        self.url, self.number, self.did = urlsplit(gateway.url), number, did
        self.draw = Random(f"crowd {number}")
        self.head = self.draw.choice(HEADS)
        self.apart = bool(self.head)
        """Writes head and body apart, as the official packages do."""
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def live(self) -> None:
        """Come, ask in every way, and go."""
        await self.connect()
        try:
            await self.converse()
        finally:
            self.writer.transport.abort()

    async def converse(self) -> None:
        """Ask now and then."""
        for turn in range(TURNS):
            how = self.draw.choices(
                ["ask", "pipeline", "end", "leave at once", "leave amid"], [8, 2, 1, 1, 1]
            )[0]
            self.did[how] += 1
            questions = [self.question(turn, place) for place in range(self.at_once(how))]
            more = b"connection: close\r\n" if how == "end" else b""
            for text, stream in questions:
                await self.ask(text, more, stream=stream)
            if how == "leave at once":
                for _ in range(self.draw.randrange(4)):
                    await asyncio.sleep(0)
                await self.connect_anew()
            elif how == "leave amid":
                await self.reader.readuntil(b"\r\n\r\n")
                await self.connect_anew()
            else:
                for text, _ in questions:
                    assert await said_by(self.reader) == text
            if how == "end":
                assert await self.reader.read() == b""
                await self.connect_anew()

    def at_once(self, how: str) -> int:
        """How many requests go out before an answer is read."""
        return self.draw.randint(2, 4) if how == "pipeline" else 1

    def question(self, turn: int, place: int) -> tuple[str, bool]:
        """One that many ask, or nobody else; and whether as a stream."""
        stream = self.draw.random() < 0.4
        if self.draw.random() < 0.3:
            return f"shared question {self.draw.randrange(SHARED)}", stream
        return f"question {turn} {place} of {self.number}", stream

    async def ask(self, text: str, more: bytes, *, stream: bool) -> None:
        """Write, in one or two pieces."""
        head, body = request(text, self.head + more, stream=stream)
        if self.apart:
            self.writer.write(head)
            await asyncio.sleep(0)
            self.writer.write(body)
        else:
            self.writer.write(head + body)

    async def connect(self) -> None:
        """Come."""
        self.reader, self.writer = await asyncio.open_connection(self.url.hostname, self.url.port)

    async def connect_anew(self) -> None:
        """Leave, and come again."""
        self.writer.transport.abort()
        await self.connect()


async def test_each_of_a_crowd_hears_its_own_answers(counted: Counted) -> None:
    """And when all have gone, nothing is left; then the next is served as ever."""
    did: Counter[str] = Counter()
    async with house(echoing) as gateway:  # type: ignore[arg-type]
        tasks = ours()
        async with asyncio.timeout(12 * PATIENCE_S), asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                group.create_task(Guest(gateway, number, did).live())
        await nothing_left(gateway, tasks)
        last = Guest(gateway, CONNECTIONS, did)
        await last.connect()
        for stream in (False, True, False):
            await last.ask("and the last", b"", stream=stream)
            assert await said_by(last.reader) == "and the last"
        last.writer.transport.abort()
        await nothing_left(gateway, tasks)
        open_ = gateway.context.edge.gateway.providers["local"].inner.pool.stats  # type: ignore[attr-defined]
        assert open_.open == open_.idle
    assert min(did.values()) > CONNECTIONS // 10
    assert counted.whole
    assert counted.handed_over
    assert counted.told
