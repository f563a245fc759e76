"""Batches the socket reads of one turn of the event loop: read them all, process them, then write.

Theory of operation. Under load the loop finds a few dozen readable sockets in each turn. Reading, processing
and writing for one socket after the other goes through the kernel's code, the interpreter's and the kernel's
again each time: far more than the nearest caches hold, so that the processor mostly waits for instructions.
In a *round* the turn's reads are only queued; the loop's next callback processes half of them, writes what
they produced, then does the other half.

* A protocol queues a read with ``enqueue_read`` and gets it again, in order, before the loop next polls its
  sockets. An event that must not overtake queued reads (end of file, shutdown) calls ``run_all`` first.
* Writes produced within a round wait in ``pending_writes`` until its half is processed. In halves, because
  the peers have work to do meanwhile.
* Too few reads in a turn gain nothing: then the next ``DIRECT_READS`` are processed as they are read.

Streams care for their first token, so a round makes way for them. After ``MAX_STREAM_STARTS`` new streams the
requests go out and the loop polls before the rest is processed; the first bytes of their answers skip the
rounds (``Exchange.skips_rounds``). What ends a stream is a *late read*: it is processed after the turn's
requests, a few in each turn, so that the streams that end together do not delay those that begin.

One event loop owns it, and all sockets of that loop share it (``rounds_of``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

MIN_ROUND_READS: Final = 4
"""Fewer reads in a turn are not worth a round."""
DIRECT_READS: Final = 32
"""How many reads are processed directly before a round is tried again."""
MIN_HALF, MAX_HALF = 8, 32
"""How many reads are processed before their writes: half a round, within these."""
MAX_STREAM_STARTS: Final = 8
"""After so many new streams a round lets the loop poll its sockets."""
LATE_READS: Final = 4
"""How many late reads a turn processes at least."""
LATE_SHARE: Final = 8
"""A turn processes one in so many of the late reads, so that their queue cannot grow for ever."""
_UNLIMITED: Final = 1 << 29
_log = logging.getLogger("slipstream.wire")


class Receiver(Protocol):
    """A socket's protocol."""

    def data_received(self, data: bytes) -> None:
        """Process ``data``, or pass it to ``enqueue_read`` while ``direct_reads`` is 0."""

    def receive_failed(self, error: Exception) -> None:
        """Handle what ``data_received`` raised in a round, as the loop would."""


class Rounds:
    """The rounds of one event loop."""

    __slots__ = (
        "_call_soon",
        "_late_reads",
        "_turn_scheduled",
        "deferring_writes",
        "direct_reads",
        "pending_reads",
        "pending_writes",
        "stream_starts",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with nothing queued."""
        self._call_soon = loop.call_soon
        self._turn_scheduled = False
        self._late_reads: list[tuple[Receiver, bytes]] = []
        self.pending_reads: list[tuple[Receiver, bytes]] = []
        """In the order of arrival."""
        self.direct_reads = 0
        """How many more reads are processed directly: each takes one off; 0 while reads are queued."""
        self.deferring_writes = False
        """A round is processing reads: what they produce goes into ``pending_writes``."""
        self.pending_writes: list[tuple[Callable[[bytes], None], bytes]] = []
        self.stream_starts = 0
        """Requests for streams that the present half has sent; whoever sends one adds it."""

    def enqueue_read(self, receiver: Receiver, data: bytes) -> None:
        """Have ``receiver`` process ``data`` in this turn's round; only while ``direct_reads`` is 0."""
        if not self._turn_scheduled:
            self._schedule_turn()
        self.pending_reads.append((receiver, data))

    def enqueue_late_read(self, receiver: Receiver, data: bytes) -> None:
        """Have ``receiver`` process ``data`` after the requests of this turn, or of one of the next."""
        if not self._turn_scheduled:
            self._schedule_turn()
        self._late_reads.append((receiver, data))

    def run_all(self) -> None:
        """Process all that is queued, late reads included, and write what it produces."""
        while self.pending_reads:
            self._run_round(_UNLIMITED)
        while self._late_reads:
            self._run_late(len(self._late_reads))

    def _schedule_turn(self) -> None:
        self._turn_scheduled = True
        self._call_soon(self._run_turn)

    def _run_turn(self) -> None:
        self._turn_scheduled = False
        try:
            if self.pending_reads:
                self._run_round(MAX_STREAM_STARTS)
            if self._late_reads:
                self._run_late(max(LATE_READS, len(self._late_reads) // LATE_SHARE))
        finally:
            if (self.pending_reads or self._late_reads) and not self._turn_scheduled:
                self._schedule_turn()

    def _run_round(self, max_starts: int) -> None:
        """Process the pending reads; those behind ``max_starts`` new streams stay pending."""
        reads, self.pending_reads = self.pending_reads, []
        count = len(reads)
        self.direct_reads = _UNLIMITED  # a receiver called now must not queue its read again
        half = min(MAX_HALF, max(MIN_HALF, (count + 1) // 2))
        start = 0
        while start < count:
            start += self._process(reads[start : start + half], max_starts)
            if self.stream_starts >= max_starts and start < count:
                self.pending_reads[:0] = reads[start:]
                self.direct_reads = 0
                return
        self.direct_reads = DIRECT_READS if count < MIN_ROUND_READS else 0

    def _run_late(self, count: int) -> None:
        reads, self._late_reads = self._late_reads[:count], self._late_reads[count:]
        self._process(reads, _UNLIMITED)

    def _process(self, reads: list[tuple[Receiver, bytes]], max_starts: int) -> int:
        """Process ``reads``, at most up to ``max_starts`` new streams, and write; returns how many."""
        self.deferring_writes, self.stream_starts = True, 0
        processed = 0
        try:
            for receiver, data in reads:
                processed += 1
                try:
                    receiver.data_received(data)
                except Exception as error:  # noqa: BLE001 - as in a socket's callback
                    receiver.receive_failed(error)
                if self.stream_starts >= max_starts:
                    break
        finally:  # also where the process is to end
            self.deferring_writes = False
        writes, self.pending_writes = self.pending_writes, []
        for write, data in writes:
            try:
                write(data)
            except RuntimeError as error:  # closed since; its protocol hears of that by itself
                _log.info("said_to_a_closed_socket", exc_info=error)
        return processed


def rounds_of(loop: asyncio.AbstractEventLoop) -> Rounds:
    """The rounds of ``loop``; on another loop than the server's each caller gets its own."""
    return getattr(loop, "rounds", None) or Rounds(loop)
