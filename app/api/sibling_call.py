"""An HTTP request to another worker of this server through its unix socket.

``app.api.siblings`` collects the response, ``app.api.sibling_streams`` relays it as it comes. To both, a
worker that dies within its response raises ``EOFError``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

_MAX_LINE_BYTES = 64 << 10
SIBLING_ERRORS = (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError)
"""Raised by a request to a worker that is gone, too slow (within a timeout) or answers invalid HTTP."""


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
