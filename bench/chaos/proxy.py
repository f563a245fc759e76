"""A TCP proxy on loopback that harms what it carries, as it is told.

It stands between the gateway and an upstream, a Redis or a tool. A ``Fault`` may be changed while
connections live: offsets count the bytes that each connection has carried to the gateway since.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from dataclasses import dataclass
from typing import Literal, Self

_READ_BYTES = 65_536
Cut = Literal["reset", "close", "half_close", "stall"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to the bytes that come back; the default does nothing."""

    latency_s: float = 0.0
    """Before each read's bytes go on."""
    jitter_s: float = 0.0
    """Up to so much more, drawn from the proxy's own seeded generator."""
    bytes_per_s: float = 0.0
    """Bandwidth; 0 for no limit."""
    piece_bytes: int = 0
    """Sends in pieces of this size, each a write of its own; 0 as they come."""
    cut: Cut | None = None
    """How it ends once ``after`` bytes have gone through."""
    after: int = 0
    corrupt: bool = False
    """From offset ``after`` on one byte in eight is another."""
    garbage: bytes = b""
    """Sent in place of the first bytes that come back."""
    every: int = 1
    """Only every so-manieth connection is harmed."""


CALM = Fault()


@dataclass(eq=False, slots=True)
class _Link:
    """One carried connection."""

    number: int
    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    era: int = 0
    carried: int = 0


class FaultProxy:
    """Carries connections to ``port`` on loopback; enter and leave it in one task."""

    def __init__(self, port: int, *, seed: int = 0) -> None:
        """``seed`` fixes the jitter."""
        self._target = port
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._fault = CALM
        self._era = 0
        self.port = 0
        self.accepted = 0

    @property
    def live(self) -> int:
        """Connections that are carried now."""
        return len(self._links)

    def inject(self, fault: Fault) -> None:
        """Do this from now on, to living connections too; their offsets begin at 0."""
        self._fault = fault
        self._era += 1

    async def down(self) -> None:
        """Refuse connections, and end the living ones with a RST."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop()
        await asyncio.sleep(0)

    def drop(self) -> None:
        """End the living connections with a RST."""
        for link in list(self._links):
            _reset(link.near)

    async def up(self) -> None:
        """Accept connections, on the same port each time."""
        if self._server is None:
            self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End everything; no task outlives it."""
        await self.down()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _carry(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:  # pragma: no cover - start_server runs us in a task
            return
        self._tasks.add(task)
        self.accepted += 1
        link: _Link | None = None
        try:
            back, far = await asyncio.open_connection("127.0.0.1", self._target)
            link = _Link(self.accepted, near, far, self._era)
            self._links.add(link)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forth(reader, link))
                group.create_task(self._back(back, link))
        except* (
            OSError,
            asyncio.CancelledError,
            RuntimeError,
            _Ended,
        ):  # RuntimeError: uvloop's, of a closed transport
            pass
        finally:
            self._tasks.discard(task)
            if link is not None:
                self._links.discard(link)
                link.far.transport.abort()
            near.close()

    async def _forth(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while data := await reader.read(_READ_BYTES):
            link.far.write(data)
            await link.far.drain()
        raise _Ended

    async def _back(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while data := await reader.read(_READ_BYTES):
            fault = self._fault
            if link.era != self._era:
                link.era, link.carried = self._era, 0
            if fault is CALM or link.number % fault.every:
                link.near.write(data)
                await link.near.drain()
            else:
                await self._harm(fault, link, data)
        raise _Ended

    async def _harm(self, fault: Fault, link: _Link, data: bytes) -> None:
        if fault.latency_s or fault.jitter_s:
            await asyncio.sleep(fault.latency_s + self._random.random() * fault.jitter_s)
        if fault.garbage and link.carried == 0:
            data = fault.garbage
        ends = fault.cut is not None and link.carried + len(data) >= fault.after
        if ends:
            data = data[: max(0, fault.after - link.carried)]
        if fault.corrupt:
            data = _corrupted(data, fault.after - link.carried)
        link.carried += len(data)
        size = fault.piece_bytes or len(data) or 1
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            link.near.write(piece)
            await link.near.drain()
            if fault.bytes_per_s:
                await asyncio.sleep(len(piece) / fault.bytes_per_s)
            elif fault.piece_bytes:
                await asyncio.sleep(0)
        if ends and fault.cut is not None:
            await _end(fault.cut, link)


class _Ended(Exception):
    """One side has hung up: the other is to follow."""


async def _end(cut: Cut, link: _Link) -> None:
    if cut == "reset":
        _reset(link.near)
        raise _Ended
    if cut == "close":
        link.near.close()
        with contextlib.suppress(OSError):
            await link.near.wait_closed()
        raise _Ended
    if cut == "half_close":
        link.near.write_eof()
    await asyncio.Event().wait()  # until the gateway hangs up, which ends the other direction


def _reset(writer: asyncio.StreamWriter) -> None:
    found: socket.socket | None = writer.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _corrupted(data: bytes, begins_at: int) -> bytes:
    harmed = bytearray(data)
    for at in range(max(0, begins_at), len(harmed), 8):
        harmed[at] ^= 0x15
    return bytes(harmed)
