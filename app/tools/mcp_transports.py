"""MCP's two transports with a bound on the size of one answer.

The package's own read an answer whole, whatever its size: a JSON body over HTTP, a line over standard output.
Here HTTP bodies are counted as they are read, after decompression; a stream of events is bounded by the
event, which the package does. A program's lines go through a buffer that does not grow; a program whose
line is longer is killed, since that line would have to be read to its end to find the next one.

Importing this module loads the MCP package (0.7 s), so only a configuration with a server does.
"""

from __future__ import annotations

import asyncio
import zlib
from asyncio.subprocess import PIPE, Process, SubprocessStreamProtocol
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

import anyio
import httpx2
from anyio.abc import Process as AnyioProcess
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.os.posix.utilities import terminate_posix_process_tree
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from app.errors import ToolError
from app.tools.decompression import Decompressor, decompressor_for

Incoming = SessionMessage | Exception
Streams = tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]

MAX_ANSWER_BYTES = 4 << 20
"""Room for a large picture or page; a model is given ``max_result_bytes`` of it."""
TOO_LARGE = f"answered more than {MAX_ANSWER_BYTES} bytes; the rest was not read"
EVENT_TOO_LARGE = f"exceeded the {MAX_ANSWER_BYTES} byte limit"
"""Part of the package's own error for an event that is too large."""
_PIECE_BYTES = 1 << 16
_FLUSHED_WITHIN_S = 0.5
_EXITS_WITHIN_S = 2.0
_KILLED_AFTER_S = 2.0
_POLL_S = 0.01


class BoundedTransport(httpx2.AsyncBaseTransport):
    """An HTTP transport that reads at most ``MAX_ANSWER_BYTES`` of a body that is no stream of events."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        """Send by ``inner``."""
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; the body of its response raises ``httpx2.StreamError`` over the bound."""
        response = await self._inner.handle_async_request(request)
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        max_bytes = None if kind == "text/event-stream" else MAX_ANSWER_BYTES
        coding = response.headers.get("content-encoding", "")
        stream = cast("httpx2.AsyncByteStream", response.stream)
        headers = [
            (name, value)
            for name, value in response.headers.multi_items()
            if name.lower() not in {"content-encoding", "content-length"}
        ]
        return httpx2.Response(
            response.status_code,
            headers=headers,
            stream=_BoundedBody(stream, coding, max_bytes),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._inner.aclose()


class _BoundedBody(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, coding: str, max_bytes: int | None) -> None:
        self._inner, self._coding, self._max_bytes = inner, coding, max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read_bytes = 0
        try:
            decompressor = decompressor_for(self._coding)
            async for data in self._inner:
                for piece in _pieces(data, decompressor):
                    read_bytes += len(piece)
                    if self._max_bytes is not None and read_bytes > self._max_bytes:
                        raise httpx2.StreamError(TOO_LARGE)
                    yield piece
        except ToolError as exc:
            raise httpx2.StreamError(exc.message) from exc
        except zlib.error as exc:
            raise httpx2.StreamError("answered with a broken compression") from exc

    async def aclose(self) -> None:
        await self._inner.aclose()


def _pieces(data: bytes, decompressor: Decompressor | None) -> Iterable[bytes]:
    return (data,) if decompressor is None else decompressor(data, _PIECE_BYTES)


@asynccontextmanager
async def program_streams(
    command: Sequence[str], env: Mapping[str, str] | None, on_too_large: Callable[[], None]
) -> AsyncIterator[Streams]:
    """Run a program and exchange JSON-RPC messages with it, a line each, until the context ends.

    ``on_too_large`` is called when it is killed for a line over ``MAX_ANSWER_BYTES``. Raises ``OSError``
    where it cannot be started. Whatever ends the context, the program and its children are gone after it.
    """
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(
        lambda: SubprocessStreamProtocol(limit=MAX_ANSWER_BYTES, loop=loop),
        *command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=None,
        env=get_default_environment() | dict(env or {}),
        start_new_session=True,
    )
    program = _Program(Process(transport, protocol, loop), on_too_large)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(program.read)
            tasks.start_soon(program.write)
            try:
                yield program.received, program.sent
            finally:
                with anyio.CancelScope(shield=True):
                    await program.stop()
                tasks.cancel_scope.cancel()
    finally:
        transport.close()


class _Program:
    """A running server and its messages."""

    def __init__(self, process: Process, on_too_large: Callable[[], None]) -> None:
        self._process, self._on_too_large = process, on_too_large
        self._is_too_large = False
        self._written = anyio.Event()
        self._receiving, self.received = anyio.create_memory_object_stream[Incoming](0)
        self.sent, self._sending = anyio.create_memory_object_stream[SessionMessage](0)

    async def read(self) -> None:
        """Pass on what the program writes; the stream of messages ends with its output."""
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 - it was started with a pipe
        async with self._receiving:
            try:
                while True:
                    line = await stdout.readuntil(b"\n")
                    await self._receiving.send(_message(line))
            except asyncio.LimitOverrunError:
                self._is_too_large = True
                self._on_too_large()
            except (asyncio.IncompleteReadError, ConnectionError):
                return  # it closed its output
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                return  # the client has gone

    async def write(self) -> None:
        """Give the program what the client sends."""
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - it was started with a pipe
        try:
            async with self._sending:
                async for sent in self._sending:
                    text = sent.message.model_dump_json(by_alias=True, exclude_unset=True)
                    stdin.write(text.encode() + b"\n")
                    await stdin.drain()
        except ConnectionError:
            await self._receiving.aclose()  # so that requests under way fail and do not hang
        finally:
            self._written.set()

    async def stop(self) -> None:
        """End the program: by the end of its input, then by signals to it and its children."""
        self.received.close()
        self.sent.close()
        with anyio.move_on_after(_FLUSHED_WITHIN_S):
            await self._written.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        with anyio.move_on_after(0 if self._is_too_large else _EXITS_WITHIN_S):
            # Not process.wait(), which also waits for whoever inherited the pipes.
            while self._process.returncode is None:  # noqa: ASYNC110
                await anyio.sleep(_POLL_S)
        if self._process.returncode is None:
            program = cast(
                "AnyioProcess", self._process
            )  # its pid and returncode are all that is used
            await terminate_posix_process_tree(program, _KILLED_AFTER_S)


def _message(line: bytes) -> Incoming:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as exc:
        return exc
