"""A streamed answer on the fast path: each frame goes from socket to socket in one callback.

In addition to ``FastRequest``: the head goes out with the first event, a frame that came in a chunk of its
own goes on in that chunk, and no more of a frame is read than ``PassthroughReader`` reads. The general path
takes over for a client that reads too slowly, a failure, bytes that are not plainly whole frames, or ten
silent seconds before the first event, with the reader that read the beginning and what was sent so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic_ns, perf_counter_ns
from typing import TYPE_CHECKING, Final

from app.api.fast_request import OK, FastRequest, RequestPlan, new
from app.api.native import NativeOutlet
from app.api.request_parsing import vendor_id_line
from app.api.response import COMMENT, TurnResponse, vendor_lines
from app.domain.chat import Dialect
from app.domain.events import Event, Frames
from app.errors import UpstreamProtocol
from app.providers.wire import StartedExchange, forwarded_headers
from app.telemetry.fixed_timelines import CacheUpstreamStreamTimes
from app.telemetry.timeline import after_upstream
from app.upstream import Exchange, HeadShape
from app.wire.passthrough import PassthroughReader

if TYPE_CHECKING:
    from app.api.fast_path import FastPath  # needs this module

_MESSAGES: Final = Dialect.MESSAGES
_MAX_KNOWN_CHUNK: Final = 1024


def _line(whole_bytes: int) -> bytes:
    """The size line of a chunk of ``whole_bytes`` in all; one that never matches where there is none."""
    for digits in (1, 2, 3):
        line = b"%x\r\n" % max(0, whole_bytes - digits - 4)
        if len(line) == digits + 2 and whole_bytes > digits + 4:
            return line
    return b"?"


_LINES: Final = tuple(map(_line, range(_MAX_KNOWN_CHUNK)))
"""By the size of a whole chunk."""
_QUOTE: Final = ord('"')
_LINE_END: Final = ord("\n")
_CHUNK_END: Final = b"\r\n"
_FIELD_NAMES: Final = (b"data:", b"event:")
"""What a read must begin with; one in the middle of a line is for the general path."""


class FastStream(FastRequest):
    """One streamed request in flight."""

    streamed = True
    last_write_s = 0.0
    _reader: PassthroughReader | None = None
    _tokens = 0
    """Without those in ``_texts``."""
    _frame_prefix = _frame_suffix = b""
    """The bytes around each text in ``_texts``: its frame's, and its chunk's end."""
    _first_ns = 0
    """When the first event was sent, on the timeline's clock."""
    _ended = False
    """Whether the answer is complete and sent."""
    _last_events: Sequence[Event] = ()
    """Frames of an ended answer that are not among ``events`` yet."""
    _ended_ns = _last_ns = 0
    """When the upstream's answer ended, and ours."""

    def prepare(
        self, way: FastPath, plan: RequestPlan, outlet: NativeOutlet, key: bytes, request_id: str
    ) -> None:
        """Set all fields of a new request."""
        super().prepare(way, plan, outlet, key, request_id)
        self._texts: list[bytes] = []
        """The texts of frames that were known by their bytes, not among ``events`` yet."""

    def on_sent(self, exchange: Exchange) -> None:
        """The request was sent."""
        super().on_sent(exchange)
        exchange.skips_rounds = True
        self._outlet.rounds.stream_starts += 1
        self.usage_shown = self.plain.include_usage
        edge = self._way.edge
        edge.deferred.last_request_ns = self.instants[0]
        pulse = edge.heartbeat
        self.last_write_s = pulse.now_s
        if not self._handed_over:
            pulse.add(self)

    # ------------------------------------------------------------------ what the exchange tells

    def on_whole_response(self, shape: HeadShape, data: bytes, head_bytes: int) -> None:
        """A whole answer has arrived, so it is no stream: the general path turns it into one, or fails."""
        self._exchange.whole_received(shape, data, head_bytes)
        self._hand_over()

    def on_other_event(self) -> None:
        """The head has arrived, or the stream's end, or something for the general path."""
        if self._handed_over or self._ended:
            return
        exchange = self._exchange
        if self._reader is None:
            if self._is_stream(exchange):
                hide_usage = self._way.may_ask_for_usage and not self.usage_shown
                reader = self._way.codec.passthrough(hide_usage=hide_usage)
                if isinstance(reader, PassthroughReader):
                    self._reader, exchange.on_body, exchange.listener = reader, self.forward, self
                    return
        elif exchange.is_complete and self._forward_last(exchange):
            return
        self._hand_over()

    def _forward_last(self, exchange: Exchange) -> bool:
        """Forward what came with the end of the body; returns whether the answer ended too."""
        if self.forward(exchange.unread, b""):
            exchange.take_unread()  # which that was
        return self._ended

    def _is_stream(self, exchange: Exchange) -> bool:
        """Whether the head is that of an ordinary stream still in progress."""
        shape = exchange.shape
        told = None if shape is None else self._plan.wire.head_facts.get(shape)
        return (
            told is not None
            and not told[1]
            and exchange.status == OK
            and exchange.connection is not None
        )

    def forward(self, data: bytes, chunk: bytes) -> bool:
        """Forward a read of the body; returns False, and does nothing, where it is for the general path.

        ``chunk`` is the chunk that ``data`` came in alone; see ``BodyCallback``.
        """
        if self._ended:
            return True  # nothing is read behind the end of an answer
        outlet, reader = self._outlet, self._reader
        if self._handed_over or self.followers or reader is None or outlet.flow.write_paused:
            return False
        count = reader.ordinary(data)
        if not count:
            return self._forward_special(data, reader)
        if not self._first_ns:
            self._begin_answer(data)
        elif chunk:
            outlet.transport.write(chunk)
            if count == 1:
                self._learn_frame(data, reader)
        else:
            outlet.try_write(data, False)  # noqa: FBT003
            if not self._frame_prefix:
                self._learn_frame(data[data.rfind(b"\n\n", 0, -2) + 2 :], reader)
        self._tokens += count
        if self._texts:
            self._flush_texts()
        self._events.append(Frames(data, count))
        self.last_write_s = self._way.edge.heartbeat.now_s
        return True

    def _learn_frame(self, frame: bytes, reader: PassthroughReader) -> None:
        """Recognise further chunks of one such frame by their bytes."""
        around = reader.split_around_text(frame)
        if around is not None:
            self._flush_texts()
            self._frame_prefix, self._frame_suffix = around[0], around[1] + _CHUNK_END
            self._exchange.on_known_chunk = self._forward_known

    def _forward_known(self, chunk: bytes) -> bool:
        """Forward a read that is a known chunk with another text; False, and nothing done, if it is not.

        As ``take`` for it, at a fraction of the cost: this is nearly every token's way.
        """
        size = len(chunk)
        if size >= _MAX_KNOWN_CHUNK:
            return self._forward_several(chunk)
        head, behind, outlet = _LINES[size] + self._frame_prefix, self._frame_suffix, self._outlet
        text = chunk.removeprefix(head).removesuffix(behind)
        if (
            len(head) + len(text) + len(behind) != size
            or _QUOTE in text
            or _LINE_END in text
            or self.followers
            or outlet.flow.write_paused
        ):
            return self._forward_several(chunk)
        outlet.transport.write(chunk)
        self._texts.append(text)
        self.last_write_s = self._way.edge.heartbeat.now_s
        return True

    def _forward_several(self, chunks: bytes) -> bool:
        """As ``_forward_known``, for a read of several such chunks (the process was busy)."""
        before, behind, outlet = self._frame_prefix, self._frame_suffix, self._outlet
        *heads, rest = chunks.split(behind)  # which no text holds, for it begins with a quote
        if rest or self.followers or outlet.flow.write_paused:
            return False
        texts: list[bytes] = []
        for each in heads:
            size = len(each) + len(behind)
            head = (_LINES[size] if size < _MAX_KNOWN_CHUNK else b"?") + before
            text = each.removeprefix(head)
            if len(head) + len(text) != len(each) or _QUOTE in text or _LINE_END in text:
                return False
            texts.append(text)
        outlet.transport.write(chunks)
        self._texts += texts
        self.last_write_s = self._way.edge.heartbeat.now_s
        return True

    def _flush_texts(self) -> None:
        """Append the frames that were recognised by their bytes to the events."""
        texts = self._texts
        if texts:
            before, behind = self._frame_prefix, self._frame_suffix[: -len(_CHUNK_END)]
            said = b"".join((before, (behind + before).join(texts), behind))
            self._events.append(Frames(said, len(texts)))
            self._tokens += len(texts)
            self._texts = []

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        self._flush_texts()
        return super().events

    def _forward_special(self, data: bytes, reader: PassthroughReader) -> bool:
        """Process frames that carry more than text: a finish, usage, an error, the end."""
        if reader.has_partial_frame or not data.startswith(_FIELD_NAMES):
            return False
        self._exchange.on_known_chunk = None  # the next chunk may begin with the rest of a frame
        events = self._events_of(data, reader)
        if events is None:
            return False
        complete, last = reader.complete, b""
        for event in events:
            if type(event) is not Frames or (reader.failure is not None and not self._first_ns):
                break
            if not self._first_ns:
                self._begin_answer(event.data)
            elif complete:
                last += event.data
            else:
                self._outlet.try_write(event.data, True)  # noqa: FBT003
            self._tokens += event.count
            if not complete:
                self.events.append(event)
        if reader.failure is not None:
            self._hand_over()
        elif complete:
            self._last_events = events  # what follows the others, where anybody asks
            self._end(last)
        return True

    def _events_of(self, data: bytes, reader: PassthroughReader) -> Sequence[Event] | None:
        """The events that ``data`` completes; None where it is no event stream: the general path reads it."""
        try:
            events = reader.feed(data)
        except UpstreamProtocol:
            reader.drop_partial_frame()
            return None
        if reader.failure is not None:
            return self._plan.wire.redact_failure(reader.failure, events)
        return events

    def _begin_answer(self, first: bytes) -> None:
        """Send the head, and the first frames with it."""
        exchange, plan = self._exchange, self._plan
        started_ns, cache_ns, looked_ns = self.instants
        self._first_ns = first_ns = perf_counter_ns()
        passed = after_upstream(
            looked_ns - cache_ns, first_ns - exchange.queued_ns, first_ns - started_ns
        )
        shape = exchange.shape
        told = None if shape is None else plan.wire.head_facts.get(shape)
        theirs = (
            vendor_lines(forwarded_headers(exchange.headers), limited=False)
            if told is None or told[0]
            else b""
        )
        if self.dialect is _MESSAGES:
            theirs += vendor_id_line(_MESSAGES, self._request_id, theirs)
        self._outlet.send_first(
            (plan.stream_head, self._request_id.encode(), *passed, theirs), first
        )

    def _end(self, last: bytes) -> None:
        """The answer is complete except for ``last``, its last frames."""
        exchange, outlet, way = self._exchange, self._outlet, self._way
        self._ended = True
        outlet.abort = None
        outlet.end_now(last)
        self._ended_ns = ended_ns = monotonic_ns()
        way.edge.heartbeat.discard(self)
        if exchange.connection is not None:
            outlet.loop.call_soon(exchange.drain)  # it may be calling us just now
        sent_ns = exchange.queued_ns
        self._release((self._first_ns - sent_ns) / 1e9, (ended_ns - sent_ns) / 1e9)
        self._last_ns = perf_counter_ns()
        way.edge.deferred.add(self._account)

    def _account(self) -> None:
        """Store the answer and record the turn, some time after its end."""
        plan, reader, sent_ns = self._plan, self._reader, self._exchange.queued_ns
        if reader is None:
            return
        first_ns, ended_ns, last_ns = self._first_ns, self._ended_ns, self._last_ns
        usage, finish, upstream_s = reader.usage, reader.finish, (ended_ns - sent_ns) / 1e9
        events = (*self.events, *self._last_events)
        said = b"".join([event.data for event in events if type(event) is Frames])
        cost_usd = self._keep(said, usage, finish, upstream_s)
        started_ns, cache_ns, looked_ns = self.instants
        times = new(
            CacheUpstreamStreamTimes,
            (
                started_ns, cache_ns, looked_ns - cache_ns, sent_ns, ended_ns - sent_ns,
                first_ns, last_ns - first_ns, plan.model.label,
            ),
        )  # fmt: skip
        total_s, first_s = (last_ns - started_ns) / 1e9, (first_ns - started_ns) / 1e9
        self._count(finish, total_s, first_s, upstream_s, usage, self._tokens, cost_usd, times)

    # ------------------------------------------------------------------ to the general path

    def send_heartbeat(self, now_s: float) -> None:
        """Send a heartbeat; before the first event the general path does, for it fixes the status."""
        self.last_write_s = now_s
        if self._first_ns:
            self._outlet.write_comment(COMMENT)
        else:
            self._hand_over()
            self._outlet.loop.call_soon(self._pulse_general, now_s)

    def _pulse_general(self, now_s: float) -> None:
        if self._response is not None:
            self._response.send_heartbeat(now_s)

    def _hand_over(self) -> None:
        self._exchange.on_known_chunk = None
        self._flush_texts()
        self._way.edge.heartbeat.discard(self)
        super()._hand_over()

    def _begun_call(self) -> StartedExchange:
        exchange = self._exchange
        exchange.on_body = None
        return StartedExchange(exchange, self._reader, self._first_ns, self._tokens)

    def _set_progress(self, response: TurnResponse) -> None:
        """Tell the task what was sent already."""
        response.mark_started(self._first_ns)
