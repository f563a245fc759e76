"""The inference endpoints, as pure ASGI: wire format in, ``ChatRequest`` and ``Turn`` out,
``TurnResponse`` on.

They stand inside the FastAPI application but below its machinery: at 40 us a request, validation by
pydantic and a stack of middlewares would be most of the bill (measured in the decisions' ADR 0001).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.types import Receive, Scope, Send

from app.api.admission import refusal_lines
from app.api.afterwards import Afterwards
from app.api.auth import Authenticator
from app.api.bodies import SMALL_BYTES, Bodies
from app.api.coded_body import CODING, coding_line, counted
from app.api.known_head import Head
from app.api.native import NativeOutlet
from app.api.outlet import Outlet, outlet_of
from app.api.reading import parse, plain_request, request_id_of, vendor_id_line
from app.api.response import Answering, Pulse, Recorder, TurnResponse, retry_after
from app.api.straight import StraightWay
from app.domain.chat import KNOWN_ANTHROPIC_VERSIONS, ChatRequest, Dialect
from app.domain.deadline import Deadline
from app.domain.decisions import CacheMode, Tier
from app.domain.model_call import Headers
from app.domain.turn_record import TurnRecord
from app.errors import (
    BadRequest,
    ClientError,
    GatewayError,
    MethodNotAllowed,
    Overloaded,
    TooLarge,
)
from app.pipeline.gateway import Gateway, Turn
from app.telemetry.timeline import Timeline

_Choice = TypeVar("_Choice", CacheMode, Tier)
_DIGITS = re.compile(rb"[0-9]{1,9}")  # int() of thousands of digits raises
_USER = re.compile(r"[\x20-\x7e]{1,256}")
_MAX_TAGS = 16
_MAX_DEADLINE_MS = 3_600_000
_OURS = (
    b"authorization",
    b"x-api-key",
    b"x-request-id",
    b"content-length",
    CODING,
    b"x-slipstream-cache",
    b"x-slipstream-tier",
    b"x-slipstream-user",
    b"x-slipstream-tags",
    b"x-slipstream-deadline-ms",
    b"x-slipstream-contract",
    b"traceparent",
)
_FORWARDED = (
    b"anthropic-version",
    b"anthropic-beta",
    b"openai-beta",
    b"openai-organization",
    b"openai-project",
    b"tracestate",
)
_WANTED = dict.fromkeys(_OURS, True) | dict.fromkeys(_FORWARDED, False)
"""The headers that mean something: to the gateway (True), or to the vendor behind it."""


class InFlight:
    """How many requests this worker is answering, against how many it may."""

    def __init__(self, most: int) -> None:
        """Allow ``most`` at once."""
        self.now = 0
        self.most = most
        self.draining = False
        """A shutdown has begun: every answer ends its connection, so that the next request goes elsewhere."""

    def full(self) -> Overloaded:
        """What a client is told when ``now`` has reached ``most``."""
        message = f"{self.most} requests are being answered: come back shortly"
        return Overloaded(message, retry_after_s=1)


@dataclass(frozen=True, slots=True)
class Edge:
    """What the inference endpoints share; filled in ``bootstrap``."""

    gateway: Gateway
    authenticator: Authenticator
    recorder: Recorder
    pulse: Pulse
    in_flight: InFlight
    max_body_bytes: int
    bodies: Bodies
    answering: Answering
    afterwards: Afterwards = field(default_factory=Afterwards)
    clock: Callable[[], float] = time.monotonic

    async def drained(self) -> None:
        """Do what waits for a lull, and let the prompts' account follow; the loop goes on meanwhile."""
        if self.afterwards.waiting:
            await self.afterwards.drained()
        if self.gateway.prompts is not None:
            await self.gateway.prompts.drained()


class Inference:
    """One inference endpoint of one dialect."""

    def __init__(self, dialect: Dialect, edge: Edge) -> None:
        """Serve ``dialect`` with what ``edge`` holds."""
        self._dialect = dialect
        self._edge = edge
        self._codec = edge.gateway.codecs[dialect]
        usual = _SAID_BY_ALL if dialect is Dialect.MESSAGES else ()
        self._ways = {said: StraightWay(dialect, edge, said) for said in ((), *usual)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure is told in the dialect's own form."""
        outlet = outlet_of(scope, receive, send)
        if self._edge.in_flight.draining:
            outlet.keep_alive = False
        found, forwarded = read_headers(scope["headers"])
        if scope["method"] == "POST":
            raw = outlet.whole_body()
            if raw is None or len(raw) > SMALL_BYTES or CODING in found:
                await self._leased(outlet, receive, found, tuple(forwarded))
            else:
                await self._answer(outlet, receive, found, tuple(forwarded), raw)
            return
        message = f"{scope['path']} takes POST, not {scope['method']}"
        request_id = request_id_of(found.get(b"x-request-id"))
        await self.refuse(MethodNotAllowed(message), request_id, outlet, Timeline())

    def knows(self, head: Head, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Put what the headers say into ``head``; no for a page's request, which CORS looks at."""
        found, forwarded = read_headers(headers)
        found.pop(b"content-length", None)
        head.found, head.forwarded = found, tuple(forwarded)
        head.way = self._ways.get(head.forwarded) if _NO_WISHES.issuperset(found) else None
        return not any(name == b"origin" for name, _ in headers)

    def answer(self, outlet: NativeOutlet, head: Head) -> Coroutine[object, None, None] | None:
        """Answer a POST with a head that is known, and a body that has come whole; None: it is under way."""
        if head.way is not None and head.way.take(outlet, head):
            return None
        if self._edge.in_flight.draining:
            outlet.keep_alive = False
        receive: Receive = outlet.receive  # type: ignore[assignment]
        raw: bytes = outlet.body  # type: ignore[assignment]
        if len(raw) > SMALL_BYTES or CODING in head.found:
            return self._leased(outlet, receive, head.found, head.forwarded)
        return self._answer(outlet, receive, head.found, head.forwarded, raw)

    async def _leased(
        self, outlet: Outlet, receive: Receive, headers: dict[bytes, bytes], forwarded: Headers
    ) -> None:
        """Answer a POST whose body is yet to come, or large: it counts until the request is done."""
        with self._edge.bodies.lease() as lease:
            came = counted(receive, headers.items(), lease, outlet)
            await self._answer(outlet, came, headers, forwarded, None)

    async def _answer(
        self,
        outlet: Outlet,
        receive: Receive,
        headers: dict[bytes, bytes],
        forwarded: Headers,
        raw: bytes | None,
    ) -> None:
        """Answer a POST; ``raw`` is its body, or None if that has yet to come."""
        timeline = Timeline()
        request_id = request_id_of(headers.get(b"x-request-id"))
        edge = self._edge
        await edge.afterwards.drained()  # what was just answered may be asked again
        in_flight = edge.in_flight
        try:
            if in_flight.now >= in_flight.most:
                raise in_flight.full()
            caller = edge.authenticator.caller(
                headers.get(b"authorization"), headers.get(b"x-api-key")
            )
            if raw is None or len(raw) > edge.max_body_bytes:
                raw = await read_body(outlet, receive, headers, edge.max_body_bytes)
            ticket = None if caller.guard is None else await caller.guard.enter(len(raw))
            try:
                request = self._request(raw, forwarded)
                turn = Turn(request_id, caller.tenant, timeline, _NO_DEADLINE, time.time())
                if headers and not _NO_WISHES.issuperset(headers):
                    read_wishes(turn, headers, edge.clock)
                if ticket is not None:
                    ticket.bind(turn, request.model, self._dialect)
            except BaseException:
                if ticket is not None:
                    ticket.leave(None)
                raise
        except ClientLeft:
            return
        except GatewayError as error:
            await self.refuse(error, request_id, outlet, timeline)
            return
        response = TurnResponse(
            request, edge.gateway, turn, outlet, edge.pulse, edge.recorder, edge.answering
        )
        in_flight.now += 1
        try:
            await response.run()
        finally:
            in_flight.now -= 1
            if turn.settle_limits is not None:
                turn.settle_limits(turn)

    async def refuse(
        self, error: GatewayError, request_id: str, outlet: Outlet, timeline: Timeline
    ) -> None:
        """Answer with ``error`` before any turn began; it is counted and logged like every other."""
        head = refusal_head(error, b"application/json", request_id, self._dialect)
        head += vendor_id_line(self._dialect, request_id)
        if isinstance(error, TooLarge):
            outlet.keep_alive, outlet.lingers = False, True
        await outlet.respond(error.status, head, self._codec.write_error(error, request_id))
        self._edge.recorder.settle(
            TurnRecord(
                request_id=request_id,
                dialect=self._dialect,
                status=error.status,
                code=error.code,
                total_s=timeline.elapsed_s(),
                started_unix_s=time.time(),
                times=timeline,
            )
        )

    def _request(self, raw: bytes, forward: Headers) -> ChatRequest:
        """Read the body; raises ``BadRequest`` naming the field."""
        plain = self._codec.plain(raw)
        if plain is not None:
            return plain_request(self._dialect, plain, raw, forward)
        body = parse(raw)
        self._codec.check(body)
        options = body.get("stream_options")
        include_usage = isinstance(options, dict) and options.get("include_usage") is True
        return ChatRequest(
            self._dialect,
            str(body["model"]),
            body.get("stream") is True,
            body,
            raw,
            include_usage,
            forward,
        )


_SAID_BY_ALL = tuple(((b"anthropic-version", version),) for version in KNOWN_ANTHROPIC_VERSIONS)
"""What clients of Anthropic's say to the vendor in every request; each has a way of its own."""
_NO_DEADLINE = Deadline(None)
_NO_WISHES = frozenset({b"authorization", b"x-api-key", b"x-request-id", b"content-length"})


class ClientLeft(ClientError):
    """The client's connection ended before the request was whole: there is nobody to answer."""


def refusal_head(
    error: GatewayError, content_type: bytes, request_id: str, dialect: Dialect
) -> bytes:
    """The header lines of a refusal before any turn began."""
    allowed = b"allow: POST\r\n" if isinstance(error, MethodNotAllowed) else b""
    more = retry_after(error) + refusal_lines(error, dialect) + allowed + coding_line(error)
    head = b"content-type: %s\r\nx-request-id: %s\r\n%s"
    return head % (content_type, request_id.encode("latin-1"), more)


def read_headers(
    headers: Sequence[tuple[bytes, bytes]],
) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """The headers that mean something to the gateway, and those that travel on to the vendor."""
    found: dict[bytes, bytes] = {}
    forwarded: list[tuple[bytes, bytes]] = []
    for header in headers:
        wanted = _WANTED.get(header[0])
        if wanted is None:
            continue
        if wanted:
            found[header[0]] = header[1]
        else:
            forwarded.append(header)
    return found, forwarded


async def read_body(
    outlet: Outlet, receive: Receive, headers: dict[bytes, bytes], most: int
) -> bytes:
    """The whole request body; raises ``TooLarge`` before more than ``most`` bytes are held."""
    content_length = headers.get(b"content-length")
    if content_length is not None and content_length.isdigit() and int(content_length) > most:
        raise _too_large(most)
    body = None if CODING in headers else outlet.whole_body()
    if body is not None and len(body) <= min(most, SMALL_BYTES):
        return body
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft("the client left before its request was whole")
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > most:
            raise _too_large(most)
        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {most} bytes: send less, or raise server.max_body_bytes"
    )


def read_wishes(  # noqa: C901 - one arm a header
    turn: Turn, headers: dict[bytes, bytes], clock: Callable[[], float]
) -> None:
    """Fill in what the ``x-slipstream-*`` headers ask for."""
    if (value := headers.get(b"x-slipstream-cache")) is not None:
        turn.cache_mode = _choice(CacheMode, value, "x-slipstream-cache")
    if (value := headers.get(b"traceparent")) is not None:
        turn.traceparent = value.decode("latin-1")
    if (value := headers.get(b"x-slipstream-tier")) is not None:
        turn.tier = _choice(Tier, value, "x-slipstream-tier")
    if (value := headers.get(b"x-slipstream-user")) is not None:
        user = value.decode("latin-1")
        if not _USER.fullmatch(user):
            message = "x-slipstream-user must be 1 to 256 printable ASCII characters"
            raise BadRequest(message, param="x-slipstream-user")
        turn.user = user
    if (value := headers.get(b"x-slipstream-contract")) is not None:
        turn.contract = value.decode("latin-1")
    if (value := headers.get(b"x-slipstream-tags")) is not None:
        tags = [tag.strip() for tag in value.decode("latin-1").split(",")]
        if len(tags) > _MAX_TAGS or not all(_USER.fullmatch(tag) for tag in tags):
            message = (
                f"x-slipstream-tags must be at most {_MAX_TAGS} comma-separated printable words"
            )
            raise BadRequest(message, param="x-slipstream-tags")
        turn.tags = tuple(tags)
    if (value := headers.get(b"x-slipstream-deadline-ms")) is not None:
        if not _DIGITS.fullmatch(value) or not 0 < int(value) <= _MAX_DEADLINE_MS:
            message = (
                f"x-slipstream-deadline-ms must be a whole number from 1 to {_MAX_DEADLINE_MS}"
            )
            raise BadRequest(message, param="x-slipstream-deadline-ms")
        turn.deadline = Deadline.after(clock(), int(value) / 1000)


def _choice(kind: type[_Choice], value: bytes, header: str) -> _Choice:
    try:
        return kind(value.decode("latin-1").strip().lower())
    except ValueError:
        known = ", ".join(kind)
        message = f"{header} must be one of {known}"
        raise BadRequest(message, param=header) from None
