"""Send an answer at its pace, and inject faults on the way.

Waiting is listening: while nothing is due, the request's `receive` is awaited, so a peer that hangs
up is noticed at once and no task is needed for it. What is due at the same moment goes out in one
write, so that `time_scale` 0 costs little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from app.providers.simulator.asgi import (
    CONNECTION_EXTENSION,
    Connection,
    Headers,
    Receive,
    Scope,
    Send,
)
from app.providers.simulator.clock import Pace
from app.providers.simulator.dialect import Frame
from app.providers.simulator.errors import PeerLeftError
from app.providers.simulator.faults import Fault, FaultKind

_SHORTEST_WAIT_S = 0.0005
"""Shorter gaps are merged: an event loop cannot keep them apart."""
_SETTLE_S = 0.02
"""Before a reset: what was written gets this long to reach the peer, which a reset may discard."""
_GARBAGE = b"<html>\x00\xff this is neither JSON nor an event stream"
_MID_STREAM = frozenset(
    {
        FaultKind.RESET_MID_STREAM,
        FaultKind.CUT,
        FaultKind.STALL,
        FaultKind.MALFORMED_FRAME,
        FaultKind.TRUNCATED,
        FaultKind.ERROR_EVENT,
    }
)


@dataclass(slots=True)
class Progress:
    """How far a response has come, for the statistics."""

    headers_are_out: bool = False
    events: int = 0


class Delivery:
    """One response being sent. Every method raises `PeerLeftError` once the peer has left."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, fault: Fault | None, drip_gap_s: float
    ) -> None:
        self._receive = receive
        self._send = send
        self._fault = fault
        self._drip_gap_s = drip_gap_s
        extensions = scope.get("extensions")
        found = extensions.get(CONNECTION_EXTENSION) if isinstance(extensions, dict) else None
        self._connection = cast("Connection | None", found)
        self.progress = Progress()

    async def document(
        self, status: int, headers: Headers, body: bytes, content_type: bytes = b"application/json"
    ) -> None:
        """Send a whole JSON body now, whatever the fault."""
        all_headers = [
            (b"content-type", content_type),
            (b"content-length", str(len(body)).encode()),
            *headers,
        ]
        await self._start(status, all_headers)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def paced_document(
        self, headers: Headers, body: bytes, pace: Pace, tokens: int, on_first: Callable[[], None]
    ) -> None:
        """Send a JSON answer when its last token is due. `on_first` is called at the first one."""
        await self._strike_before_headers(headers, b"application/json")
        await self.wait(pace.first_token_s)
        on_first()
        await self.wait(pace.gap_s(max(0, tokens - 1)))
        fault = self._fault
        if fault is None or fault.kind not in (_MID_STREAM | {FaultKind.DRIP}):
            await self.document(200, headers, body)
        elif fault.kind is FaultKind.DRIP:
            length = (b"content-length", str(len(body)).encode())
            await self._start(200, [(b"content-type", b"application/json"), length, *headers])
            await self._write(body)
            await self._finish()
        elif fault.kind in (FaultKind.MALFORMED_FRAME, FaultKind.TRUNCATED):
            await self.document(200, headers, body[: len(body) // 2])
        else:
            length = (b"content-length", str(len(body)).encode())
            await self._start(200, [(b"content-type", b"application/json"), length, *headers])
            await self._write(body[: len(body) // 2])
            # A JSON body has no place for an error: it ends as a lost connection would.
            await self._break_off(fault.kind)

    async def stream(
        self,
        headers: Headers,
        frames: Iterator[Frame],
        pace: Pace,
        on_first: Callable[[], None],
        error_frame: Callable[[int], bytes],
    ) -> None:
        """Send events as they fall due. `on_first` is called when the prompt has been read."""
        all_headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            *headers,
        ]
        await self._strike_before_headers(all_headers, b"text/event-stream; charset=utf-8")
        if self._fault is None and pace.is_instant:
            on_first()
            await self.begin(all_headers)
            body = b"".join([frame.data for frame in frames])
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
            return
        writer = _Writer(self, all_headers, pace, on_first)
        strike_at = self._fault.number if self._fault and self._fault.kind in _MID_STREAM else -1
        for frame in frames:
            await writer.wait_for(frame)
            if frame.data and self.progress.events == strike_at and self._fault is not None:
                if self._fault.kind is not FaultKind.MALFORMED_FRAME:
                    await writer.flush()
                    await self.begin(all_headers)
                    await self._write(b"")
                    await self._strike(self._fault.kind, error_frame)
                    return
                writer.add(_malformed(frame.data))
                continue
            writer.add(frame.data)
        await writer.flush()
        await self._finish()

    async def wait(self, delay_s: float) -> None:
        """Let time pass. Raises `PeerLeftError` at once when the peer leaves meanwhile."""
        if delay_s <= 0:
            return
        try:
            async with asyncio.timeout(delay_s):
                await self._until_peer_leaves()
        except TimeoutError:
            return

    async def _until_peer_leaves(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise PeerLeftError

    async def _strike_before_headers(self, headers: Headers, content_type: bytes) -> None:
        """Inject the faults that replace the answer; those that answer end here."""
        kind = self._fault.kind if self._fault is not None else None
        if kind is FaultKind.HANG:
            await self._until_peer_leaves()
        if kind is FaultKind.RESET:
            self._require_connection().reset()
            raise FaultStruckError
        if kind is FaultKind.GARBAGE:
            await self.document(200, _without_type(headers), _GARBAGE, content_type)
            raise FaultStruckError
        if kind is FaultKind.EMPTY:
            await self.document(200, _without_type(headers), b"", content_type)
            raise FaultStruckError

    async def _strike(self, kind: FaultKind, error_frame: Callable[[int], bytes]) -> None:
        if kind is FaultKind.ERROR_EVENT:
            await self._write(error_frame(self.progress.events))
        if kind in (FaultKind.ERROR_EVENT, FaultKind.TRUNCATED):
            await self._finish()
            return
        await self._break_off(kind)

    async def _break_off(self, kind: FaultKind) -> None:
        """End a body that has begun: by silence, by a close, or by a reset."""
        if kind is FaultKind.STALL:
            await self._until_peer_leaves()
        await self.wait(_SETTLE_S)
        connection = self._require_connection()
        if kind is FaultKind.CUT:
            connection.close()
        else:
            connection.reset()
        raise FaultStruckError

    def _require_connection(self) -> Connection:
        if self._connection is None:
            # Another ASGI server: all that an app can do there is to fail.
            raise ConnectionResetError("simulated reset")
        return self._connection

    async def begin(self, headers: Headers) -> None:
        """Send the status and headers of a stream, if they are not out yet."""
        if not self.progress.headers_are_out:
            await self._start(200, headers)

    async def put(self, data: bytes) -> None:
        """Send a part of a stream's body."""
        await self._write(data)

    async def _start(self, status: int, headers: Headers) -> None:
        self.progress.headers_are_out = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _write(self, data: bytes) -> None:
        if self._fault is None or self._fault.kind is not FaultKind.DRIP:
            # With nothing to write yet this still puts the headers on the wire.
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
            return
        for index in range(len(data)):
            part = data[index : index + 1]
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
            if self._drip_gap_s > 0:
                await self.wait(self._drip_gap_s)
            else:
                await asyncio.sleep(0)

    async def _finish(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class FaultStruckError(Exception):
    """A fault has ended the response; there is nothing left to send."""


class _Writer:
    """Gathers frames that are due together, and knows when the next one is."""

    def __init__(
        self, delivery: Delivery, headers: Headers, pace: Pace, on_first: Callable[[], None]
    ) -> None:
        self._delivery = delivery
        self._headers = headers
        self._pace = pace
        self._on_first = on_first
        self._now = asyncio.get_running_loop().time
        self._due_s = self._now() + pace.first_token_s
        self._has_read_prompt = False
        self._has_token = False
        self._buffer = bytearray()

    async def wait_for(self, frame: Frame) -> None:
        """Return when `frame` is due, having sent all that was due before."""
        if frame.is_early:
            return
        if frame.tokens:
            # The first token's time is already within the first-token time.
            counted = frame.tokens if self._has_token else frame.tokens - 1
            self._has_token = True
            self._due_s += self._pace.gap_s(counted) if counted else 0.0
        delay_s = 0.0 if self._pace.is_instant else self._due_s - self._now()
        if delay_s > _SHORTEST_WAIT_S:
            await self.flush()
            await self._delivery.wait(delay_s)
        if not self._has_read_prompt:
            self._has_read_prompt = True
            self._on_first()

    def add(self, data: bytes) -> None:
        """Queue one event's bytes for the next write."""
        if data:
            self._buffer += data
            self._delivery.progress.events += 1

    async def flush(self) -> None:
        """Write what is queued, preceded by the headers the first time."""
        if not self._buffer:
            return
        await self._delivery.begin(self._headers)
        data = bytes(self._buffer)
        self._buffer.clear()
        await self._delivery.put(data)


def _malformed(frame: bytes) -> bytes:
    """An event whose JSON ends in its middle."""
    start = frame.find(b"data: ") + len(b"data: ")
    return frame[: start + max(1, (len(frame) - start) // 2)] + b"\n\n"


def _without_type(headers: Headers) -> Headers:
    return [(name, value) for name, value in headers if name != b"content-type"]
