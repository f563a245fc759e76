"""The fast way to a model: our own connections, the vendor's bytes.

One ``WireProvider`` speaks to one upstream over one pool. Frames of the client's own dialect go through
untouched; for other clients the sans-IO codecs read them into neutral events. Nothing is retried here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from app.domain.chat import Dialect
from app.domain.events import Emit, Event, Frames, TextDelta, ThinkingDelta, offer_of
from app.errors import Unsupported, UpstreamClosed, UpstreamProtocol, UpstreamStatus
from app.ports import Codec, Headers, ModelCall, StreamReader
from app.providers.outgoing import Outgoing, outgoing
from app.providers.relay import hand_on_whole
from app.upstream import Exchange, Pool, Timeouts
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
_TELLING = re.compile(rb"\n(?:x-ratelimit-|anthropic-|openai-|retry-after-ms|request-id)")
"""Whether a head in lower case may hold a header that is forwarded: most local servers' hold none."""
_NO_SUCH_PATH = frozenset({404, 405, 501})


@dataclass(frozen=True, slots=True)
class WireOptions:
    """How one upstream is spoken to."""

    name: str
    dialects: frozenset[Dialect]
    """What passes through untouched."""
    fallback: Dialect
    """What every other request is written in."""
    base_path: bytes
    """The path before each codec's own, e.g. ``/v1``."""
    headers: Headers
    """Sent with every call: authentication, version, the operator's own."""
    responses_may_lack: bool = False
    """The upstream may not know the Responses API: on its first 404 there, Chat Completions serve."""


class WireProvider:
    """A ``Provider`` over our own pool; see the protocol for its promises."""

    def __init__(
        self,
        options: WireOptions,
        pool: Pool,
        timeouts: Timeouts,
        codecs: Mapping[Dialect, Codec],
    ) -> None:
        """Speak to ``pool``'s origin; ``start`` warms it."""
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

    @property
    def pool(self) -> Pool:
        """The connections, for their statistics."""
        return self._pool

    def dialects(self) -> frozenset[Dialect]:
        """The dialects that pass through untouched."""
        return self._dialects

    async def start(self) -> None:
        """Open and warm connections; failures are not fatal."""
        await self._pool.start()

    async def aclose(self) -> None:
        """Close every connection; idempotent."""
        await self._pool.aclose()

    async def stream(self, call: ModelCall, emit: Emit) -> None:
        """Run ``call`` and hand its events to ``emit``; see ``app.ports.Provider``."""
        request = outgoing(call, self._codecs, self._fallback)
        if call.shaped is not None and call.prompts is not None:
            emit = await call.prompts.gate(call, emit)
        exchange = await self._send(call, request)
        timing = call.timing
        if _TELLING.search(exchange.low_head) is not None:
            call.response_headers = _forwarded(exchange.headers)
        if exchange.status >= _ERROR_FROM:
            error = await self._error(exchange, request)
            if not self._lacks_responses(call, error):
                raise error
            call.conversation = self._codecs[Dialect.RESPONSES].read(call.native.body)  # type: ignore[union-attr]
            call.native = None
            self._dialects = self._dialects - {Dialect.RESPONSES}
            request = outgoing(call, self._codecs, self._fallback)
            exchange = await self._send(call, request)
            if exchange.status >= _ERROR_FROM:
                raise await self._error(exchange, request)
        try:
            if call.stream and not (exchange.header(b"content-type") or b"").startswith(
                b"application/json"
            ):
                await self._stream(call, request, exchange, emit)
            else:
                await self._whole(call, request, exchange, emit)
        finally:
            timing.ended_ns = time.monotonic_ns()
            if not exchange.ended_ns:
                exchange.abort()

    async def count_tokens(self, call: ModelCall) -> int:
        """Ask the vendor to count; raises ``Unsupported`` where it has no such endpoint."""
        native = call.native
        if native is None or native.dialect is not Dialect.MESSAGES:
            message = f"{self.name} has no endpoint that counts tokens"
            raise Unsupported(message)
        request = outgoing(call, self._codecs, self._codecs[Dialect.MESSAGES])
        exchange = await self._send(call, request, suffix=b"/count_tokens")
        if exchange.status >= _ERROR_FROM:
            raise await self._error(exchange, request)
        body = await exchange.read_all(_MAX_ERROR_BYTES)
        try:
            return msgspec.json.decode(body, type=_Counted).input_tokens
        except msgspec.DecodeError as exc:
            message = f"{self.name} answered a token count with something else"
            raise UpstreamProtocol(message) from exc

    async def _send(self, call: ModelCall, request: Outgoing, suffix: bytes = b"") -> Exchange:
        timing, timeouts = call.timing, self._timeouts
        timing.started_ns = time.monotonic_ns()
        if call.deadline.at_s is not None:
            left_s = max(0.001, call.deadline.at_s - time.monotonic())
            timeouts = replace(timeouts, total_s=min(timeouts.total_s, left_s))
        headers = self._head
        if call.native is not None and call.native.forward_headers:
            headers = _merged(headers, call.native.forward_headers)
        if call.traceparent:
            headers = (*headers, (b"traceparent", call.traceparent.encode("latin-1")))
        path = self._paths[request.codec.dialect]
        exchange = await self._pool.request(
            path=path + suffix if suffix else path,
            headers=headers,
            body=request.body,
            timeouts=timeouts,
        )
        timing.connected_ns, timing.sent_ns = exchange.connected_ns, exchange.sent_ns
        timing.headers_ns, timing.reused = exchange.first_byte_ns, exchange.reused
        call.upstream_status = exchange.status
        return exchange

    async def _error(self, exchange: Exchange, request: Outgoing) -> UpstreamStatus:
        body = await exchange.read_all(_MAX_ERROR_BYTES)
        return request.codec.read_error(exchange.status, body, dict(exchange.headers))

    def _lacks_responses(self, call: ModelCall, error: UpstreamStatus) -> bool:
        """Whether this upstream has just shown that it knows no Responses API (and not: no such model)."""
        return (
            self._options.responses_may_lack
            and call.native is not None
            and call.native.dialect is Dialect.RESPONSES
            and error.status in _NO_SUCH_PATH
            and b"model" not in error.body
        )

    async def _stream(  # noqa: C901 - the loop of every token stands in one piece
        self, call: ModelCall, request: Outgoing, exchange: Exchange, emit: Emit
    ) -> None:
        codec, timing = request.codec, call.timing
        reader = (
            codec.passthrough(hide_usage=request.hide_usage)
            if request.passthrough
            else codec.reader()
        )
        try:
            taker = None
            while data := await exchange.read(taker):
                for event in reader.feed(data):
                    if not timing.first_event_ns:
                        if reader.failure is not None:
                            raise reader.failure
                        timing.first_event_ns = time.monotonic_ns()
                    call.tokens_streamed += (
                        event.count if type(event) is Frames else _is_token(event)
                    )
                    await emit(event)
                if reader.failure is not None:
                    break
                if taker is None and request.passthrough and timing.first_event_ns:
                    taker = _taker(call, reader, emit)
            else:
                for event in reader.end():
                    timing.first_event_ns = timing.first_event_ns or time.monotonic_ns()
                    await emit(event)
        finally:
            call.usage, call.finish = reader.usage, reader.finish
            call.complete = reader.complete and reader.failure is None
        if reader.failure is not None:
            if request.passthrough and timing.first_event_ns:
                reader.failure.said = True  # its own frame went through to the client
            raise reader.failure
        if not reader.complete:
            message = f"{self.name} ended the stream before the answer was whole"
            raise UpstreamClosed(message, code="upstream_truncated")

    async def _whole(
        self, call: ModelCall, request: Outgoing, exchange: Exchange, emit: Emit
    ) -> None:
        await hand_on_whole(await exchange.read_all(_MAX_ANSWER_BYTES), call, request, emit)


def _taker(call: ModelCall, reader: StreamReader, emit: Emit) -> Callable[[bytes], bool] | None:
    """What passes ordinary frames straight from one socket to the other while nobody has to wait.

    The task that reads is woken for everything else: frames that tell something, half frames, the end, and a
    client that reads too slowly. None where ``emit`` or ``reader`` has no such way.
    """
    offer = offer_of(emit)
    if offer is None or not isinstance(reader, PassthroughReader):
        return None
    ordinary = reader.ordinary

    def take(data: bytes) -> bool:
        count = ordinary(data)
        if not count or not offer(Frames(data, count)):
            return False
        call.tokens_streamed += count
        return True

    return take


class _Counted(msgspec.Struct):
    input_tokens: int


def _is_token(event: Event) -> bool:
    return isinstance(event, TextDelta | ThinkingDelta)


def _forwarded(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    return tuple(
        (name, value)
        for name, value in headers
        if name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES)
    )


def _merged(ours: Headers, callers: Headers) -> Headers:
    """The caller's vendor headers replace ours of the same name (its ``anthropic-version``, say)."""
    names = {name for name, _ in callers}
    return (*(header for header in ours if header[0] not in names), *callers)
