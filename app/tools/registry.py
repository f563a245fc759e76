"""Every tool by name, and the one way to call them: validated, limited, retried, kept, cut.

``Registry.call`` gives a ``ToolResult`` or raises a ``ToolError``: whatever a server sends back or
does not send back, nothing else comes out, but the caller's own cancellation.
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
from app.tools.mcp import Listed, McpServer, McpTool
from app.tools.output_cache import OutputCache, call_key
from app.tools.shared_outputs import SharedOutputs
from app.tools.validation import Arguments, SchemaFault

_TRANSIENT = frozenset({"tool_timeout", "tool_refused", "tool_closed", "tool_server_error"})
_BACKOFF_S = 0.05
_NO_CONTENT = "(no content)"
"""What a call is told to have given that gave nothing: vendors refuse an empty text."""
_log = logging.getLogger("slipstream.tools")
_LONGEST_ARGUMENTS_CHARS = 1 << 20
ALL = "*"
"""``<server>__*``: every tool of an MCP server."""
SEPARATOR = "__"


class Registered:
    """A tool with its description, its schema's validator and its limit."""

    __slots__ = ("_arguments", "_room", "listed", "spec", "tool", "waited_s", "waiting")

    def __init__(self, spec: ToolSpec, tool: Tool, *, listed: bool = False) -> None:
        """Offer ``tool`` as ``spec`` describes it; raises ``SchemaFault``."""
        self.spec = spec
        self.tool = tool
        self.listed = listed
        """A server gave it, not the configuration."""
        self._arguments = Arguments(spec.parameters)
        self._room = asyncio.Semaphore(spec.max_concurrency)
        self.waiting = 0
        """Calls that wait for a place now."""
        self.waited_s = 0.0
        """How long calls have waited for one in all."""

    def check(self, arguments: Json) -> None:
        """Raise ``ToolError`` saying what is wrong with ``arguments``, in words that a model can act on."""
        self._arguments.check(arguments)

    def checked(self, arguments: str) -> Json:
        """A call's arguments, parsed and fitting the schema; raises ``ToolError`` in words for the
        model.
        """
        parsed = parsed_arguments(arguments)
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
        """Take a place once one is free, and count the wait."""
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

    tools: dict[str, Registered] = field(default_factory=dict)
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

    async def offered(self, names: Iterable[str]) -> dict[str, Registered]:
        """The tools that ``names`` stand for, in order; ``<server>__*`` is all of a server's.

        A server that cannot be reached offers nothing: the agent runs with the tools that there are.
        """
        found: dict[str, Registered] = {}
        for name in names:
            own = self.tools.get(name)
            if own is not None and not own.listed:
                found |= await self._described(own)
                continue
            server_name, _, wanted = name.partition(SEPARATOR)
            server = self.servers.get(server_name)
            for listed in () if server is None else await server.tools():
                declared = self._declared(listed) if wanted == ALL else None
                if declared is not None:
                    found |= await self._described(declared)
                elif wanted in {ALL, listed.spec.name.partition(SEPARATOR)[2]}:
                    found |= self._taken_in(listed)
        return found

    def reads_only(self, name: str) -> bool:
        """Say whether all that ``name`` stands for is declared to change nothing."""
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

    def _declared(self, listed: Listed) -> Registered | None:
        """The entry of the configuration for a listed tool: what it says holds under ``<server>__*`` too."""
        for each in self.tools.values():
            if not each.listed and each.tool == listed.tool:
                return each
        return None

    def _taken_in(self, listed: Listed) -> dict[str, Registered]:
        """A tool as its server lists it."""
        known = self.tools.get(listed.spec.name)
        if known is None or (known.listed and known.spec != listed.spec):
            return self._offered(listed.spec, listed.tool, listed=True)
        return {listed.spec.name: known}

    async def _described(self, own: Registered) -> dict[str, Registered]:
        """A configured MCP tool whose parameters the operator left to the server takes the server's."""
        name = own.spec.name
        if not isinstance(own.tool, McpTool) or own.spec.parameters.get("properties"):
            return {name: own}
        spec = await own.tool.describe(own.spec)
        return {name: own} if spec == own.spec else self._offered(spec, own.tool, listed=False)

    def _offered(self, spec: ToolSpec, tool: Tool, *, listed: bool) -> dict[str, Registered]:
        """A server's tool, put down; none where its schema is none, for that would spoil every request
        that offers it.
        """
        name = spec.name
        if self._unfit.get(name) == spec:
            return {}
        try:
            self.tools[name] = Registered(spec, tool, listed=listed)
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
        parsed = parsed_arguments(arguments) if isinstance(arguments, str) else arguments
        if not checked:
            registered.check(parsed)
        spec = registered.spec
        key = call_key(name, parsed, caller) if spec.cache_ttl_s else b""
        if key and (kept := self.outputs.get(key)) is not None:
            return kept
        if key and self.shared is not None and (found := await self.shared.get(key)) is not None:
            self.outputs.put(key, *found)
            return found[0]
        result = _told(await self._tried(registered, parsed), spec.max_result_bytes)
        if key:
            self.outputs.put(key, result, spec.cache_ttl_s)
            if self.shared is not None:
                self.shared.put(key, result, spec.cache_ttl_s)
        return result

    async def _tried(self, registered: Registered, arguments: Json) -> object:
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


def parsed_arguments(text: str) -> Json:
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


def _told(value: object, most_bytes: int) -> ToolResult:
    """A result as the model is told it: text as it is, else JSON; cut with a note where it is too long."""
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
