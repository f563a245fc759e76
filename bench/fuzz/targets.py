"""What is fuzzed, and what must hold of each however broken its input is.

Every target either reads its input or refuses it with the errors that it declares; any other exception is
a fault. Beyond that: how the bytes were split changes nothing; what is forwarded untouched is what came;
what is written to a client reads as its dialect; the short ways agree with the long ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import httptools

from app.api.head_template import Endpoint, learn_head
from app.api.request_parsing import parse
from app.domain.chat import ChatRequest, Dialect
from app.domain.decisions import Tier
from app.domain.events import AnswerStarted, Event, Frames
from app.domain.models import Abilities, Model
from app.errors import BadRequest, GatewayError, UpstreamError, UpstreamProtocol
from app.ports import StreamReader
from app.upstream.http1 import ResponseReader, split_head
from app.wire.codecs import CODECS
from app.wire.sse import FrameSplitter, read_events, split_frames
from bench.fuzz import seeds
from bench.fuzz.mutate import Mutator


class FaultFoundError(AssertionError):
    """A promise does not hold for an input."""


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder: how a broken input is made, and what is held against it."""

    name: str
    make: Callable[[Mutator], bytes]
    holds: Callable[[bytes, Mutator], bool]
    """Whether the input was read (True) or refused; raises on a fault."""


MODEL = Model("house", "vendor", "upstream-1", Tier.FAST, abilities=Abilities())


def _insist(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not holds:
        raise FaultFoundError(otherwise)


def _asked(dialect: Dialect, *, stream: bool) -> ChatRequest:
    return ChatRequest(dialect, "m", stream, {}, b"{}", include_usage=True)


# ------------------------------------------------------------------------------------------- HTTP


def _response(pieces: list[bytes]) -> tuple[bool, int, object, bytes, bool]:
    """Whether it was refused, and what was read."""
    reader = ResponseReader()
    reader.begin(b"POST")
    body = b""
    try:
        for piece in pieces:
            reader.feed(piece)
            body += reader.take()
        reader.feed_eof()
    except UpstreamError:
        return True, 0, None, b"", False
    return False, reader.status, split_head(reader.head), body, reader.reusable


def _http(data: bytes, mutator: Mutator) -> bool:
    whole = _response([data] if data else [])
    _insist(_response(mutator.split(data)) == whole, "a split changes the response")
    if not whole[0]:
        _insist(100 <= whole[1] <= 599, "a status that is none")
        _insist(whole[3] in data or b"chunked" in data.lower(), "a body that never came")
    return not whole[0]


class _Heads:
    """Collects what the request parser says."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.url = b""
        self.body = b""
        self.begun = self.ended = 0

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ended += 1


def _parsed(data: bytes) -> tuple[_Heads, httptools.HttpRequestParser] | None:
    found = _Heads()
    parser = httptools.HttpRequestParser(found)
    try:
        parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    return found, parser


def _known_head(data: bytes, _: Mutator) -> bool:
    """A head taken for the one before holds exactly what the parser reads in it."""
    sound = seeds.HEADS[0]
    before = _parsed(sound)
    assert before is not None
    head = learn_head(sound, b"POST", before[0].url, before[0].headers, _NO_ENDPOINT)
    assert head is not None
    body = head.match(data)
    if body is None:
        return False
    now = _parsed(data)
    _insist(now is not None, "taken for a known head, and not HTTP")
    assert now is not None
    _insist(now[0].body == body and now[0].begun == now[0].ended == 1, "another body, or two")
    others = [h for h in now[0].headers if h[0] != b"content-length"]
    _insist(others == [h for h in before[0].headers if h[0] != b"content-length"], "other headers")
    return True


_NO_ENDPOINT: Endpoint = cast("Endpoint", object())
"""Learning a head asks the endpoint nothing."""


# ------------------------------------------------------------------------------------------- SSE


def _sse(data: bytes, mutator: Mutator) -> bool:
    splitter = FrameSplitter()
    given = b""
    for piece in mutator.split(data):
        given += splitter.feed(piece)
    rest = splitter.flush()
    _insist(given + rest == data, "bytes were changed")
    _insist(b"".join(split_frames(given)) == given, "frames do not join to what was cut")
    apart = [event for frame in split_frames(given) for event in read_events(frame)]
    # A byte order mark counts at the stream's beginning alone.
    if b"\xef\xbb\xbf" not in data:
        _insist(apart == read_events(given), "events depend on how frames are read")
    return bool(apart)


# ------------------------------------------------------------------------------------------- streams


def _events(reader: StreamReader, pieces: list[bytes]) -> tuple[list[Event], str]:
    """What came out, and the refusal's code."""
    events: list[Event] = []
    try:
        for piece in pieces:
            events += reader.feed(piece)
        events += reader.end()
    except UpstreamProtocol as refused:
        return events, refused.code
    return events, ""


def _stream_of(dialect: Dialect) -> Callable[[bytes, Mutator], bool]:
    def holds(data: bytes, mutator: Mutator) -> bool:
        whole, parted = CODECS[dialect].reader(), CODECS[dialect].reader()
        events, refused = _events(whole, [data] if data else [])
        again, refused_too = _events(parted, mutator.split(data))
        _insist(bool(refused) == bool(refused_too), "a split changes whether it is refused")
        if not refused:
            _insist(events == again, "a split changes the events")
            _insist(whole.complete == parted.complete, "a split changes whether it is whole")
        if not refused:
            _ = whole.usage
        _written(again, mutator)
        return not refused

    return holds


def _written(events: list[Event], mutator: Mutator) -> None:
    """What a client of any dialect gets must read as that dialect."""
    dialect = mutator.random.choice(tuple(Dialect))
    request = _asked(dialect, stream=True)
    writer = CODECS[dialect].writer(request)
    if not events or not isinstance(events[0], AnswerStarted):
        return
    try:
        sent = b"".join(writer.write(event) for event in events) + writer.end()
    except GatewayError:
        return
    reader = CODECS[dialect].reader()
    _, refused = _events(reader, [sent])
    _insist(not refused, f"what is written as {dialect} is refused: {refused}")


def _passed_of(dialect: Dialect) -> Callable[[bytes, Mutator], bool]:
    def holds(data: bytes, mutator: Mutator) -> bool:
        reader = CODECS[dialect].passthrough(hide_usage=False)
        events, refused = _events(reader, mutator.split(data))
        passed = b"".join(event.data for event in events if isinstance(event, Frames))
        _insist(data.startswith(passed), "forwarded bytes are not those that came")
        if not refused:
            try:
                _ = reader.usage
            except UpstreamProtocol:
                return False
        return not refused

    return holds


def _answer_of(dialect: Dialect) -> Callable[[bytes, Mutator], bool]:
    def holds(data: bytes, mutator: Mutator) -> bool:
        codec = CODECS[dialect]
        with suppress(UpstreamError):
            codec.read_outcome(data)
        try:
            answer = codec.read_answer(data)
        except UpstreamError:
            return False
        finally:
            codec.read_error(mutator.random.choice((400, 401, 429, 500, 529)), data, {})
        other = mutator.random.choice(tuple(Dialect))
        try:
            body = CODECS[other].write_answer(answer, _asked(other, stream=False))
        except GatewayError:
            return False
        _insist(isinstance(json.loads(body), dict), "an answer that is no JSON object")
        return True

    return holds


# ------------------------------------------------------------------------------------------- requests


def _request_of(dialect: Dialect) -> Callable[[bytes, Mutator], bool]:
    def holds(data: bytes, mutator: Mutator) -> bool:
        codec = CODECS[dialect]
        plain = codec.read_plain(data)
        try:
            body = parse(data)
            codec.check(body)
        except BadRequest:
            _insist(plain is None, "plain, and refused")
            return False
        if plain is not None:
            _insist(plain.model == body["model"], "plain reads another model")
            _insist(plain.stream == (body.get("stream") is True), "plain reads another stream")
        codec.view(body)
        try:
            conversation = codec.read(body)
            other = mutator.random.choice(tuple(Dialect))
            written, _ = CODECS[other].write(conversation, MODEL, stream=True)
            json.dumps(written)
        except GatewayError:
            return True  # read well, and cannot be said in the other dialect
        return True

    return holds


def _heads(mutator: Mutator) -> bytes:
    """Half of them are the known head with another body, whose length is told rightly or nearly so."""
    sound, draw = seeds.HEADS[0], mutator.random
    if draw.random() < 0.5:
        return mutator.broken(draw.choice(seeds.HEADS), seeds.HEADS)
    head, _, body = sound.partition(b"\r\n\r\n")
    body = mutator.broken(body, seeds.HEADS)
    told = len(body) + draw.choice((0, 0, 0, 1, -1, 10))
    digits = draw.choice((b"%d", b"%d", b"0%d", b"+%d", b"%d ")) % told
    return head.replace(b"length: 13", b"length: " + digits) + b"\r\n\r\n" + body


def _of_bytes(sound: tuple[bytes, ...]) -> Callable[[Mutator], bytes]:
    return lambda mutator: mutator.broken(mutator.random.choice(sound), sound)


def _of_streams(sound: tuple[bytes, ...]) -> Callable[[Mutator], bytes]:
    def make(mutator: Mutator) -> bytes:
        chosen = mutator.random.choice(sound)
        if mutator.random.random() < 0.6:
            return mutator.broken_stream(chosen)
        return mutator.broken(chosen, sound)

    return make


def _of_values(sound: tuple[object, ...]) -> Callable[[Mutator], bytes]:
    printed = tuple(json.dumps(value).encode() for value in sound)

    def make(mutator: Mutator) -> bytes:
        if mutator.random.random() < 0.7:
            return json.dumps(mutator.broken_value(mutator.random.choice(sound))).encode()
        return mutator.broken(mutator.random.choice(printed), printed)

    return make


def _targets() -> Mapping[str, Target]:
    every_stream = tuple(stream for each in seeds.STREAMS.values() for stream in each)
    found = [
        Target("http-response", _of_bytes(seeds.HTTP), _http),
        Target("known-head", _heads, _known_head),
        Target("sse", _of_bytes(every_stream), _sse),
    ]
    for dialect in Dialect:
        streams, name = seeds.STREAMS[dialect], dialect.value
        answers, requests = seeds.ANSWERS[dialect], seeds.REQUESTS[dialect]
        found += [
            Target(f"{name}-stream", _of_streams(streams), _stream_of(dialect)),
            Target(f"{name}-passed-on", _of_streams(streams), _passed_of(dialect)),
            Target(f"{name}-answer", _of_values(answers), _answer_of(dialect)),
            Target(f"{name}-request", _of_values(requests), _request_of(dialect)),
        ]
    return {target.name: target for target in found}


TARGETS = _targets()
