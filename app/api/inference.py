"""The inference endpoints, as pure ASGI: wire format in, ``ChatRequest`` and ``Turn`` out,
``TurnResponse`` on.

They are routes of the FastAPI application that bypass its machinery: at 40 us a request, pydantic validation
and a stack of middlewares would be most of the cost (measured, ADR 0001).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.types import Receive, Scope, Send

from app.api.admission import refusal_lines
from app.api.auth import Authenticator
from app.api.body_memory import SMALL_BYTES, BodyMemory
from app.api.content_encoding import CODING, coding_line, counted
from app.api.deferred_work import DeferredWork
from app.api.fast_path import FastPath
from app.api.head_template import HeadTemplate
from app.api.native import NativeOutlet
from app.api.outlet import Outlet, outlet_of
from app.api.request_parsing import parse, plain_request, request_id_of, vendor_id_line
from app.api.response import AnswerFunction, Heartbeat, Recorder, TurnResponse, retry_after
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
"""The headers that are read by the gateway (True) or forwarded to the vendor (False)."""


class InFlight:
    """The number of requests that this worker is answering, and its limit."""

    def __init__(self, most: int) -> None:
        """Allow ``most`` concurrent requests."""
        self.now = 0
        self.most = most
        self.draining = False
        """Shutting down: every response closes its connection, so that the client's next request goes
        elsewhere.
        """

    def overloaded(self) -> Overloaded:
        """The error for a request that arrives while ``now`` is at ``most``."""
        message = f"{self.most} requests are in flight, the limit of this worker: retry shortly"
        return Overloaded(message, retry_after_s=1)


@dataclass(frozen=True, slots=True)
class Edge:
    """What the inference endpoints share; built in ``bootstrap``."""

    gateway: Gateway
    authenticator: Authenticator
    recorder: Recorder
    heartbeat: Heartbeat
    in_flight: InFlight
    max_body_bytes: int
    bodies: BodyMemory
    answer: AnswerFunction
    deferred: DeferredWork = field(default_factory=DeferredWork)
    clock: Callable[[], float] = time.monotonic

    async def finish_deferred_work(self) -> None:
        """Run the work that was deferred until after responses, and the prompts' accounting of it."""
        if self.deferred.pending:
            await self.deferred.drained()
        if self.gateway.prompts is not None:
            await self.gateway.prompts.drained()


class Inference:
    """One inference endpoint of one dialect."""

    def __init__(self, dialect: Dialect, edge: Edge) -> None:
        """Serve ``dialect`` with what ``edge`` holds."""
        self._dialect = dialect
        self._edge = edge
        self._codec = edge.gateway.codecs[dialect]
        usual = _USUAL_VERSION_HEADERS if dialect is Dialect.MESSAGES else ()
        self._ways = {headers: FastPath(dialect, edge, headers) for headers in ((), *usual)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure is reported in the dialect's own form."""
        outlet = outlet_of(scope, receive, send)
        if self._edge.in_flight.draining:
            outlet.keep_alive = False
        found, forwarded = read_headers(scope["headers"])
        if scope["method"] == "POST":
            raw = outlet.whole_body()
            if raw is None or len(raw) > SMALL_BYTES or CODING in found:
                await self._answer_with_lease(outlet, receive, found, tuple(forwarded))
            else:
                await self._answer(outlet, receive, found, tuple(forwarded), raw)
            return
        message = f"{scope['path']} takes POST, not {scope['method']}"
        request_id = request_id_of(found.get(b"x-request-id"))
        await self.refuse(MethodNotAllowed(message), request_id, outlet, Timeline())

    def remember(self, head: HeadTemplate, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Fill ``head`` from the headers; False for a browser's cross-origin request, which needs CORS."""
        found, forwarded = read_headers(headers)
        found.pop(b"content-length", None)
        head.headers, head.forwarded = found, tuple(forwarded)
        head.fast_path = (
            self._ways.get(head.forwarded) if _HEADERS_WITHOUT_OPTIONS.issuperset(found) else None
        )
        return not any(name == b"origin" for name, _ in headers)

    def answer(
        self, outlet: NativeOutlet, head: HeadTemplate
    ) -> Coroutine[object, None, None] | None:
        """Answer a POST with a known head and a complete body; None: it is being answered already."""
        if head.fast_path is not None and head.fast_path.try_serve(outlet, head):
            return None
        if self._edge.in_flight.draining:
            outlet.keep_alive = False
        receive: Receive = outlet.receive  # type: ignore[assignment]
        raw: bytes = outlet.body  # type: ignore[assignment]
        if len(raw) > SMALL_BYTES or CODING in head.headers:
            return self._answer_with_lease(outlet, receive, head.headers, head.forwarded)
        return self._answer(outlet, receive, head.headers, head.forwarded, raw)

    async def _answer_with_lease(
        self, outlet: Outlet, receive: Receive, headers: dict[bytes, bytes], forwarded: Headers
    ) -> None:
        """Answer a POST whose body is incomplete or large, and count its bytes until the request is done."""
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
        """Answer a POST; ``raw`` is its body, None if it is yet to be read."""
        timeline = Timeline()
        request_id = request_id_of(headers.get(b"x-request-id"))
        edge = self._edge
        await edge.deferred.drained()  # so that an answer that was just sent can be a hit
        in_flight = edge.in_flight
        try:
            if in_flight.now >= in_flight.most:
                raise in_flight.overloaded()
            caller = edge.authenticator.caller(
                headers.get(b"authorization"), headers.get(b"x-api-key")
            )
            if raw is None or len(raw) > edge.max_body_bytes:
                raw = await read_body(outlet, receive, headers, edge.max_body_bytes)
            ticket = None if caller.guard is None else await caller.guard.admit(len(raw))
            try:
                request = self._request(raw, forwarded)
                turn = Turn(request_id, caller.tenant, timeline, _NO_DEADLINE, time.time())
                if headers and not _HEADERS_WITHOUT_OPTIONS.issuperset(headers):
                    read_options(turn, headers, edge.clock)
                if ticket is not None:
                    ticket.apply_to(turn, request.model, self._dialect)
            except BaseException:
                if ticket is not None:
                    ticket.settle(None)
                raise
        except ClientLeft:
            return
        except GatewayError as error:
            await self.refuse(error, request_id, outlet, timeline)
            return
        response = TurnResponse(
            request, edge.gateway, turn, outlet, edge.heartbeat, edge.recorder, edge.answer
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
        """Send ``error`` before a turn began; it is counted and logged like every turn."""
        head = refusal_head(error, b"application/json", request_id, self._dialect)
        head += vendor_id_line(self._dialect, request_id)
        if isinstance(error, TooLarge):
            outlet.keep_alive, outlet.drains_request = False, True
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
        plain = self._codec.read_plain(raw)
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


_USUAL_VERSION_HEADERS = tuple(
    ((b"anthropic-version", version),) for version in KNOWN_ANTHROPIC_VERSIONS
)
"""What clients of Anthropic's say to the vendor in every request; each has a way of its own."""
_NO_DEADLINE = Deadline(None)
_HEADERS_WITHOUT_OPTIONS = frozenset(
    {b"authorization", b"x-api-key", b"x-request-id", b"content-length"}
)


class ClientLeft(ClientError):
    """The client disconnected before its request was complete: there is nobody to answer."""


def refusal_head(
    error: GatewayError, content_type: bytes, request_id: str, dialect: Dialect
) -> bytes:
    """The header lines of an error that is sent before a turn began."""
    allowed = b"allow: POST\r\n" if isinstance(error, MethodNotAllowed) else b""
    more = retry_after(error) + refusal_lines(error, dialect) + allowed + coding_line(error)
    head = b"content-type: %s\r\nx-request-id: %s\r\n%s"
    return head % (content_type, request_id.encode("latin-1"), more)


def read_headers(
    headers: Sequence[tuple[bytes, bytes]],
) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """The headers that the gateway reads, and those that are forwarded to the vendor."""
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
            raise ClientLeft("the client disconnected before its request was complete")
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


def read_options(  # noqa: C901 - one arm a header
    turn: Turn, headers: dict[bytes, bytes], clock: Callable[[], float]
) -> None:
    """Apply the ``x-slipstream-*`` headers to ``turn``; raises ``BadRequest`` naming the header."""
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
