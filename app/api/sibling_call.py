"""An HTTP request to another worker of this server through its unix socket.

``app.api.siblings`` and ``app.api.sibling_approvals`` collect the response, ``app.api.sibling_streams``
relays it as it comes. To all, a worker that dies within its response raises ``EOFError``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

_MAX_LINE_BYTES = 64 << 10
_SILENT = 504
SIBLING_ERRORS = (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError)
"""Raised by a request to a worker that is gone, too slow (within a timeout) or answers invalid HTTP."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A worker's complete response."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SiblingResponse:
    """The head of a worker's response and a reader of its body; the caller closes it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    """Names in lower case."""
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    async def body_chunks(self) -> AsyncIterator[bytes]:
        """What the body consists of, as it comes; raises one of ``SIBLING_ERRORS`` where it breaks off."""
        reader = self._reader
        if (b"transfer-encoding", b"chunked") not in self.headers:
            size = next(
                (int(value) for name, value in self.headers if name == b"content-length"), 0
            )
            yield await reader.readexactly(size)
            return
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield (await reader.readexactly(size + 2))[:-2]

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


async def ask_sibling(path: Path, request: bytes) -> SiblingResponse:
    """Send ``request`` and read the head of the answer; raises ``SIBLING_ERRORS``, disconnected."""
    reader, writer = await asyncio.open_unix_connection(path, limit=_MAX_LINE_BYTES)
    try:
        writer.write(request)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).rstrip().split(b"\r\n")
        headers = [
            (name.strip().lower(), value.strip())
            for name, _, value in (line.partition(b":") for line in lines)
        ]
        return SiblingResponse(int(status.split(None, 2)[1]), headers, reader, writer)
    except BaseException:
        writer.close()
        raise


async def whole_reply(path: Path, request: bytes, within_s: float) -> Reply:
    """The sibling's whole answer; raises one of ``SIBLING_ERRORS``."""
    async with asyncio.timeout(within_s):
        answer = await ask_sibling(path, request)
        try:
            body = b"".join([piece async for piece in answer.body_chunks()])
        finally:
            answer.close()
    headers = [header for header in answer.headers if header[0] == b"content-type"]
    return Reply(answer.status, body, headers)


async def reply_or_timeout(path: Path, request: bytes, within_s: float) -> Reply | None:
    """The sibling's whole answer: None only if the worker is gone, an empty 504 if it does not answer."""
    try:
        return await whole_reply(path, request, within_s)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except SIBLING_ERRORS:
        return Reply(_SILENT, b"")


def sibling_sockets(folder: Path) -> list[Path]:
    """The sockets in ``folder`` of all workers but this process."""
    own = own_socket(folder)
    return [path for path in folder.glob("*.sock") if path != own]


def own_socket(folder: Path) -> Path:
    """Where this process listens for its siblings."""
    return folder / f"{os.getpid()}.sock"
