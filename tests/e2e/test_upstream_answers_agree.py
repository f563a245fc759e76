"""Whatever shape an upstream's answer has, both ways through the gateway tell the same of it.

Each client gets the same odd answer several times over: the upstream's pool and the gateway may know its head
by then. ``x-slipstream-tags`` is a wish, so that nothing of the second client's takes the fast path.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.e2e.test_fast_path import (
    ANSWER,
    OPEN,
    Client,
    Counted,
    connect,
    counted,
    newest,
    rest,
)
from tests.e2e.test_fast_path_streams import DONE, HEAD, ROLE, STOP, WORDS, begin, body, chunk
from tests.support.gateway import Running, configuration, running_gateway
from tests.support.raw_server import PATIENCE_S, Peer, raw_server

pytestmark = pytest.mark.anyio
__all__ = ["counted"]
TAGS = b"x-slipstream-tags: a\r\n"
TIMES_TOLD = 3
JSON = b"content-type: application/json\r\n"
ERROR = b'{"error":{"message":"no","type":"x"}}'
SAID = b"".join([ROLE, *WORDS, STOP, DONE])
SILENT_FOR_S = 0.3
SLOW_S = 0.03
"""Sixteen times longer than may be silent, once shorter."""


class Odd:
    """Answers plainly until it is told of the pieces of something else; then that."""

    def __init__(self) -> None:
        self.pieces: list[bytes] | None = None
        self.then = ""
        """What follows the pieces: nothing, an end, or silence; or that a while passes between them."""

    async def __call__(self, peer: Peer) -> None:
        while True:
            asked = (await peer.request()).body
            if self.pieces is None:
                if b'"stream":true' in asked:
                    await peer.send(HEAD + chunk(SAID) + b"0\r\n\r\n")
                else:
                    await peer.answer(ANSWER, head=JSON)
                continue
            for piece in self.pieces:
                await peer.send(piece)
                await asyncio.sleep(SLOW_S if self.then == "slowly" else 0)
            if self.then == "close":
                peer.close()
                return
            if self.then == "silence":
                await peer.gone.wait()
                return


def whole(said: bytes, lines: bytes = JSON, status: bytes = b"200 OK") -> list[bytes]:
    """One answer in one piece."""
    head = b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n"
    return [head % (status, lines, len(said)) + said]


def chunked(said: bytes, lines: bytes = JSON) -> list[bytes]:
    """Likewise in two chunks."""
    head = b"HTTP/1.1 200 OK\r\n%btransfer-encoding: chunked\r\n\r\n" % lines
    return [head + chunk(said[:9]), chunk(said[9:]) + b"0\r\n\r\n"]


def dripped(raw: bytes) -> list[bytes]:
    """Cut into sixteen pieces."""
    size = len(raw) // 16 + 1
    return [raw[at : at + size] for at in range(0, len(raw), size)]


EVENTS = b"content-type: text/event-stream\r\n"
CUT = b"HTTP/1.1 200 OK\r\n" + JSON + b"content-length: %d\r\n\r\n" % len(ANSWER) + ANSWER[:40]
BARE = b"HTTP/1.1 200 OK\r\n"
EXTENDED = (
    b"HTTP/1.1 200 OK\r\n" + JSON + b"transfer-encoding: chunked\r\n\r\n"
    b"%x;a=b\r\n%b\r\n0;c\r\nx-trailer: t\r\n\r\n" % (len(ANSWER), ANSWER)
)

WHOLE: dict[str, tuple[list[bytes], str]] = {
    "gzip": (whole(gzip.compress(ANSWER, mtime=0), JSON + b"content-encoding: gzip\r\n"), ""),
    "deflate": (whole(zlib.compress(ANSWER), JSON + b"content-encoding: deflate\r\n"), ""),
    "br": (whole(b"\x8b\x01\x80{}\x03", JSON + b"content-encoding: br\r\n"), ""),
    "identity": (whole(ANSWER, JSON + b"content-encoding: identity\r\n"), ""),
    "gzip said, not done": (whole(ANSWER, JSON + b"content-encoding: gzip\r\n"), ""),
    "gzip, chunked": (
        chunked(gzip.compress(ANSWER, mtime=0), JSON + b"content-encoding: gzip\r\n"),
        "",
    ),
    "an empty body": (whole(b""), ""),
    "201": (whole(ANSWER, status=b"201 Created"), ""),
    "202": (whole(b"{}", status=b"202 Accepted"), ""),
    "204": ([b"HTTP/1.1 204 No Content\r\n" + JSON + b"\r\n"], ""),
    "204 with a length": ([b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"], ""),
    "205": (whole(b"", status=b"205 Reset Content"), ""),
    "206": (whole(ANSWER[:50], status=b"206 Partial Content"), ""),
    "302": (whole(b"", b"location: http://x/\r\n", b"302 Found"), ""),
    "304": ([b"HTTP/1.1 304 Not Modified\r\n" + JSON + b"\r\n"], ""),
    "100 first": ([b"HTTP/1.1 100 Continue\r\n\r\n", *whole(ANSWER)], ""),
    "103 first, in one piece": (
        [b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + whole(ANSWER)[0]],
        "",
    ),
    "101": ([b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"], ""),
    "429": (whole(ERROR, JSON + b"retry-after: 7\r\n", b"429 Too Many Requests"), ""),
    "429 by a date": (
        whole(
            ERROR,
            JSON + b"retry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\n",
            b"429 Too Many Requests",
        ),
        "",
    ),
    "429 in milliseconds": (
        whole(ERROR, JSON + b"retry-after-ms: 700\r\n", b"429 Too Many Requests"),
        "",
    ),
    "500": (whole(ERROR, JSON + b"retry-after: 7\r\n", b"500 Oh"), ""),
    "503 in HTML": (
        whole(b"<html>no</html>", b"content-type: text/html\r\n", b"503 No"),
        "",
    ),
    "529": (whole(ERROR, JSON + b"retry-after: 7\r\n", b"529 Overloaded"), ""),
    "an error in gzip": (
        whole(
            gzip.compress(ERROR, mtime=0), JSON + b"content-encoding: gzip\r\n", b"400 Bad Request"
        ),
        "",
    ),
    "HTML": (whole(b"<html>sorry</html>", b"content-type: text/html\r\n"), ""),
    "JSON called text": (whole(ANSWER, b"content-type: text/plain\r\n"), ""),
    "JSON of no type": (whole(ANSWER, b""), ""),
    "JSON with a charset": (
        whole(ANSWER, b"content-type: application/json; charset=utf-8\r\n"),
        "",
    ),
    "events": (whole(ROLE + STOP + DONE, EVENTS), ""),
    "chunks with extensions and trailers": ([EXTENDED], ""),
    "the same in pieces": (dripped(EXTENDED), ""),
    "a trailer that frames": ([EXTENDED.replace(b"x-trailer", b"content-length")], ""),
    "slowly": (dripped(whole(ANSWER)[0].replace(b"\r\n\r\n", b"\r\nx-slow: 1\r\n\r\n")), "slowly"),
    "chunks": (chunked(ANSWER), ""),
    "until the end": ([BARE + JSON + b"\r\n" + ANSWER], "close"),
    "until the end, in pieces": ([BARE + JSON + b"\r\n", ANSWER[:30], ANSWER[30:]], "close"),
    "cut short by the end": ([CUT], "close"),
    "cut short by silence": ([CUT], "silence"),
    "a head alone": ([CUT[:-40]], "silence"),
    "half a head": ([CUT[:30]], "silence"),
    "two lengths": (
        [BARE + JSON + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc"],
        "",
    ),
    "an end behind the answer": (whole(ANSWER, JSON + b"connection: close\r\n"), "close"),
    "more behind the answer": ([whole(ANSWER)[0] + b"HTTP/1.1 200 OK\r\n"], "close"),
}
"""What comes, and what then."""


def of_events(*pieces: bytes) -> list[bytes]:
    """A stream's head, and ``pieces`` behind."""
    return [HEAD, *pieces]


STREAMED: dict[str, tuple[list[bytes], str]] = {
    **{name: WHOLE[name] for name in ("gzip", "204", "304", "429", "500", "529", "HTML", "101")},
    "gzip of events": (
        chunked(gzip.compress(SAID, mtime=0), EVENTS + b"content-encoding: gzip\r\n"),
        "",
    ),
    "gzip said, not done": (chunked(SAID, EVENTS + b"content-encoding: gzip\r\n"), ""),
    "100 first": ([b"HTTP/1.1 100 Continue\r\n\r\n", HEAD + chunk(SAID) + b"0\r\n\r\n"], ""),
    "a length": (whole(SAID, EVENTS), ""),
    "until the end": ([BARE + EVENTS + b"\r\n" + SAID], "close"),
    "until the end, in pieces": ([BARE + EVENTS + b"\r\n", *dripped(SAID)], "close"),
    "until the end, cut": ([BARE + EVENTS + b"\r\n" + ROLE + WORDS[0]], "close"),
    "of another type": (chunked(SAID, b"content-type: text/plain\r\n"), ""),
    "201": ([HEAD.replace(b"200 OK", b"201 Created") + chunk(SAID) + b"0\r\n\r\n"], ""),
    "extensions and trailers": (
        of_events(
            chunk(ROLE),
            b"%x;a=b\r\n%b\r\n" % (len(WORDS[0]), WORDS[0]),
            chunk(WORDS[1]),
            chunk(STOP + DONE),
            b"0\r\nx-trailer: t\r\n\r\n",
        ),
        "",
    ),
    "silence before the first word": (of_events(), "silence"),
    "silence behind the first word": (of_events(chunk(ROLE)), "silence"),
    "silence among words": (of_events(chunk(ROLE), chunk(WORDS[0]), chunk(WORDS[1])), "silence"),
    "silence amid a word": (
        of_events(chunk(ROLE), chunk(WORDS[0]), chunk(WORDS[1]), chunk(WORDS[2])[:30]),
        "silence",
    ),
    "slowly": (of_events(*dripped(chunk(SAID)), b"0\r\n\r\n"), "slowly"),
    "no end of the body": (of_events(chunk(ROLE), chunk(WORDS[0]), chunk(STOP + DONE)), "silence"),
}


async def taught(gateway: Running) -> tuple[Client, Client]:
    """A client of the fast path and one of the general, whose heads are known."""
    clients = await connect(gateway), await connect(gateway, TAGS)
    for client in clients:
        for number in range(3):
            await client.ask(f"lesson {number} {client.more!r}")
            await begin(client, f"streamed lesson {number} {client.more!r}")
            await body(client)
    await rest(gateway)
    return clients


async def heard(client: Client, text: str, *, stream: bool) -> tuple[object, ...]:
    """Status, headers and body of the answer, without what differs each time."""
    client.send(text, **({"stream": True} if stream else {}))
    head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = dict(line.split(": ", 1) for line in lines)
    if "content-length" in headers:
        said = await client.reader.readexactly(int(headers["content-length"]))
    else:
        said = await body(client)
    request_id = headers.pop("x-request-id")
    for name in ("date", "server-timing", "request-id"):
        headers.pop(name, None)
    return first, headers, said.replace(request_id.encode(), b"ID")


def unlike_the_last(trace: dict[str, object]) -> dict[str, object]:
    """A trace without its entry's name."""
    trace["cache"].pop("entry")  # type: ignore[attr-defined]
    return trace


@asynccontextmanager
async def house(odd: Odd) -> AsyncIterator[Running]:
    """A gateway that asks once, and is soon tired of silence."""
    async with raw_server(odd) as server:
        values = configuration(f"http://127.0.0.1:{server.port}")
        provider = values["providers"]["local"]  # type: ignore[index]
        provider |= {
            "retries": 0,
            "first_byte_timeout_s": SILENT_FOR_S,
            "between_bytes_timeout_s": SILENT_FOR_S,
        }
        async with running_gateway(values) as gateway:
            try:
                yield gateway
            finally:
                while OPEN:
                    OPEN.pop().writer.transport.abort()


async def agree(odd: Odd, how: tuple[list[bytes], str], *, stream: bool) -> None:
    """Ask by both ways in turns, and behind each odd answer for an ordinary one."""
    async with house(odd) as gateway:
        clients = await taught(gateway)
        said: tuple[list[object], list[object]] = [], []
        for number in range(TIMES_TOLD):
            for client, mine in zip(clients, said, strict=True):
                odd.pieces, odd.then = how
                answer = await heard(client, f"odd {number} {client.more!r}", stream=stream)
                await rest(gateway)
                mine.append((answer, unlike_the_last(newest(gateway))))
                odd.pieces, odd.then = None, ""
                mine.append((await client.ask(f"even {number} {client.more!r}"))[::2])
        for straightly, general in zip(*said, strict=True):
            assert straightly == general


@pytest.mark.parametrize("name", WHOLE)
async def test_an_answer_is_told_alike(name: str, counted: Counted) -> None:
    """Of a JSON request."""
    await agree(Odd(), WHOLE[name], stream=False)
    assert counted.whole


@pytest.mark.parametrize("name", STREAMED)
async def test_a_streams_answer_is_told_alike(name: str, counted: Counted) -> None:
    """Of a request for a stream."""
    await agree(Odd(), STREAMED[name], stream=True)
    assert counted.whole


@pytest.mark.parametrize("coding", [b"gzip", b"x-odd"])
async def test_an_error_in_a_coding_that_nobody_asked_for_is_told_in_plain_words(
    coding: bytes,
) -> None:
    """With its status; what cannot be read cannot be searched for our key, so none of it is handed on."""
    odd = Odd()
    async with house(odd) as gateway:
        for client in await taught(gateway):
            odd.pieces = whole(
                gzip.compress(ERROR, mtime=0),
                JSON + b"content-encoding: %b\r\n" % coding,
                b"400 Bad Request",
            )
            first, headers, said = await heard(client, "an odd one", stream=False)
            assert (first, headers["content-type"]) == (
                "HTTP/1.1 400 Bad Request",
                "application/json",
            )
            assert json.loads(said)["error"]["message"] == "The upstream answered with status 400."
            await rest(gateway)
            odd.pieces = None
            assert (await client.ask("an even one"))[2] == ANSWER
