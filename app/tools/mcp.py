"""The tools of an MCP server, over streamable HTTP or a program's standard input and output.

The client's connection belongs to one task (its cancel scopes must be left where they were
entered); calls come from any task. A server that dies in mid-call fails that call, and the next one
connects anew. The list of tools is kept as long as the server's own ``ttlMs`` says, or a minute
where it does not say.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar, cast

from app.domain.chat import Json
from app.domain.tools import Effects, ToolSpec, idempotency_key
from app.errors import ToolError
from app.tools.addresses import Addresses, CheckedBackend

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult
    from mcp_types import RequestParamsMeta

_AWAY_S = 5.0
"""How long a server that could not be asked for its tools is left alone."""
_DEFAULT_LIST_TTL_S = 60.0
_MAX_PAGES = 100
_MAX_LIST_BYTES = 4 << 20
"""Of all pages together: what is kept of a server."""
_LONGEST_NAME = 64
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_OF_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
_CONNECTION_CLOSED = -32000
"""JSON-RPC code with which the client fails what was under way when a connection ended."""
_LONGEST_REASON_CHARS = 300
_Result = TypeVar("_Result")
IDEMPOTENCY_META = "slipstream.dev/idempotency-key"
"""In a call's ``_meta``: what its server may know a repeated call of a job by."""


@dataclass(frozen=True, slots=True)
class McpOptions:
    """Where a server is and how far it is trusted."""

    name: str
    url: str = ""
    headers: Mapping[str, str] | None = None
    command: tuple[str, ...] = ()
    env: Mapping[str, str] | None = None
    timeout_s: float = 10.0
    effects: Effects = field(default_factory=Effects)
    max_result_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class ListedTool:
    """A tool that the server offers."""

    spec: ToolSpec
    tool: McpTool


class McpServer:
    """One MCP server; connects when it is first needed, and again after it was lost."""

    def __init__(
        self,
        options: McpOptions,
        clock: Callable[[], float] = time.monotonic,
        addresses: Addresses | None = None,
    ) -> None:
        """Speak to the server of ``options``; nothing happens before ``start``."""
        self.options = options
        self._clock = clock
        self._addresses = Addresses() if addresses is None else addresses
        self._client: Client | None = None
        self._owner: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._listing = asyncio.Lock()
        self._lost = asyncio.Event()
        self._is_too_large = False
        """This connection ended because an answer was too large."""
        self._failure = ""
        self._listed: tuple[ListedTool, ...] = ()
        self._listed_until_s = 0.0

    async def start(self) -> None:
        """Connect and list, so that the first run need not; a failure is not fatal."""
        await self.tools()

    async def aclose(self) -> None:
        """End the connection (and the program); idempotent."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.cancel()
            with suppress(asyncio.CancelledError):
                await owner

    async def tools(self) -> tuple[ListedTool, ...]:
        """What the server offers, from its kept list while that lives; empty while it cannot be reached."""
        if self._clock() < self._listed_until_s or (self._listed and self._listing.locked()):
            return self._listed
        async with self._listing:
            if self._clock() >= self._listed_until_s:
                try:
                    await self._list()
                except ToolError:  # or each run would wait for a server that hangs
                    self._listed_until_s = self._clock() + _AWAY_S
        return self._listed

    async def call(self, tool: str, arguments: Json) -> object:
        """Call a tool; raises ``ToolError``."""
        client = await self._connected()
        key = idempotency_key.get()
        meta = cast("RequestParamsMeta", {IDEMPOTENCY_META: key}) if key else None
        result = await self._request(client.call_tool(tool, dict(arguments), meta=meta))
        return _call_value(result)

    async def _list(self) -> None:
        client = await self._connected()
        found: list[ListedTool] = []
        cursor: str | None = None
        told_s: list[float] = []
        listed_bytes = 0
        for _ in range(_MAX_PAGES):
            page = await self._request(client.list_tools(cursor=cursor))
            listed_bytes += len(page.model_dump_json())
            if listed_bytes > _MAX_LIST_BYTES:
                message = f"{self.options.name} lists more than {_MAX_LIST_BYTES} bytes of tools"
                raise ToolError(message, code="tool_too_large")
            found += [
                self._described(tool.name, tool.description, tool.input_schema)
                for tool in page.tools
            ]
            if page.ttl_ms:
                told_s.append(page.ttl_ms / 1000)
            cursor = page.next_cursor
            if not cursor:
                break
        self._listed, self._listed_until_s = (
            tuple(found),
            self._clock() + min(told_s, default=_DEFAULT_LIST_TTL_S),
        )

    def _described(
        self, name: str, description: str | None, schema: Mapping[str, object]
    ) -> ListedTool:
        options = self.options
        spec = ToolSpec(
            name=vendor_safe_name(options.name, name),
            description=description or "",
            parameters=dict(schema),
            timeout_s=options.timeout_s,
            max_result_bytes=options.max_result_bytes,
            effects=options.effects,
            own_host=bool(options.command),
        )
        return ListedTool(spec, McpTool(self, name))

    async def _request(self, request: Awaitable[_Result]) -> _Result:
        """Await a request of the client; every way in which it fails is a ``ToolError``."""
        import anyio  # loaded with mcp, which only configurations with a server load
        from mcp import MCPError
        from pydantic import ValidationError

        from app.tools.mcp_transports import EVENT_TOO_LARGE, TOO_LARGE

        name = self.options.name
        try:
            return await request
        except MCPError as exc:
            if TOO_LARGE in exc.message or EVENT_TOO_LARGE in exc.message:
                raise ToolError(f"{name} {TOO_LARGE}", code="tool_too_large") from exc
            if exc.code == _CONNECTION_CLOSED:
                self._drop_connection()
                if self._is_too_large:
                    raise ToolError(f"{name} {TOO_LARGE}", code="tool_too_large") from exc
                raise ToolError(f"the MCP server {name} broke off", code="tool_closed") from exc
            reason = str(exc.message)[:_LONGEST_REASON_CHARS]
            raise ToolError(f"{name} refused: {reason}", code="tool_failed") from exc
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream) as exc:
            self._drop_connection()
            raise ToolError(f"the MCP server {name} broke off", code="tool_closed") from exc
        except (ValidationError, ValueError) as exc:
            message = f"{name} answered with something that is not MCP"
            raise ToolError(message, code="tool_not_data") from exc

    def _set_too_large(self) -> None:
        self._is_too_large = True

    def _drop_connection(self) -> None:
        """Have the owner close this connection; the next call opens another."""
        self._client = None
        self._lost.set()

    async def _connected(self) -> Client:
        """The live client; connects where there is none, within the server's time limit."""
        client = self._client
        if client is not None:
            return client
        _load()  # before the clock runs: what it takes is not the server's
        try:
            async with asyncio.timeout(self.options.timeout_s), self._connecting:
                client = self._client or await self._connect()
        except TimeoutError as exc:
            message = f"the MCP server {self.options.name} did not answer in time"
            raise ToolError(message, code="tool_timeout") from exc
        if client is None:
            raise ToolError(self._failure, code="tool_refused")
        return client

    async def _connect(self) -> Client | None:
        """Start an owner and wait until it is connected or has failed; the one before has to be gone."""
        if self._owner is not None:
            await asyncio.wait({self._owner})
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        owner = self._owner = loop.create_task(
            self._hold_connection(opened), name=f"mcp {self.options.name}"
        )
        try:
            await opened
        except asyncio.CancelledError:
            owner.cancel()
            raise
        return self._client

    async def _hold_connection(self, opened: asyncio.Future[None]) -> None:
        """Hold one connection until it is lost; this task enters and leaves all its scopes."""
        lost = self._lost = asyncio.Event()
        self._is_too_large = False
        try:
            async with self._open_client() as client:
                self._client = client
                if not opened.done():
                    opened.set_result(None)
                await lost.wait()
        except Exception as exc:  # noqa: BLE001 - the edge to a foreign process: its failure is told to who waits
            kind = type(exc).__name__
            self._failure = f"the MCP server {self.options.name} cannot be used: {kind}"
        finally:
            self._client = None
            if not opened.done():
                opened.set_result(None)

    @asynccontextmanager
    async def _open_client(self) -> AsyncIterator[Client]:
        import httpcore2
        import httpx2  # these five take 0.7 s to load, so only who has an MCP server loads them
        from mcp import Client
        from mcp.client.streamable_http import streamable_http_client

        from app.tools.mcp_transports import MAX_ANSWER_BYTES, BoundedTransport, program_streams

        options = self.options
        if options.command:
            program = program_streams(options.command, options.env, self._set_too_large)
            async with Client(program, cache=None) as client:
                yield client
            return
        transport = httpx2.AsyncHTTPTransport(trust_env=False)
        checked = CheckedBackend(httpcore2.AnyIOBackend(), self._addresses)
        checked.put_into(transport._pool)  # noqa: SLF001 - see there
        async with (
            httpx2.AsyncClient(
                transport=BoundedTransport(transport),
                headers={**(options.headers or {}), "accept-encoding": "gzip, deflate"},
                timeout=httpx2.Timeout(options.timeout_s, read=None),
                trust_env=False,
            ) as http,
            Client(
                streamable_http_client(
                    options.url, http_client=http, max_sse_event_size=MAX_ANSWER_BYTES
                ),
                cache=None,
            ) as client,
        ):
            yield client


def _load() -> None:
    """Load the client; 0.7 s, and seconds on a busy machine."""


def vendor_safe_name(server: str, tool: str) -> str:
    """``<server>__<tool>`` as vendors take names: letters, digits, ``_`` and ``-``, at most 64."""
    name = f"{server}__{tool}"
    if _NAME.fullmatch(name):
        return name
    told = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{_NOT_OF_A_NAME.sub('_', name)[: _LONGEST_NAME - 9]}_{told}"


class McpTool:
    """One tool of a server; see ``app.ports.Tool`` for its promises. Equal: the same of the same server."""

    def __init__(self, server: McpServer, name: str) -> None:
        """Call ``name``, as the server knows it."""
        self._server = server
        self._name = name

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, McpTool)
            and self._server is other._server
            and self._name == other._name
        )

    def __hash__(self) -> int:
        return hash((id(self._server), self._name))

    def is_of(self, server: str) -> bool:
        """Whether it is a tool of the server of that name."""
        return self._server.options.name == server

    async def call(self, arguments: Json) -> object:
        """Call it once."""
        return await self._server.call(self._name, arguments)

    async def describe(self, spec: ToolSpec) -> ToolSpec:
        """``spec`` with the server's own parameters, and its description where the operator gave none."""
        for listed in await self._server.tools():
            if listed.tool == self:
                return replace(
                    spec,
                    parameters=listed.spec.parameters,
                    description=spec.description or listed.spec.description,
                )
        return spec


def _call_value(result: CallToolResult) -> object:
    """What a call gave: its structured content, else its text; pictures and the like are named, not
    told.
    """
    texts = [
        block.text if block.type == "text" else f"[{block.type} content, not shown]"
        for block in result.content
    ]
    text = "\n".join(texts)
    if result.is_error:
        raise ToolError(text[:2000] or "the tool failed and did not say why", code="tool_failed")
    if result.structured_content is not None:
        return result.structured_content
    return text
