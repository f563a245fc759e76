"""``TurnResponse``: the one owner of a request's life, from the first stage to the last byte.

* The status line goes out with the first event, so a failure before it gets its true 4xx or 5xx; a
  failure after it goes into the stream in the dialect's own form.
* A client that leaves, at any moment, cancels all work for it: the outlet calls ``_left`` the moment the
  connection ends. It counts as 499. The exception: others follow the same flight, and it goes on for them.
* Ten seconds of silence in a stream are filled with an SSE comment, also before the upstream has
  answered at all (that comment fixes the status at 200: from then on a failure is an in-stream one).
* Whatever happens, the turn is settled once: one ``TurnRecord`` for metrics, trace, ledger and log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from app.api.outlet import AsgiOutlet, Outlet
from app.api.request_parsing import vendor_id_line, without_vendor_id
from app.api.write_coalescing import WriteCoalescer, take_held
from app.domain.chat import ChatRequest
from app.domain.decisions import CacheOutcome
from app.domain.events import AnswerBuilder, Emit, Event, Frames, Pipe, Progress, WholeBody
from app.domain.model_call import Headers
from app.domain.models import Model
from app.domain.replay import replay
from app.domain.turn_record import DisconnectWindow, TurnRecord
from app.errors import DeadlineExceeded, GatewayError, ShuttingDown, UpstreamError, UpstreamStatus
from app.pipeline.gateway import Gateway, Turn, cancel_nothing
from app.ports import Codec, StreamWriter

CLIENT_LEFT = 499
_OK = 200
COMMENT = b": keep-alive\n\n"
STREAM_TYPE = (
    b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"
)
JSON_TYPE = b"content-type: application/json\r\n"
_log = logging.getLogger("slipstream.turn")


_MOST_HEADS = 1024
_HITS = frozenset({CacheOutcome.EXACT, CacheOutcome.SEMANTIC, CacheOutcome.COALESCED})
_new = tuple.__new__
HeadKey = tuple[bytes, CacheOutcome, str, str, str]
"""What the shared header lines depend on: content type, cache outcome, model, tier, reason."""


class Recorder(Protocol):
    """Receives the record of each finished turn; must neither block nor raise."""

    def settle(self, record: TurnRecord) -> None:
        """Record one finished turn."""
        ...


class AnswerFunction(Protocol):
    """The pipeline: ``app.pipeline.turn.answer`` or an agent's run."""

    def __call__(
        self, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
    ) -> Awaitable[None]:
        """Answer through ``emit``."""
        ...


class TurnResponse:
    """One request being answered."""

    # Initial state as class attributes, so that creating a response does not assign each.
    _writer: StreamWriter | None = None
    _builder: AnswerBuilder | None = None
    _whole: bytes | None = None
    _head_sent = False
    _responded = False
    """The whole response has been written."""
    _left_by_client = False
    _expired = False
    _status = _OK
    _code = ""
    _first_event_ns = 0
    _head_task: asyncio.Task[None] | None = None
    _joined: WriteCoalescer | None = None
    last_write_s = 0.0
    """Loop time of the last byte, for the heartbeat."""

    def __init__(  # noqa: PLR0917 - the owner of a request's life meets everybody
        self,
        request: ChatRequest,
        gateway: Gateway,
        turn: Turn,
        outlet: Outlet,
        heartbeat: Heartbeat,
        recorder: Recorder,
        answering: AnswerFunction,
    ) -> None:
        """Keep the collaborators; nothing runs before ``run``."""
        self._request, self._gateway, self._turn = request, gateway, turn
        self._outlet, self._heartbeat, self._recorder = outlet, heartbeat, recorder
        self._answering = answering
        self._codec: Codec = gateway.codecs[request.dialect]

    def mark_started(self, first_event_ns: int) -> None:
        """Call before ``run``: head and first event were sent at ``first_event_ns``; 0: not yet."""
        self._head_sent, self._first_event_ns = first_event_ns > 0, first_event_ns

    async def run(self) -> None:
        """Answer the request; returns when the response is complete or the client has disconnected."""
        turn, outlet, request = self._turn, self._outlet, self._request
        # The native outlet knows its task; asking asyncio costs ten times as much.
        task = outlet.task or asyncio.current_task()
        if task is not None:
            turn.cancel = task.cancel
        outlet.abort = self._on_client_left
        watcher = timer = None
        if isinstance(outlet, AsgiOutlet):
            watcher = asyncio.get_running_loop().create_task(outlet.watch())
        if turn.deadline.at_s is not None:
            timer = asyncio.get_running_loop().call_at(turn.deadline.at_s, self._on_deadline)
        if request.stream:
            self.last_write_s = asyncio.get_running_loop().time()
            self._heartbeat.add(self)
        try:
            await self._answering(request, self._gateway, turn, self)
            if not self._responded:
                await self._finish()
        except BaseException as raised:  # noqa: BLE001 - _end_with raises again what is not ours
            await self._end_with(raised)
        finally:
            if request.stream:
                self._heartbeat.discard(self)
            outlet.abort = None
            if timer is not None:
                timer.cancel()
            if watcher is not None:
                watcher.cancel()
            self._settle()
            # Break reference cycles, so that the garbage collector has nothing to find.
            turn.flight, turn.cancel = None, cancel_nothing

    async def _end_with(self, raised: BaseException) -> None:
        """Report to the client what ended the turn, if it is still connected; raise what is not ours."""
        if isinstance(raised, GatewayError):
            await self._fail(raised)
        elif isinstance(raised, asyncio.CancelledError):
            if self._expired:
                _uncancel()
                message = (
                    "the deadline of x-slipstream-deadline-ms passed before the answer was whole"
                )
                await self._fail(DeadlineExceeded(message))
            elif self._left_by_client:
                _uncancel()
            elif self._heartbeat.stopping:
                _uncancel()
                await self._fail(
                    ShuttingDown("this worker is shutting down: retry, another one will answer")
                )
            else:
                self._code = "cancelled"
                raise raised
        elif isinstance(raised, Exception):
            # The process edge: a bug must not reach the client as a traceback.
            _log.error("turn_failed", exc_info=raised, extra={"request_id": self._turn.request_id})
            await self._fail(GatewayError("the gateway failed; look up the request id in its log"))
        else:
            raise raised

    async def __call__(self, event: Event) -> None:
        """Write one event; waits for a slow client unless other requests share the flight."""
        if type(event) is WholeBody and not self._request.stream:
            self._respond_whole(event.body)
            return
        data = event.data if type(event) is Frames else self._encode(event)
        outlet = self._outlet
        if not data or outlet.client_left:
            return
        if not self._first_event_ns and not isinstance(event, Progress):
            self._first_event_ns = self._turn.timeline.now_ns()
        self.last_write_s = self._heartbeat.now_s
        if not self._head_sent:
            self._head_sent = True
            await outlet.begin(_OK, self._head(STREAM_TYPE), data)
            return
        if self._head_task is not None:
            await self._wait_for_head()
        if self._joined is not None and not (data := self._joined.add(data)):
            return
        flight = self._turn.flight
        # Followers of the flight must not be slowed to the pace of this client.
        followed = flight is not None and flight.followers > 0
        if not outlet.try_write(data, followed):
            await outlet.write(data)

    def _respond_whole(self, body: bytes) -> None:
        """Write a whole answer now rather than in ``_finish``: caching and learning can wait."""
        self._whole = body
        outlet = self._outlet
        if not outlet.client_left:
            self._first_event_ns = self._turn.timeline.now_ns()
            if outlet.try_respond(_OK, self._head(JSON_TYPE), body):
                self._head_sent = self._responded = True

    def offer(self, event: Frames | WholeBody) -> bool:
        """Write frames of a started stream, or a whole answer, if that needs no waiting; False: it does."""
        if isinstance(event, WholeBody):
            if not self._request.stream:
                self._respond_whole(event.body)
            return not self._request.stream
        if not self._head_sent or self._head_task is not None:
            return False
        self.last_write_s = self._heartbeat.now_s
        flight = self._turn.flight
        return self._outlet.try_write(event.data, flight is not None and flight.followers > 0)

    def pipe(self) -> Pipe | None:
        """A writer for single frames that forwards the chunk they came in unchanged; see ``Pipe``."""
        direct = getattr(self._outlet, "direct", None)
        if direct is None or not self._head_sent or self._head_task is not None:
            return None
        write: Callable[[bytes], bool] = direct()
        heartbeat = self._heartbeat

        def pass_on(_frame: bytes, chunk: bytes) -> bool:
            self.last_write_s = heartbeat.now_s
            return write(chunk)

        return pass_on

    def _encode(self, event: Event) -> bytes:
        """The bytes of an event in a stream; empty for a JSON answer, which is written at the end."""
        if not self._request.stream:
            self._builder = self._builder or AnswerBuilder()
            self._builder.add(event)
            return b""
        if isinstance(event, Frames):
            return event.data
        if isinstance(event, Progress):  # an agent
            self._joined = self._joined or WriteCoalescer(self._outlet)
            return b": %s\n\n" % event.text.replace("\n", " ").replace("\r", " ").encode()
        writer = self._writer = self._writer or self._codec.writer(self._request)
        if isinstance(event, WholeBody):  # an upstream that answered a stream request whole
            return b"".join(map(writer.write, replay(self._codec.read_answer(event.body))))
        return writer.write(event)

    async def _finish(self) -> None:
        if self._request.stream:
            last = take_held(self._joined) + (b"" if self._writer is None else self._writer.end())
            await self._wait_for_head()
            if self._head_sent:
                await self._outlet.end(last)
            else:
                await self._outlet.begin(_OK, self._head(STREAM_TYPE), b"")
                await self._outlet.end(last)
            return
        body = self._whole
        if body is None:
            answer = None if self._builder is None else self._builder.answer()
            if answer is None:
                message = "the answer ended before it was complete"
                await self._fail(GatewayError(message, code="incomplete_answer"))
                return
            body = self._codec.write_answer(answer, self._request)
        self._first_event_ns = self._turn.timeline.now_ns()
        self._head_sent = True
        await self._outlet.respond(_OK, self._head(JSON_TYPE), body)

    async def _fail(self, error: GatewayError) -> None:
        """Send ``error`` in the dialect's form: with its status before the first byte, then in the stream."""
        self._status, self._code = error.status, error.code
        if self._outlet.client_left or self._responded:
            return
        if self._head_sent:
            await self._wait_for_head()
            if isinstance(error, UpstreamError) and error.already_reported:
                await self._outlet.end(take_held(self._joined))
                return
            writer = self._writer or self._codec.writer(self._request)
            last = writer.fail(error, self._turn.request_id)
            await self._outlet.end(take_held(self._joined) + last)
            return
        call = self._turn.call
        native = call is not None and call.native is not None
        if isinstance(error, UpstreamStatus) and error.body and native:
            body, content_type = error.body, b"content-type: %s\r\n" % error.content_type
        else:
            body, content_type = self._codec.write_error(error, self._turn.request_id), JSON_TYPE
            if call is not None:
                call.response_headers = without_vendor_id(call.response_headers)
        head = self._head(content_type) + retry_after(error)
        await self._outlet.respond(error.status, head, body)

    def _head(self, content_type: bytes) -> bytes:
        """The response's header lines; every value is ours or was validated when it was received."""
        turn, call = self._turn, self._turn.call
        lines = self._heartbeat.head_lines(
            content_type, turn.cache, turn.model, turn.answered_tier, turn.reason
        )
        # A client with limits of ours gets those; the vendor's are shared by all clients.
        limits, vendors = turn.limit_head, b""
        head = b"".join(
            (
                lines, turn.request_id.encode(), b"\r\nserver-timing: ",
                turn.timeline.server_timing(), b"\r\n", limits,
            )
        )  # fmt: skip
        if call is not None and (call.dropped or call.response_headers):
            if call.dropped:
                head += b"x-slipstream-dropped: %s\r\n" % _one_line(", ".join(call.dropped))
            vendors = vendor_lines(call.response_headers, limited=bool(limits))
        return head + vendors + vendor_id_line(self._request.dialect, turn.request_id, vendors)

    def send_heartbeat(self, now_s: float) -> None:
        """Send a comment to the client, after the head if that has not been sent yet."""
        self.last_write_s = now_s
        if self._head_sent:
            self._outlet.write_comment(COMMENT)
        elif self._head_task is None:
            self._head_sent = True
            self._head_task = asyncio.get_running_loop().create_task(
                self._outlet.begin(_OK, self._head(STREAM_TYPE), COMMENT)
            )

    async def _wait_for_head(self) -> None:
        """Wait until a head that the heartbeat sent is written: nothing may overtake it."""
        if self._head_task is not None:
            await self._head_task
            self._head_task = None

    def _on_client_left(self) -> None:
        """Cancel the turn, or leave its flight to the followers: the client's connection has ended."""
        self._left_by_client = True
        flight = self._turn.flight
        if flight is not None and not flight.done and flight.leader_left():
            return
        self._turn.cancel()

    def _on_deadline(self) -> None:
        self._expired = True
        self._turn.cancel()

    def _window(self) -> DisconnectWindow:
        if not self._left_by_client:
            return ""
        if not self._request.stream:
            return "json"
        timing = self._turn.upstream
        if timing is None or not timing.headers_ns:
            return "before_headers"
        return "mid_stream" if self._first_event_ns else "before_first_token"

    def _settle(self) -> None:
        turn, request, timeline = self._turn, self._request, self._turn.timeline
        now_ns, started_ns, first_ns = timeline.now_ns(), timeline.started_ns, self._first_event_ns
        total_s = (now_ns - started_ns) / 1e9
        if request.stream and first_ns:
            timeline.mark("stream", first_ns, now_ns)
        timeline.settle()
        model = turn.model
        upstream_s = turn.upstream_ns / 1e9
        left = self._left_by_client
        # By position, as the tuple that it is: 30 keywords cost 20,000 instructions.
        fields = (
            turn.request_id,
            total_s,
            turn.started_unix_s,
            request.dialect,
            CLIENT_LEFT if left else self._status,
            "" if left else self._code,
            request.stream,
            turn.tenant,
            request.model,
            "" if model is None else model.name,
            "" if model is None else model.provider,
            turn.answered_tier,
            turn.routed,
            turn.band,
            turn.cache,
            turn.cache_reason,
            turn.finish,
            self._window() if left else "",
            turn.attempts,
            turn.reason,
            turn.score,
            turn.entry_id,
            (first_ns - started_ns) / 1e9 if first_ns else None,
            upstream_s,
            None if left or not turn.attempts else total_s - upstream_s,
            turn.usage,
            turn.tokens_streamed,
            turn.cost_usd,
            turn.saved_usd if turn.cache in _HITS else None,
            0,
            tuple(turn.tools),
            timeline,
            turn.traceparent,
            turn.threshold,
            turn.hedge,
        )
        self._recorder.settle(_new(TurnRecord, fields))


class HeartbeatStream(Protocol):
    """A stream that gets a comment when it is silent for too long."""

    last_write_s: float
    """Loop time of its last byte."""

    def send_heartbeat(self, now_s: float) -> None:
        """Write a comment."""
        ...


class Heartbeat:
    """Keeps silent streams alive, with one timer for all of them."""

    def __init__(self, silence_s: float) -> None:
        """Send a comment after ``silence_s`` seconds of silence; ``run`` must be running."""
        self._silence_s = silence_s
        self._streams: set[HeartbeatStream] = set()
        self._heads: dict[HeadKey, bytes] = {}
        """Header lines by what they depend on: most answers have the same."""
        self.stopping = False
        """The worker is shutting down: clients of turns cancelled from now on are told to retry."""
        self.now_s = 0.0
        """Coarse loop time: at most a quarter of a second old."""

    def head_lines(
        self, content_type: bytes, cache: CacheOutcome, model: Model | None, tier: str, reason: str
    ) -> bytes:
        """The header lines that are the same for many answers, up to the request's id."""
        key = (content_type, cache, "" if model is None else model.name, tier, reason)
        lines = self._heads.get(key)
        if lines is None:
            label = "" if model is None else model.label
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            lines = self._heads[key] = _head_lines(content_type, cache, label, tier, reason)
        return lines

    def add(self, stream: HeartbeatStream) -> None:
        """Send ``stream`` heartbeats."""
        self._streams.add(stream)

    def discard(self, stream: HeartbeatStream) -> None:
        """Stop sending ``stream`` heartbeats."""
        self._streams.discard(stream)

    async def run(self) -> None:
        """Check all streams four times per silence interval; runs until cancelled."""
        loop = asyncio.get_running_loop()
        step_s = min(0.25, self._silence_s / 4)
        while True:
            self.now_s = now_s = loop.time()
            for stream in list(self._streams):
                if now_s - stream.last_write_s >= self._silence_s:
                    stream.send_heartbeat(now_s)
            await asyncio.sleep(step_s)


def _head_lines(
    content_type: bytes, cache: CacheOutcome, label: str, tier: str, reason: str
) -> bytes:
    """The header lines that are the same for many answers, up to the request's id."""
    label = "slipstream/lane" if cache is CacheOutcome.LANE else label
    lines = b"%sx-slipstream-cache: %s\r\n" % (content_type, cache.encode())
    if label:
        lines += b"x-slipstream-model: %s\r\n" % _one_line(label)
    if tier:
        lines += b"x-slipstream-tier: %s\r\n" % tier.encode()
    if reason:
        lines += b"x-slipstream-reason: %s\r\n" % _one_line(reason)
    return lines + b"x-request-id: "


def vendor_lines(headers: Headers, *, limited: bool) -> bytes:
    """The vendor's header lines; ``limited`` leaves out those about its rate limits."""
    return b"".join(
        b"%s: %s\r\n" % header for header in headers if not limited or b"ratelimit" not in header[0]
    )


def retry_after(error: GatewayError) -> bytes:
    """The ``retry-after`` line in whole seconds, if the error has one; always for a 503."""
    if error.retry_after_s is None:
        return b"retry-after: 1\r\n" if error.status == 503 else b""  # noqa: PLR2004 - the contract: always on 503
    return b"retry-after: %d\r\n" % max(0, -int(-error.retry_after_s // 1))


def _one_line(text: str) -> bytes:
    return "".join(c if " " <= c <= "~" else "?" for c in text).encode("ascii")


def _uncancel() -> None:
    """Take back a cancellation that we requested ourselves, to send the last frame."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
