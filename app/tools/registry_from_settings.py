"""From the settings' ``tools`` and ``mcp_servers`` to a registry that can call them."""

from __future__ import annotations

from contextlib import suppress

from app.domain.tools import Effects, ToolSpec
from app.errors import ToolError
from app.ports import Tool
from app.settings import McpServerSettings, Settings, ToolEffects, ToolSettings
from app.settings_problems import Problem, SettingsError
from app.tools.addresses import Addresses, Resolve, resolve_host
from app.tools.connections import Connections
from app.tools.egress import origin_of
from app.tools.http_tool import HttpCall, HttpTool, read_limit_bytes
from app.tools.mcp import McpOptions, McpServer, McpTool
from app.tools.python_tool import PythonTool, import_callable
from app.tools.registry import RegisteredTool, Registry
from app.tools.validation import SchemaFault


def build_registry(settings: Settings, resolve: Resolve = resolve_host) -> Registry:
    """A registry with every configured tool, not yet started; raises ``SettingsError`` naming each
    that cannot be. ``resolve`` gives every address of a host.
    """
    addresses = _addresses(settings, resolve)
    servers = {
        name: McpServer(_options(name, each), addresses=addresses)
        for name, each in settings.mcp_servers.items()
    }
    registry = Registry(servers=servers)
    connections = Connections(addresses)
    registry.closing.append(connections.aclose)
    problems: list[Problem] = []
    for index, tool in enumerate(settings.tools):
        try:
            way = _way(tool, connections, servers)
            registry.tools[tool.name] = RegisteredTool(_spec(tool), way)
        except (ToolError, SchemaFault) as error:
            path, what = f"tools[{index}]", str(error)
            if isinstance(error, SchemaFault):
                path = f"{path}.parameters"
            problems.append(
                Problem("the configuration", None, path, tool.name, what, "Mend it there.")
            )
    if problems:
        raise SettingsError(problems)
    return registry


def _addresses(settings: Settings, resolve: Resolve) -> Addresses:
    """What tools may reach: what is public, and what the operator wrote."""
    addresses = Addresses(settings.egress.private, resolve)
    urls = [tool.http.url for tool in settings.tools if tool.http is not None]
    urls += [server.url for server in settings.mcp_servers.values() if server.url]
    for url in urls:
        with suppress(ToolError):  # told with its tool, below
            addresses.declare(origin_of(url).host)
    return addresses


def _way(tool: ToolSettings, connections: Connections, servers: dict[str, McpServer]) -> Tool:
    if tool.http is not None:
        http = tool.http
        call = HttpCall(
            method=http.method,
            url=http.url,
            headers=http.headers,
            body=http.body,
            result=http.result,
            max_read_bytes=read_limit_bytes(tool.max_result_bytes),
            repeatable=tool.effects.repeatable,
        )
        return HttpTool(call, connections)
    if tool.mcp is not None:
        return McpTool(servers[tool.mcp.server], tool.mcp.tool)
    return PythonTool(import_callable(tool.python or ""), tool.max_concurrency)


def _spec(tool: ToolSettings) -> ToolSpec:
    own_host = tool.python is not None or (
        tool.http is not None and origin_of(tool.http.url).is_loopback
    )
    return ToolSpec(
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        status=tool.status or "",
        timeout_s=tool.timeout_s,
        cache_ttl_s=tool.cache_ttl_s,
        retries=tool.retries,
        max_concurrency=tool.max_concurrency,
        max_result_bytes=tool.max_result_bytes,
        cost_usd=tool.cost_usd,
        effects=_effects(tool.effects),
        approval=tool.approval,
        own_host=own_host,
    )


def _effects(effects: ToolEffects) -> Effects:
    return Effects(effects.read_only, effects.repeatable, effects.disclosable)


def _options(name: str, server: McpServerSettings) -> McpOptions:
    return McpOptions(
        name=name,
        url=server.url or "",
        headers=server.headers,
        command=server.command,
        env=server.env,
        timeout_s=server.timeout_s,
        effects=_effects(server.effects),
    )
