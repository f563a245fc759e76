"""Whatever is asked, in whatever pieces, both ways through the gateway do the same with it.

Two gateways of one configuration get the same requests over one connection each; that of the second says
``x-slipstream-tags`` too, a wish, so that nothing there takes the fast path. What clients are told, what
the upstream is asked, what the traces, the ledger and the metrics hold must be alike. The upstream's answer
is made of the request's own bytes, so that none can be taken for another's.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.test_fast_path import TIMES, Counted, counted, told
from tests.support.gateway import Running, configuration, running_gateway
from tests.support.raw_server import PATIENCE_S, Peer, RawServer, raw_server

pytestmark = pytest.mark.anyio
__all__ = ["counted"]
TAGS = b"x-slipstream-tags: a\r\n"
KEYS = (b"sk-one", b"sk-two", b"sk-limited", b"sk-nobodys")
ADMIN = b"sk-admin"
CONVERSATIONS = 40
CHUNKS = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def answer_to(body: bytes) -> bytes:
    """A whole answer that only this request has."""
    said = sha256(body).hexdigest()
    message = {"role": "assistant", "content": f"Answer {said}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": len(body), "completion_tokens": 3, "total_tokens": len(body) + 3}
    return json.dumps({"id": said[:8], "created": 1, "choices": [choice], "usage": usage}).encode()


def stream_to(body: bytes) -> list[bytes]:
    """Likewise as a stream, chunk by chunk."""
    said = sha256(body).hexdigest()
    frames = []
    for delta, finish in [({"content": said[:9]}, None)] * 3 + [({}, "stop")]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        told = {"id": said[:8], "created": 1, "model": "m", "choices": [choice]}
        frames.append(b"data: %b\n\n" % json.dumps(told, separators=(",", ":")).encode())
    if b'"include_usage":true' in body:
        used = b'{"prompt_tokens":%d,"completion_tokens":3}' % len(body)
        frames.append(b'data: {"id":"x","choices":[],"usage":%b}\n\n' % used)
    frames.append(b"data: [DONE]\n\n")
    return [b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames] + [b"0\r\n\r\n"]


@dataclass
class Upstream:
    """Answers what it is asked, and keeps it."""

    asked: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def __call__(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            body = request.body
            self.asked.append((request.line, body))
            if b"FAIL" in body:
                error = b'{"error":{"message":"no","type":"x"}}'
                await peer.send(
                    b"HTTP/1.1 500 No\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                    % (len(error), error)
                )
            elif re.search(rb'"stream"\s*:\s*true', body):
                head, *chunks = stream_to(body)
                await peer.send(b"HTTP/1.1 200 OK\r\n" + CHUNKS + head, *chunks)
            else:
                await peer.answer(answer_to(body), head=b"content-type: application/json\r\n")


@dataclass
class House:
    """One gateway with its upstream."""

    gateway: Running
    upstream: Upstream
    more: bytes

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection."""
        url = urlsplit(self.gateway.url)
        return await asyncio.open_connection(url.hostname, url.port, limit=1 << 20)

    async def rest(self) -> None:
        """Wait until nothing of any request is left; it must come to that."""
        edge = self.gateway.context.edge
        gate, load = edge.gateway.providers["local"].limiter, edge.gateway.load.deployment("small")  # type: ignore[attr-defined]
        async with asyncio.timeout(PATIENCE_S):
            while (  # noqa: ASYNC110 - the end of a turn owes a test no event
                edge.in_flight.now or len(edge.gateway.flights) or gate.in_use or load.in_flight
            ):
                await asyncio.sleep(0.001)

    async def account(self) -> object:
        """What the ledger says that is no time."""
        await self.gateway.context.edge.finish_deferred_work()
        return without_times(self.gateway.context.telemetry.ledger.savings())


def without_times(said: object) -> object:
    """``said`` without its members that hold seconds; sums of money to a billionth of a dollar."""
    if isinstance(said, float):
        return round(said, 9)  # added up in another order
    if not isinstance(said, dict):
        return said
    return {k: without_times(v) for k, v in said.items() if not k.endswith(("_s", "since"))}


@asynccontextmanager
async def two_houses() -> AsyncIterator[tuple[House, House]]:
    """That of the fast path, and that of the general path."""
    async with AsyncExitStack() as stack:
        built = []
        for more in (b"", TAGS):
            upstream = Upstream()
            server: RawServer = await stack.enter_async_context(raw_server(upstream))
            keys = [
                {"key": KEYS[0].decode(), "tenant": "one"},
                {"key": KEYS[1].decode(), "tenant": "two"},
                {"key": ADMIN.decode(), "tenant": "boss", "admin": True},
                {"key": KEYS[2].decode(), "tenant": "three", "requests_per_minute": 100_000},
            ]
            values = configuration(
                f"http://127.0.0.1:{server.port}",
                auth={"required": True, "keys": keys},
                server={"max_body_bytes": 70_000},
            )
            values["providers"]["local"]["retries"] = 0  # type: ignore[index]
            gateway = await stack.enter_async_context(running_gateway(values))
            built.append(House(gateway, upstream, more))
        yield built[0], built[1]


@dataclass(frozen=True)
class Ask:
    """One request."""

    body: bytes
    key: bytes = KEYS[0]
    target: bytes = b"/v1/chat/completions"
    lines: bytes = b""
    version: bytes = b"HTTP/1.1"
    chunked: bool = False

    def raw(self, more: bytes) -> bytes:
        """As it goes out."""
        lines = b"host: x\r\nauthorization: Bearer %b\r\n%b%b" % (self.key, self.lines, more)
        body = self.body
        if self.chunked:
            lines += b"transfer-encoding: chunked\r\n"
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        else:
            lines += b"content-length: %d\r\n" % len(body)
        return b"POST %b %b\r\n%b\r\n%b" % (self.target, self.version, lines, body)

    @property
    def head_ends(self) -> bool:
        """Whether the connection ends with it."""
        return self.version != b"HTTP/1.1" or b"close" in self.lines


def plain(text: object, **more: object) -> bytes:
    """An ordinary body."""
    said = {"model": "small", "messages": [{"role": "user", "content": text}], **more}
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode(
        errors="surrogatepass"
    )


async def read_answer(reader: asyncio.StreamReader) -> tuple[object, ...]:
    """Status, headers and body of the next answer, without what differs each time; () at the end."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    except (asyncio.IncompleteReadError, ConnectionError) as ended:
        return ("ended", getattr(ended, "partial", b""))
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = dict(line.split(": ", 1) for line in lines)
    if " 100 " in first:
        return await read_answer(reader)  # said only where the body came in a later read
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    request_id = headers.get("x-request-id", "nothing").encode()
    kept = told(headers) if "server-timing" in headers else headers | {"date": ""}
    # An error in the Messages dialect says the request's id, which is a number of its own length.
    for name in ("x-request-id", "request-id", *["content-length"] * (request_id in body)):
        kept.pop(name, None)
    kept = {
        name: value for name, value in kept.items() if not name.startswith("x-ratelimit-")
    }  # by time
    return first, kept, body.replace(request_id, b"ID")


async def converse(house: House, asks: list[list[Ask]], cuts: list[list[int]]) -> list[object]:
    """Ask group by group; of each group all requests at once, in the pieces that ``cuts`` say."""
    said: list[object] = []
    reader, writer = await house.open()
    try:
        for group, places in zip(asks, cuts, strict=True):
            raw = b"".join(ask.raw(house.more) for ask in group)
            # Cut at the same places of what both say: behind the head's lines, counted from the end.
            at = sorted({max(1, len(raw) - 1 - place % len(raw)) for place in places})
            for start, end in itertools.pairwise([0, *at, len(raw)]):
                writer.write(raw[start:end])
                for _ in range(3):
                    await asyncio.sleep(0)
            for ask in group:
                answer = await read_answer(reader)
                said.append(answer)
                if answer[0] == "ended" or "close" in str(answer[1]) or ask.head_ends:
                    writer.transport.abort()
                    reader, writer = await house.open()
                    break
    finally:
        writer.transport.abort()
    await house.rest()
    said.append(await house.account())
    return said


def traces(house: House, count: int) -> list[object]:
    """The newest ones, without times."""
    found = []
    for trace in house.gateway.context.telemetry.traces.latest(count):
        trace["cache"].pop("entry")  # type: ignore[attr-defined]
        spans = [(span["stage"], span["detail"]) for span in trace["spans"]]  # type: ignore[attr-defined]
        found.append({k: v for k, v in trace.items() if k not in TIMES} | {"stages": spans})
    return found


async def agree(houses: tuple[House, House], asks: list[list[Ask]], cuts: list[list[int]]) -> None:
    """Hold both ways to the same."""
    both = []
    for house in houses:
        house.upstream.asked.clear()
        # Heads, and the upstream's, are known from here on.
        said = await converse(house, asks, cuts)
        both.append((said, sorted(house.upstream.asked), traces(house, sum(map(len, asks)))))
    for straightly, general in zip(*both, strict=True):
        assert straightly == general


TEXTS = [
    '"}],"model":"small"}', '","role":"user"}]}', "\\", '\\"', "\n", "\x7f", "\u2028", "\ud800", "", "words",
    "é", "日本", "5f0c a text of the gateway's own 9be1", "model", '"model":"small"', "FAIL", " ", "\x00",
    "x" * 4_000, "x" * 4_096, "x" * 65_400, "x" * 65_536, "x" * 69_930, "x" * 70_001,
]  # fmt: skip
ODD = [
    b"", b"{}", b"[]", b"nul", b"\xef\xbb\xbf{}", b"{" * 1_000,
    b'{"model":"small","messages":' + b"[" * 1_000,
    b'{"model":"small","model":"large","messages":[{"role":"user","content":"@"}]}',
    b'{"model":"small","messages":[{"role":"user","content":"a","content":"@"}]}',
    b'{"mod\\u0065l":"small","messages":[{"role":"user","content":"@"}]}',
    b'{"model":"small","messages":[{"role":"user","content":"@"}],"temperature":NaN}',
    b'{"model":"small","messages":[{"role":"user","content":"@"}],"temperature":1e999}',
    b'{"model":"small","messages":[{"role":"user","content":"@"}],"max_tokens":99999999999999999999}',
    b'{"model":"small","messages":[{"role":"user","content":"@"}],"max_tokens":1.0}',
    b' \n\t{"model":"small","messages":[{"role":"user","content":"@"}]} \n',
    b'{"model":"small","messages":[{"role":"user","content":"@"}]}x',
    b'{"model":"small","messages":[{"role":"user","content":"@"}]}\x00',
    b'{"model":"small","messages":[{"role":"user","content":"\\ud800@"}]}',
    b'{"model":"small","messages":[{"role":"user","content":"\xff@"}]}',
    b'{"model":"small","messages":[{"role":"user","content":"\xed\xa0\x80@"}]}',
    b'{"messages":[{"content":"@","role":"user"}],"model":"small"}',
    b'{"model":"small","messages":[{"role":"user","content":"@"}],"user":"@"}',
    b'{"model":"nobody","messages":[{"role":"user","content":"@"}]}',
    b'{"model":"large","messages":[{"role":"user","content":"@"}]}',
    b'{"model":"small","messages":[{"role":"user","content":"@"}],"stream":true}',
    b'{"model":"small","stream":true,"messages":[],"stream_options":{"include_usage":true}}',
    plain("@", stream=True, stream_options={"include_usage": True}),
    b'{"model":"small","stream":false,"messages":[{"role":"user","content":"@"}],"stop":["a"]}',
    b'{"model":"small","unknown":{"a":1},"messages":[{"role":"user","content":"@"}]}',
]  # fmt: skip


def bodies(draw: Random, number: str) -> list[bytes]:
    """Bodies of one conversation: many of them nearly the one before."""
    before = plain(f"begin {number}")
    said = []
    for _ in range(draw.randint(1, 7)):
        how = draw.choice(["text", "odd", "again", "again", "edit", "field"])
        if how == "again":
            said += [before, before]
        elif how == "text":
            before = plain(draw.choice(TEXTS) + number)
        elif how == "odd":
            before = draw.choice(ODD).replace(b"@", number.encode())
        elif how == "field":
            fields = [{"temperature": 0}, {"temperature": 0.0}, {"user": "u"}, {"n": 1}]
            before = plain(f"field {number}", **draw.choice(fields))
        elif how == "edit" and before:
            at = draw.randrange(len(before))
            put = draw.choice([b"", b'"', b"\\", b"}", b"x", b"\x00", b"\xff", b" ", b","])
            before = before[:at] + put + before[at + draw.randint(0, 1) :]
        said.append(before)
    return said


ASKED_OTHERWISE = [
    {"lines": b"Content-Type: application/json\r\nX-Odd:\r\n"},
    {"lines": b"x-request-id: mine-1\r\n"},
    {"lines": b"x-request-id: mine-1\r\nx-request-id: mine-2\r\n"},
    {"lines": b"x-request-id: bad id\r\n"},
    {"lines": b"authorization: Bearer sk-two\r\n"},
    {"lines": b"x-slipstream-cache: bypass\r\n"},
    {"lines": b"x-slipstream-cache: refresh\r\n"},
    {"lines": b"x-slipstream-cache: only\r\n"},
    {"lines": b"x-slipstream-cache: nonsense\r\n"},
    {"lines": b"cache-control: no-store\r\n"},
    {"lines": b"anthropic-version: 2023-06-01\r\n"},
    {"lines": b"openai-beta: assistants=v2\r\n"},
    {"lines": b"expect: 100-continue\r\n"},
    {"lines": b"connection: close\r\n"},
    {"lines": b"connection: Keep-Alive\r\n"},
    {"lines": b"origin: http://elsewhere\r\n"},
    {"version": b"HTTP/1.0"},
    {"chunked": True},
    {"target": b"http://x/v1/chat/completions"},
    {"target": b"/v1/chat/completions?a=b"},
    {"target": b"/v1//chat/completions"},
    {"target": b"/v1/messages"},
    *({"key": key} for key in KEYS[1:]),
]


def conversation(seed: int) -> tuple[list[list[Ask]], list[list[int]]]:
    """What is asked, and where it is cut: the same for the same ``seed``."""
    draw, number = Random(seed), f"{seed:08d}"
    # What the connections know is taught first.
    groups = [[Ask(plain(f"teach {number} {each}"))] for each in range(3)]
    cuts: list[list[int]] = [[], [], []]
    said = bodies(draw, number)
    while said:
        size = draw.choice([1, 1, 1, 2, 3])
        group, said = said[:size], said[size:]
        otherwise = draw.choice([{}, draw.choice(ASKED_OTHERWISE)])
        groups.append([Ask(body, **otherwise) for body in group])  # type: ignore[arg-type]
        most = 200 + len(group[0])
        places = [draw.randrange(most) for _ in range(draw.randint(0, 2))]
        cuts.append(places if len(group) == 1 else [])
    return groups, cuts


async def test_both_ways_say_and_do_the_same(counted: Counted) -> None:
    """Bodies, heads and cuts of any kind, several requests at once among them; and the metrics of all."""
    async with two_houses() as houses:
        for seed in range(CONVERSATIONS):
            try:
                async with asyncio.timeout(6 * PATIENCE_S):
                    await agree(houses, *conversation(seed))
            except BaseException as raised:
                raised.add_note(f"seed {seed}")
                raise
        samples = [await metrics(house) for house in houses]
        assert samples[0] == samples[1]
        assert len(samples[0]) > 50
    assert counted.whole > CONVERSATIONS
    assert counted.told
    assert counted.handed_over


async def metrics(house: House) -> list[object]:
    """All samples but those of times."""
    reader, writer = await house.open()
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n\r\n" % ADMIN)
    _, _, text = await read_answer(reader)
    writer.transport.abort()
    return [
        (sample.name, sorted(sample.labels.items()), round(sample.value, 9))
        for family in text_string_to_metric_families(text.decode())  # type: ignore[attr-defined]
        for sample in family.samples
        if sample.name.startswith("slipstream_") and "seconds" not in sample.name
    ]
