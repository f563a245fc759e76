"""All tools by name, and the one way to call them: validated, limited, retried, cached, truncated.

``Registry.call`` gives a ``ToolResult`` or raises a ``ToolError``, whatever a server does; only the
caller's own cancellation passes through.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from app.domain.chat import Json
from app.domain.tools import ToolCaller, ToolResult, ToolSpec
from app.errors import ToolError
from app.ports import Tool
from app.tools.mcp import ListedTool, McpServer, McpTool
from app.tools.output_cache import OutputCache, call_key
from app.tools.shared_outputs import SharedOutputs
from app.tools.validation import ArgumentValidator, SchemaFault

_TRANSIENT = frozenset({"tool_timeout", "tool_refused", "tool_closed", "tool_server_error"})
_BACKOFF_S = 0.05
_NO_CONTENT = "(no content)"
"""Text of an empty result: vendors refuse an empty text."""
_log = logging.getLogger("slipstream.tools")
_LONGEST_ARGUMENTS_CHARS = 1 << 20
ALL = "*"
"""``<server>__*``: every tool of an MCP server."""
SEPARATOR = "__"


class RegisteredTool:
    """A tool with its description, its schema's validator and its limit."""

    __slots__ = ("_arguments", "_room", "listed", "spec", "tool", "waited_s", "waiting")

    def __init__(self, spec: ToolSpec, tool: Tool, *, listed: bool = False) -> None:
        """Offer ``tool`` as ``spec`` describes it; raises ``SchemaFault``."""
        self.spec = spec
        self.tool = tool
        self.listed = listed
        """An MCP server listed it; it is not in the configuration."""
        self._arguments = ArgumentValidator(spec.parameters)
        self._room = asyncio.Semaphore(spec.max_concurrency)
        self.waiting = 0
        """Calls that wait for a slot now."""
        self.waited_s = 0.0
        """Total time that calls have waited for one."""

    def check(self, arguments: Json) -> None:
        """Raise ``ToolError`` saying what is wrong with ``arguments``, in words that a model can act on."""
        self._arguments.check(arguments)

    def checked(self, arguments: str) -> Json:
        """A call's arguments, parsed and fitting the schema; raises ``ToolError`` in words for the
        model.
        """
        parsed = parse_arguments(arguments)
        self.check(parsed)
        return parsed

    async def try_once(self, arguments: Json) -> object:
        """One try within the tool's time and concurrency limits."""
        if self._room.locked():
            await self._wait()
        else:
            await self._room.acquire()
        try:
            async with asyncio.timeout(self.spec.timeout_s):
                return await self.tool.call(arguments)
        except TimeoutError as exc:
            message = f"did not answer within {self.spec.timeout_s:g} s"
            raise ToolError(message, code="tool_timeout") from exc
        finally:
            self._room.release()

    async def _wait(self) -> None:
        """Wait for a slot, and count the wait."""
        began_s = time.monotonic()
        self.waiting += 1
        try:
            await self._room.acquire()
        finally:
            self.waiting -= 1
            self.waited_s += time.monotonic() - began_s


@dataclass(slots=True)
class Registry:
    """All tools of the gateway. ``start`` before use, ``aclose`` after; one event loop owns it."""

    tools: dict[str, RegisteredTool] = field(default_factory=dict)
    servers: Mapping[str, McpServer] = field(default_factory=dict)
    outputs: OutputCache = field(default_factory=OutputCache)
    shared: SharedOutputs | None = None
    """What all workers keep; None without Redis."""
    closing: list[Callable[[], object]] = field(default_factory=list)
    jitter: Callable[[], float] = random.random
    _unfit: dict[str, ToolSpec] = field(default_factory=dict)

    async def start(self) -> None:
        """Connect to the MCP servers, all at once; one that is not there now is tried again when needed."""
        async with asyncio.TaskGroup() as group:
            for server in self.servers.values():
                group.create_task(server.start())

    async def aclose(self) -> None:
        """Close every connection; idempotent."""
        if self.shared is not None:
            await self.shared.settled()
        for server in self.servers.values():
            await server.aclose()
        for close in self.closing:
            found = close()
            if asyncio.iscoroutine(found):
                await found

    async def offered(self, names: Iterable[str]) -> dict[str, RegisteredTool]:
        """The tools that ``names`` stand for, in order; ``<server>__*`` is all of a server's.

        A server that cannot be reached offers nothing: the agent runs with the tools that there are.
        """
        found: dict[str, RegisteredTool] = {}
        for name in names:
            own = self.tools.get(name)
            if own is not None and not own.listed:
                found |= await self._with_server_schema(own)
                continue
            server_name, _, wanted = name.partition(SEPARATOR)
            server = self.servers.get(server_name)
            for listed in () if server is None else await server.tools():
                declared = self._declared(listed) if wanted == ALL else None
                if declared is not None:
                    found |= await self._with_server_schema(declared)
                elif wanted in {ALL, listed.spec.name.partition(SEPARATOR)[2]}:
                    found |= self._register_listed(listed)
        return found

    def is_read_only(self, name: str) -> bool:
        """Whether all tools that ``name`` stands for are declared read-only."""
        own = self.tools.get(name)
        if own is not None:
            return own.spec.effects.read_only
        server = self.servers.get(name.partition(SEPARATOR)[0])
        if server is None or not server.options.effects.read_only:
            return False
        return all(
            each.spec.effects.read_only
            for each in self.tools.values()
            if isinstance(each.tool, McpTool) and each.tool.is_of(server.options.name)
        )

    def _declared(self, listed: ListedTool) -> RegisteredTool | None:
        """The configuration's entry for a listed tool, which holds under ``<server>__*`` too."""
        for each in self.tools.values():
            if not each.listed and each.tool == listed.tool:
                return each
        return None

    def _register_listed(self, listed: ListedTool) -> dict[str, RegisteredTool]:
        """A tool as its server lists it."""
        known = self.tools.get(listed.spec.name)
        if known is None or (known.listed and known.spec != listed.spec):
            return self._register(listed.spec, listed.tool, listed=True)
        return {listed.spec.name: known}

    async def _with_server_schema(self, own: RegisteredTool) -> dict[str, RegisteredTool]:
        """A configured MCP tool whose parameters the operator left to the server takes the server's."""
        name = own.spec.name
        if not isinstance(own.tool, McpTool) or own.spec.parameters.get("properties"):
            return {name: own}
        spec = await own.tool.describe(own.spec)
        return {name: own} if spec == own.spec else self._register(spec, own.tool, listed=False)

    def _register(self, spec: ToolSpec, tool: Tool, *, listed: bool) -> dict[str, RegisteredTool]:
        """Register a server's tool; none where its schema is invalid, which would fail every request
        that offers it.
        """
        name = spec.name
        if self._unfit.get(name) == spec:
            return {}
        try:
            self.tools[name] = RegisteredTool(spec, tool, listed=listed)
        except SchemaFault as fault:
            self._unfit[name] = spec
            _log.warning("mcp_tool_left_out", extra={"tool": name, "reason": str(fault)})
            return {}
        return {name: self.tools[name]}

    async def call(
        self, name: str, arguments: Json | str, caller: ToolCaller, *, checked: bool = False
    ) -> ToolResult:
        """Call a tool with arguments as JSON text or parsed; raises ``ToolError``."""
        registered = self.tools.get(name)
        if registered is None:
            known = ", ".join(sorted(self.tools)[:12]) or "none"
            raise ToolError(
                f"there is no tool {name[:64]!r}; there are: {known}", code="tool_unknown"
            )
        parsed = parse_arguments(arguments) if isinstance(arguments, str) else arguments
        if not checked:
            registered.check(parsed)
        spec = registered.spec
        key = call_key(name, parsed, caller) if spec.cache_ttl_s else b""
        if key and (kept := self.outputs.get(key)) is not None:
            return kept
        if key and self.shared is not None and (found := await self.shared.get(key)) is not None:
            self.outputs.put(key, *found)
            return found[0]
        result = _tool_result(await self._tried(registered, parsed), spec.max_result_bytes)
        if key:
            self.outputs.put(key, result, spec.cache_ttl_s)
            if self.shared is not None:
                self.shared.put(key, result, spec.cache_ttl_s)
        return result

    async def _tried(self, registered: RegisteredTool, arguments: Json) -> object:
        spec = registered.spec
        retries = spec.retries if spec.effects.repeatable else 0
        for attempt in range(retries + 1):
            try:
                return await registered.try_once(arguments)
            except ToolError as error:
                if attempt == retries or error.code not in _TRANSIENT:
                    raise
            await asyncio.sleep(_BACKOFF_S * 2**attempt * (0.5 + self.jitter()))
        raise AssertionError  # the last try returned or raised


def parse_arguments(text: str) -> Json:
    """A call's arguments; raises ``ToolError`` where the text is no JSON object. Empty text is no
    arguments.
    """
    if len(text) > _LONGEST_ARGUMENTS_CHARS:
        message = f"the arguments are longer than {_LONGEST_ARGUMENTS_CHARS} characters"
        raise ToolError(message, code="tool_arguments")
    try:
        value: object = msgspec.json.decode(text) if text.strip() else {}
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise ToolError("the arguments are not valid JSON", code="tool_arguments") from exc
    if not isinstance(value, dict):
        raise ToolError("the arguments must be a JSON object", code="tool_arguments")
    return value


def _tool_result(value: object, most_bytes: int) -> ToolResult:
    """A result as the model reads it: text as it is, else JSON; cut with a note where it is too long."""
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    text = value if isinstance(value, str) else _json(value)
    if value is None or not text.strip():
        text = _NO_CONTENT
    size = len(text.encode("utf-8"))
    if size <= most_bytes:
        return ToolResult(text, value)
    kept = text.encode("utf-8")[:most_bytes].decode("utf-8", "ignore")
    note = f"\n[cut: this is the beginning, {most_bytes} of {size} bytes]"
    return ToolResult(kept + note, value, cut=True)


def _json(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise ToolError("gave a result that is not JSON", code="tool_not_json") from exc
