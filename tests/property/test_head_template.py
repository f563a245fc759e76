"""A connection that remembers its last head hears and answers exactly what one without a memory does."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from app.api.head_template import HeadTemplate, learn_head
from app.api.native import NativeOutlet
from app.api.protocol import GatewayProtocol

PATH = "/v1/chat/completions"
HOST = b"host: a"
JSON = b"content-type: application/json"


class Echo:
    """An application and a native endpoint that answer alike: with what they heard."""

    def __init__(self) -> None:
        self.native = {PATH: self}
        self.heard: list[object] = []
        self.known = 0

    def remember(self, head: HeadTemplate, headers) -> bool:
        head.headers = {}
        head.forwarded = tuple((n, v) for n, v in headers if n != b"content-length")
        return True

    async def answer(self, outlet: NativeOutlet, head: HeadTemplate) -> None:
        self.known += 1
        await self.reply(outlet, head.forwarded, outlet.whole_body())

    async def __call__(self, scope, receive, _send) -> None:
        outlet = scope["extensions"]["slipstream"]
        body = b""
        while outlet.more_body or outlet.body:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
        headers = tuple((n, v) for n, v in scope["headers"] if n != b"content-length")
        await self.reply(outlet, headers, body)

    async def reply(self, outlet: NativeOutlet, headers, body) -> None:
        self.heard.append((headers, bytes(body)))
        await outlet.respond(200, b"", b"%d" % len(self.heard))


class Transport:
    """Keeps what is written, until it is closed."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, _name: str, default: object = None) -> object:
        return default

    def pause_reading(self) -> None:
        """Read on: the test decides what is read."""

    def resume_reading(self) -> None:
        """As above."""


def outcome(reads: list[bytes], *, remember: bool, before_last: str = "") -> tuple[object, int]:
    """What was heard and written for ``reads``, and how many heads were known; ``before_last`` is called
    before the last of them.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_outcome(reads, before_last, remember=remember))
    finally:
        loop.close()


async def _outcome(reads: list[bytes], before_last: str, *, remember: bool) -> tuple[object, int]:
    loop = asyncio.get_running_loop()
    app = Echo()
    config = uvicorn.Config(app, http=GatewayProtocol, ws="none", log_config=None, lifespan="off")
    protocol = GatewayProtocol(config, ServerState(), {}, _loop=loop)
    protocol.app = app
    if not remember:
        protocol._lessons_left = 0
    transport = Transport()
    protocol.connection_made(transport)  # type: ignore[arg-type]
    for number, read in enumerate(reads, 1):
        if transport.closed:
            break
        if before_last and number == len(reads):
            getattr(protocol, before_last)()
        loop.call_soon(protocol.data_received, read)
        for _ in range(4):
            await asyncio.sleep(0)
    protocol.connection_lost(None)
    for _ in range(4):
        await asyncio.sleep(0)
    return (app.heard, b"".join(transport.written), transport.closed), app.known


def request(lines: list[bytes], body: bytes, line: bytes = b"POST %s HTTP/1.1") -> bytes:
    target = PATH.encode()
    first = line % target if b"%s" in line else line
    return b"\r\n".join([first, *lines, b"", body])


def sized(body: bytes, *more: bytes) -> bytes:
    return request([HOST, b"Content-Length: %d" % len(body), JSON, *more], body)


bodies = st.binary(max_size=12) | st.sampled_from([b"x" * 99, b"x" * 100, b"x" * 1000])
plain = st.builds(sized, bodies)
odd_lines = st.sampled_from(
    [
        b"content-length: 3",
        b"content-length:3",
        b"content-length : 3",
        b"content-length: 3 ",
        b"content-length: +3",
        b"content-length: 03",
        b"content-length: 3, 3",
        b"transfer-encoding: chunked",
        b"transfer-encoding: identity",
        b"expect: 100-continue",
        b"connection: close",
        b"connection: keep-alive",
        b"upgrade: websocket\r\nconnection: upgrade",
        b"x: a\r\n b",
        b"x: a\nb: c",
        b"x: a\n",
        b"x:",
        b"x:  a",
        b"x: \xff",
        b"x: a\rb",
    ]
)
odd = st.builds(
    lambda lines, body, end: request(
        [HOST, b"content-length: %d" % len(body), *lines][:: 1 if end else -1], body
    ),
    st.lists(odd_lines, min_size=1, max_size=2),
    bodies,
    st.booleans(),
)
other = st.sampled_from(
    [
        request([HOST, b"content-length: 3"], b"abc", b"POST /other HTTP/1.1"),
        request([HOST, b"content-length: 3"], b"abc", b"POST %s?a=b HTTP/1.1"),
        request([HOST, b"content-length: 3"], b"abc", b"POST %s HTTP/1.0"),
        request([HOST, b"content-length: 3"], b"abc", b"PUT %s HTTP/1.1"),
        request([HOST, b"transfer-encoding: chunked"], b"3\r\nabc\r\n0\r\n\r\n"),
        b"\r\n" + sized(b"abc"),
        b"nonsense\r\n\r\n",
    ]
)
messages = st.lists(plain | odd | other, min_size=1, max_size=6)


def apart(messages: list[bytes]) -> list[bytes]:
    """Heads and bodies in reads of their own."""
    pieces = []
    for message in messages:
        head, end, body = message.partition(b"\r\n\r\n")
        pieces += [head + end, body]
    return [piece for piece in pieces if piece]


@st.composite
def reads(draw: st.DrawFn) -> list[bytes]:
    """Messages as a client sends them, each in a read of its own, or in one for the head and one for the
    body, or cut anywhere and run together.
    """
    whole = draw(messages)
    kind = draw(st.sampled_from(["whole", "apart", "anywhere"]))
    if kind == "whole":
        return whole
    if kind == "apart":
        return apart(whole)
    data = b"".join(whole)
    cuts = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=6))})
    return [data[a:b] for a, b in pairwise(cuts)]


@given(reads())
def test_a_memory_changes_nothing_of_what_is_heard_and_answered(data: list[bytes]) -> None:
    """Whatever the heads are and wherever the reads end."""
    assert outcome(data, remember=True)[0] == outcome(data, remember=False)[0]


@given(odd, bodies)
def test_after_a_head_of_any_form_an_ordinary_one_is_heard_as_ever(
    first: bytes, body: bytes
) -> None:
    """Twice, so that what was remembered of either is used."""
    data = [first, first, sized(body), sized(body + b"y"), first]
    assert outcome(data, remember=True)[0] == outcome(data, remember=False)[0]


@given(st.lists(bodies, min_size=1, max_size=8))
def test_ordinary_requests_are_known_from_the_second_on(sent: list[bytes]) -> None:
    """Whatever the number of digits of their length."""
    assert outcome([sized(body) for body in sent], remember=True)[1] == len(sent) - 1


@given(st.lists(bodies.filter(bool), min_size=1, max_size=8))
def test_they_are_known_where_the_head_comes_before_the_body(sent: list[bytes]) -> None:
    """As the official packages write them; a body that looks like a request is a body."""
    sent = [*sent, sized(sent[0])]
    data = apart([sized(body) for body in sent])
    heard, known = outcome(data, remember=True)
    assert known == len(sent) - 1
    assert heard == outcome(data, remember=False)[0]


@given(st.lists(st.tuples(st.booleans(), bodies), min_size=2, max_size=30), st.booleans())
def test_two_heads_may_take_turns(sent: list[tuple[bool, bytes]], together: bool) -> None:
    """However often: only the first of each is read by the parser."""
    data = [sized(body, *[b"accept: text/event-stream"] * other) for other, body in sent]
    heard, known = outcome(data if together else apart(data), remember=True)
    assert known == len(sent) - len({other for other, _ in sent})
    assert heard == outcome(data, remember=False)[0]


@given(bodies.filter(bool), st.sampled_from(["shutdown", "forget_heads"]))
def test_a_head_that_waits_for_its_body_is_a_request_under_way(body: bytes, event: str) -> None:
    """The server's end or a new configuration costs it nothing."""
    data = [sized(b"first"), *apart([sized(body)])]
    heard, _ = outcome(data, remember=True, before_last=event)
    assert heard[0] == outcome(data, remember=False)[0][0]


@given(st.lists(odd_lines, min_size=1, max_size=2), bodies)
def test_a_head_that_could_be_read_in_two_ways_is_never_remembered(
    lines: list[bytes], body: bytes
) -> None:
    """Even if the parser should have read it: what it prints is not what came."""
    data = request([HOST, b"content-length: %d" % len(body), *lines], body)
    said = [(b"host", b"a"), (b"content-length", b"%d" % len(body))]
    for line in lines:
        name, _, value = line.partition(b":")
        said.append((name.strip().lower(), value.strip()))
    head = learn_head(data, b"POST", PATH.encode(), said, Echo())
    fine = {b"x: \xff", b"connection: keep-alive"}
    assert (head is not None) == (set(lines) <= fine)
