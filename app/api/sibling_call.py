"""A request to another worker of this server, at its own socket: the head of its answer, then what is in it.

``app.api.siblings`` collects such an answer and ``app.api.sibling_streams`` passes one on while it comes.
Both ask here, so that a worker which dies within its answer is the same to both: ``EOFError``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

_MOST_LINE_BYTES = 64 << 10
SILENT = (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError)
"""What asking raises of a worker that is gone, too slow (within a timeout), or speaks otherwise."""


@dataclass(frozen=True, slots=True)
class SiblingAnswer:
    """The head of a worker's answer, and where the rest comes from; whoever has it closes it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    """Names in lower case."""
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    async def pieces(self) -> AsyncIterator[bytes]:
        """What the body consists of, as it comes; raises one of ``SILENT`` where it breaks off."""
        reader = self._reader
        if (b"transfer-encoding", b"chunked") not in self.headers:
            size = next((int(said) for name, said in self.headers if name == b"content-length"), 0)
            yield await reader.readexactly(size)
            return
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield (await reader.readexactly(size + 2))[:-2]

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


async def ask_sibling(path: Path, request: bytes) -> SiblingAnswer:
    """Send ``request`` and read the head of the answer; raises one of ``SILENT``, and then has hung up."""
    reader, writer = await asyncio.open_unix_connection(path, limit=_MOST_LINE_BYTES)
    try:
        writer.write(request)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).rstrip().split(b"\r\n")
        headers = [
            (name.strip().lower(), value.strip())
            for name, _, value in (line.partition(b":") for line in lines)
        ]
        return SiblingAnswer(int(status.split(None, 2)[1]), headers, reader, writer)
    except BaseException:
        writer.close()
        raise
