"""Other workers of a server, as sockets that say one answer each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def siblings_saying(folder: Path, *answers: bytes) -> AsyncIterator[list[Path]]:
    """Their sockets in ``folder``: each hears a request, says its answer and hangs up."""
    servers, sockets = [], []
    for number, answer in enumerate(answers):

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = answer
        ) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        sockets.append(folder / f"{number}.sock")
        servers.append(await asyncio.start_unix_server(serve, sockets[-1]))
    try:
        yield sockets
    finally:
        for server in servers:
            server.close()
