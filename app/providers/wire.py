"""The fast provider: our own connection pool, the vendor's bytes.

One ``WireProvider`` serves one upstream over one pool. Frames of the client's own dialect are passed through
unchanged; for other clients the sans-IO codecs parse them into neutral events. Nothing is retried here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from app.domain.chat import Dialect
from app.domain.events import Emit, Event, Frames, offer_of, pipe_of
from app.domain.model_call import Headers, ModelCall
from app.errors import Unsupported, UpstreamError, UpstreamProtocol, UpstreamStatus
from app.ports import Codec, StreamReader
from app.providers.redaction import redact, redact_failure
from app.providers.relay import (
    make_reader,
    raise_for_outcome,
    record_outcome,
    relay_answer,
    relay_chunk,
    relay_end,
    untouched_answer,
)
from app.providers.upstream_request import UpstreamRequest, build_upstream_request
from app.upstream import BodyCallback, Exchange, HeadShape, Pool, ResponseListener, Timeouts
from app.wire.passthrough import PassthroughReader

_ERROR_FROM = 400
_MAX_ERROR_BYTES = 1 << 20
_MAX_ANSWER_BYTES = 64 << 20
_JSON = (b"content-type", b"application/json")
_FORWARDED_PREFIXES = (
    b"x-ratelimit-",
    b"anthropic-ratelimit-",
    b"openai-",
    b"anthropic-organization-id",
)
_FORWARDED = frozenset({b"retry-after-ms", b"request-id"})
_HAS_FORWARDED = re.compile(rb"\n(?:x-ratelimit-|anthropic-|openai-|retry-after-ms|request-id)")
"""Matches a lower-case head with a header to forward: those of most local servers have none."""
_MAX_SHAPES = 256
_IDENTITY = b"identity"
_NO_SUCH_PATH = frozenset({404, 405, 501})


BeginExchange = Callable[[bytes, bytes, Timeouts, bytes, ResponseListener | None], Exchange | None]
"""The ``begin`` method of a pool."""


@dataclass(frozen=True, slots=True)
class WireOptions:
    """How to talk to one upstream."""

    name: str
    dialects: frozenset[Dialect]
    """Passed through unchanged."""
    fallback: Dialect
    """What all other requests are translated to."""
    base_path: bytes
    """The path before each codec's own, e.g. ``/v1``."""
    headers: Headers
    """Sent with every call: authentication, version, the operator's headers."""
    responses_optional: bool = False
    """The upstream may lack the Responses API: after its first 404, use Chat Completions instead."""


@dataclass(slots=True)
class StartedExchange:
    """A call that is already in progress, for ``ModelCall.started_exchange``."""

    exchange: Exchange
    reader: StreamReader | None = None
    """The reader of the stream so far."""
    first_event_ns: int = 0
    tokens: int = 0


class WireProvider:
    """A ``Provider`` over our own pool; see the protocol for its promises."""

    def __init__(
        self,
        options: WireOptions,
        pool: Pool,
        timeouts: Timeouts,
        codecs: Mapping[Dialect, Codec],
    ) -> None:
        """Serve calls over ``pool``; ``start`` warms it."""
        self.name = options.name
        self._options = options
        self._pool = pool
        self._timeouts = timeouts
        self._codecs = dict(codecs)
        self._fallback = self._codecs[options.fallback]
        self._dialects = options.dialects
        self._paths = {
            dialect: options.base_path + codec.path.encode() for dialect, codec in codecs.items()
        }
        self._head: Headers = (*options.headers, _JSON)
        self._request_heads: dict[Dialect, bytes] = {}
        """Request heads by dialect, for requests without headers of their own."""
        self.head_facts: dict[HeadShape, tuple[bool, bool]] = {}
        """By the shape of a response head: whether it has headers to forward, and whether JSON follows."""

    @property
    def pool(self) -> Pool:
        """The connection pool, for its statistics."""
        return self._pool

    def dialects(self) -> frozenset[Dialect]:
        """The dialects that are passed through unchanged."""
        return self._dialects

    async def start(self) -> None:
        """Open and warm connections; failures are not fatal."""
        await self._pool.start()

    async def aclose(self) -> None:
        """Close every connection; idempotent."""
        await self._pool.aclose()

    async def stream(self, call: ModelCall, emit: Emit) -> None:  # noqa: C901, PLR0912 - inlined: no coroutine for a part of it
        """Run ``call`` and hand its events to ``emit``; see ``app.ports.Provider``."""
        request = build_upstream_request(call, self._codecs, self._fallback)
        if call.prompt_shape is not None and call.prompts is not None:
            emit = await call.prompts.gate(call, emit)
        timeouts, pool = self._timeouts, self._pool
        start = self._request_head(call, request.codec.dialect)
        if call.deadline.at_s is not None:
            timeouts = _capped_timeouts(timeouts, call.deadline.at_s)
        # As in Pool.request, inlined for the path that most calls take.
        begun, call.started_exchange = call.started_exchange, None
        reader = None
        if isinstance(begun, StartedExchange):
            exchange: Exchange | None = begun.exchange
            reader = begun.reader
            call.first_event_ns, call.tokens_streamed = begun.first_event_ns, begun.tokens
        else:
            exchange = pool.try_send(start, request.body, timeouts)
        if exchange is not None:
            call.started_ns = exchange.queued_ns
            if not exchange.has_outcome:
                news = exchange.change_future()
                try:
                    await news
                except BaseException:
                    exchange.abort()
                    raise
        else:
            call.started_ns = time.monotonic_ns()
        if exchange is None or not exchange.status:
            exchange = await pool.send_or_replay(
                exchange, start, request.body, timeouts, replays=not call.single_attempt
            )
        json = self._read_head(call, exchange)
        if exchange.status >= _ERROR_FROM:
            request, exchange, json = await self._retry_translated(call, request, exchange)
        try:
            if call.stream and not json:
                await self._stream(call, request, exchange, emit, reader)
            else:
                body = exchange.take_unread() or await exchange.read_all(_MAX_ANSWER_BYTES)
                call.ended_ns = exchange.ended_ns
                offer = offer_of(emit) if request.passthrough else None
                if offer is None or not offer(untouched_answer(body, call, request.codec)):
                    await relay_answer(body, call, request, emit)
        finally:
            if exchange.connection is not None:
                (exchange.drain if call.complete else exchange.abort)()

    def send_parameters(
        self, dialect: Dialect, said: Headers = ()
    ) -> tuple[BeginExchange, bytes, Timeouts]:
        """What the straight path needs to send a body without waiting: the pool's method and its arguments.

        For calls without a deadline and with the vendor headers ``said``; ``stream`` continues the exchange
        that ``ModelCall.started_exchange`` holds.
        """
        start = self._pool.head_start(self._paths[dialect], _merged(self._head, said))
        return self._pool.try_send, start, self._timeouts

    def redact_failure(self, failure: UpstreamError, events: Sequence[Event]) -> Sequence[Event]:
        """Redact ``failure`` and the ``events`` that reported it."""
        return redact_failure(failure, events, self._options.headers)

    def _request_head(self, call: ModelCall, dialect: Dialect, suffix: bytes = b"") -> bytes:
        """The request's head without the body's length."""
        native = call.native
        if not suffix and not call.traceparent and (native is None or not native.forward_headers):
            start = self._request_heads.get(dialect)
            if start is None:
                start = self._request_heads[dialect] = self._pool.head_start(
                    self._paths[dialect], self._head
                )
            return start
        headers = self._head
        if native is not None and native.forward_headers:
            headers = _merged(headers, native.forward_headers)
        if call.traceparent:
            headers = (*headers, (b"traceparent", call.traceparent.encode("latin-1")))
        return self._pool.head_start(self._paths[dialect] + suffix, headers)

    def _read_head(self, call: ModelCall, exchange: Exchange) -> bool:
        """Record the response's head on ``call``; returns whether a JSON body follows."""
        call.headers_ns = exchange.first_byte_ns
        call.upstream_status = exchange.status
        shape = exchange.shape
        told = None if shape is None else self.head_facts.get(shape)
        if told is None:
            json = (exchange.header(b"content-type") or b"").startswith(b"application/json")
            told = (_HAS_FORWARDED.search(exchange.low_head) is not None, json)
            if shape is not None:
                if len(self.head_facts) >= _MAX_SHAPES:
                    self.head_facts.clear()
                self.head_facts[shape] = told
        if told[0]:
            call.response_headers = forwarded_headers(exchange.headers)
        return told[1]

    async def _retry_translated(
        self, call: ModelCall, request: UpstreamRequest, exchange: Exchange
    ) -> tuple[UpstreamRequest, Exchange, bool]:
        """Raise the upstream's error, or retry in a dialect that it may support."""
        error = await self._error(exchange, request)
        if not self._lacks_responses_api(call, error):
            raise error
        call.conversation = self._codecs[Dialect.RESPONSES].read(call.native.body)  # type: ignore[union-attr]
        call.native = None
        self._dialects = self._dialects - {Dialect.RESPONSES}
        request = build_upstream_request(call, self._codecs, self._fallback)
        exchange = await self._send(call, request)
        json = self._read_head(call, exchange)
        if exchange.status >= _ERROR_FROM:
            raise await self._error(exchange, request)
        return request, exchange, json

    async def count_tokens(self, call: ModelCall) -> int:
        """Ask the vendor to count; raises ``Unsupported`` where it has no such endpoint."""
        native = call.native
        if native is None or native.dialect is not Dialect.MESSAGES:
            message = f"{self.name} has no endpoint that counts tokens"
            raise Unsupported(message)
        request = build_upstream_request(call, self._codecs, self._codecs[Dialect.MESSAGES])
        exchange = await self._send(call, request, suffix=b"/count_tokens")
        if exchange.status >= _ERROR_FROM:
            raise await self._error(exchange, request)
        body = await exchange.read_all(_MAX_ERROR_BYTES)
        try:
            return msgspec.json.decode(body, type=_TokenCount).input_tokens
        except msgspec.DecodeError as exc:
            message = f"{self.name} answered a token count with something else"
            raise UpstreamProtocol(message) from exc

    async def _send(
        self, call: ModelCall, request: UpstreamRequest, suffix: bytes = b""
    ) -> Exchange:
        timeouts = self._timeouts
        if call.deadline.at_s is not None:
            timeouts = _capped_timeouts(timeouts, call.deadline.at_s)
        start = self._request_head(call, request.codec.dialect, suffix)
        return await self._pool.send_or_replay(None, start, request.body, timeouts)

    async def _error(self, exchange: Exchange, request: UpstreamRequest) -> UpstreamStatus:
        body = await exchange.read_all(_MAX_ERROR_BYTES)
        if (exchange.header(b"content-encoding") or _IDENTITY).lower() != _IDENTITY:
            body = b""  # not requested, unknown to the client, and it may contain our key
        return request.codec.read_error(
            exchange.status, redact(body, self._options.headers), dict(exchange.headers)
        )

    def _lacks_responses_api(self, call: ModelCall, error: UpstreamStatus) -> bool:
        """Whether the error shows that this upstream lacks the Responses API (and not just the model)."""
        return (
            self._options.responses_optional
            and call.native is not None
            and call.native.dialect is Dialect.RESPONSES
            and error.status in _NO_SUCH_PATH
            and b"model" not in error.body
        )

    async def _stream(
        self,
        call: ModelCall,
        request: UpstreamRequest,
        exchange: Exchange,
        emit: Emit,
        reader: StreamReader | None = None,
    ) -> None:
        """Relay events until the dialect's end of the answer; nothing after it is awaited.

        ``reader`` has read the stream so far, if any.
        """
        if reader is None:
            reader = make_reader(request)
        try:
            taker = None
            broken = reader.failure is not None
            while not broken and (data := await exchange.read(taker)):
                await relay_chunk(data, reader, call, emit, self._options.headers)
                if reader.failure is not None or reader.complete:
                    break
                if taker is None and request.passthrough and call.first_event_ns:
                    taker = _make_taker(call, reader, emit)
            else:
                if not broken:
                    await relay_end(reader, call, emit, self._options.headers)
        finally:
            call.ended_ns = time.monotonic_ns()
            record_outcome(reader, call)
        raise_for_outcome(reader, call, request, self.name)


def _make_taker(call: ModelCall, reader: StreamReader, emit: Emit) -> BodyCallback | None:
    """A callback that passes ordinary frames from one socket to the other without waking the reading task.

    The task is woken for everything else: other frames, partial frames, the end, and a client that reads too
    slowly. A frame that arrived in a chunk of its own is sent in that chunk. None where ``emit`` or
    ``reader`` does not support it.
    """
    offer = offer_of(emit)
    if offer is None or not isinstance(reader, PassthroughReader):
        return None
    ordinary, pipe = reader.ordinary, pipe_of(emit)

    def take(data: bytes, chunk: bytes) -> bool:
        count = ordinary(data)
        if count == 1 and chunk and pipe is not None:
            if not pipe(data, chunk):
                return False
        elif not count or not offer(Frames(data, count)):
            return False
        call.tokens_streamed += count
        return True

    return take


class _TokenCount(msgspec.Struct):
    input_tokens: int


def _capped_timeouts(timeouts: Timeouts, deadline_s: float) -> Timeouts:
    """``timeouts``, capped by ``deadline_s``."""
    left_s = max(0.001, deadline_s - time.monotonic())
    return replace(timeouts, total_s=min(timeouts.total_s, left_s))


def forwarded_headers(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The vendor's headers that its clients read: rate limits, request ids."""
    return tuple(
        (name, value)
        for name, value in headers
        if name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES)
    )


def _merged(ours: Headers, callers: Headers) -> Headers:
    """The caller's vendor headers replace ours of the same name (its ``anthropic-version``, say)."""
    names = {name for name, _ in callers}
    return (*(header for header in ours if header[0] not in names), *callers)
