"""What a schema cannot see: names that point nowhere or stand twice, places without a parameter.

The checks read the plain values of the file, not the typed `Settings`: a file with a wrong type in
one place still gets all its other problems told in the same run. So each check steps over what has
not the shape that it needs; the schema reports that.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from app.domain.cron import parse
from app.domain.models import AUTO
from app.settings_problems import Path, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.settings_text import Source

Entry = tuple[Path, dict[str, object]]
"""Where an entry of a list or mapping stands, and the entry."""

_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4}){3,}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_OWN_MODELS = frozenset({AUTO})
_MCP_SEPARATOR = "__"
_LEAST_SECRET_CHARS = 32
_WAYS = ("http", "python", "mcp")


def cross_check(source: Source) -> None:
    """Add to `source.problems` whatever its parts contradict each other in."""
    _providers(source)
    _models(source)
    _lanes(source)
    _tools(source)
    _mcp_servers(source)
    _agents(source)
    _jobs(source)
    _unique(source, ("auth", "keys"), "key")
    _addresses(source)
    _egress(source)
    _encryption(source)


def models_named(source: Source) -> None:
    """Add a problem where no model is named: such a gateway would tell every request 404."""
    if not source.values.get("models"):
        source.report(
            ("models",),
            "names no model, so that nothing could be answered",
            "Name one under `models` and its server under `providers`, set OPENAI_API_KEY or "
            "ANTHROPIC_API_KEY, or serve without a file for the built-in default.",
        )


def _providers(source: Source) -> None:
    for path, provider in _entries(source, "providers"):
        _url(source, (*path, "base_url"), provider.get("base_url"), ("http", "https"))
        warm, most = provider.get("warm_connections", 2), provider.get("max_connections", 256)
        if isinstance(warm, int) and isinstance(most, int) and warm > most:
            source.report(
                (*path, "warm_connections"),
                f"is more than max_connections, which is {most}",
                "Lower it, or raise max_connections.",
                warm,
            )


def _models(source: Source) -> None:
    _unique(source, ("models",), "name")
    providers = {str(path[-1]) for path, _ in _entries(source, "providers")}
    for path, model in _entries(source, "models"):
        name, provider = model.get("name"), model.get("provider")
        if isinstance(name, str) and name in _OWN_MODELS:
            source.report((*path, "name"), "is the router's own name", "Choose another.", name)
        if isinstance(provider, str) and provider not in providers:
            source.report(
                (*path, "provider"),
                "names no entry of providers",
                did_you_mean(provider, providers),
                provider,
            )


def _lanes(source: Source) -> None:
    _unique(source, ("lanes", "rules"), "name")
    for path, rule in _entries(source, "lanes", "rules"):
        pattern = rule.get("pattern")
        if not isinstance(pattern, str):
            continue
        groups = _compiled_groups(source, (*path, "pattern"), pattern)
        template = rule.get("template")
        if groups is None or not isinstance(template, str):
            continue
        for place in _places(template):
            if place not in groups:
                source.report(
                    (*path, "template"),
                    f"fills {{{place}}}, which is no named group of the pattern",
                    f"Write (?P<{place}>...) in the pattern. {did_you_mean(place, groups)}",
                    template,
                )


def _compiled_groups(source: Source, path: Path, pattern: str) -> set[str] | None:
    import re2  # A native library: configurations without lanes start without it.

    options = re2.Options()
    options.log_errors = False
    try:
        return set(re2.compile(pattern, options).groupindex)
    except re2.error as exc:
        reason = exc.args[0] if exc.args else exc
        text = reason.decode() if isinstance(reason, bytes) else str(reason)
        source.report(
            path,
            f"is not a regular expression of RE2: {text}",
            "Mend it there; look-around and back-references do not exist in RE2.",
            pattern,
        )
        return None


def _tools(source: Source) -> None:
    _unique(source, ("tools",), "name")
    servers = {str(path[-1]) for path, _ in _entries(source, "mcp_servers")}
    for path, tool in _entries(source, "tools"):
        _way(source, path, tool)
        _effects(source, path, tool)
        mcp = tool.get("mcp")
        server = mcp.get("server") if isinstance(mcp, dict) else None
        if isinstance(server, str) and server not in servers:
            source.report(
                (*path, "mcp", "server"),
                "names no entry of mcp_servers",
                did_you_mean(server, servers),
                server,
            )
        if isinstance(tool.get("parameters", {}), dict):
            _parameters(source, path, tool)


def _way(source: Source, path: Path, tool: dict[str, object]) -> None:
    ways = [way for way in _WAYS if tool.get(way) is not None]
    if len(ways) != 1:
        found = f"has {' and '.join(ways)}" if ways else "has no way to be called"
        source.report(path, found, "Give exactly one of http, python and mcp.")
    http = tool.get("http")
    if isinstance(http, dict):
        _url(source, (*path, "http", "url"), http.get("url"), ("http", "https"))


def _effects(source: Source, path: Path, tool: dict[str, object]) -> None:
    declared = tool.get("effects")
    effects = declared if isinstance(declared, dict) else {}
    for key, flag, why in (
        ("cache_ttl_s", "read_only", "a kept result stands for a call that is not made"),
        ("retries", "repeatable", "a retry may do the same thing twice"),
    ):
        amount = tool.get(key, 0)
        if isinstance(amount, int | float) and amount > 0 and effects.get(flag) is not True:
            source.report(
                (*path, key),
                f"needs effects.{flag}, for {why}",
                f"Declare `effects: {{{flag}: true}}` if that is true of the tool, or set it to 0.",
                amount,
            )


def _parameters(source: Source, path: Path, tool: dict[str, object]) -> None:
    declared = tool.get("parameters")
    schema = declared if isinstance(declared, dict) else {}
    if schema and not _is_json_schema(source, path, schema):
        return
    properties = schema.get("properties", {})
    known = set(properties) if isinstance(properties, dict) else set()
    for name in schema.get("required", ()):
        if name not in known:
            source.report(
                (*path, "parameters", "required"),
                f"asks for {name!r}, which is no property",
                did_you_mean(str(name), known),
            )
    if tool.get("mcp") is not None and not declared:
        return  # The server says what the parameters are.
    for at, text in _templates(path, tool):
        for place in _places(text):
            if place not in known:
                source.report(
                    at,
                    f"fills {{{place}}}, which is no property of parameters",
                    did_you_mean(place, known),
                    text,
                )


def _is_json_schema(source: Source, path: Path, schema: dict[str, object]) -> bool:
    import jsonschema  # Slow to import, and only tools need it.

    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as exc:
        at = (*path, "parameters", *exc.absolute_path)
        source.report(at, f"is not JSON Schema: {exc.message}", "Mend it there.")
        return False
    return True


def _templates(path: Path, tool: dict[str, object]) -> list[tuple[Path, str]]:
    """Every text of a tool whose `{argument}` places are filled, with its path."""
    found = _strings(tool.get("status"), (*path, "status"))
    http = tool.get("http")
    if isinstance(http, dict):
        for key in ("url", "headers", "body"):
            found += _strings(http.get(key), (*path, "http", key))
    return found


def _mcp_servers(source: Source) -> None:
    for path, server in _entries(source, "mcp_servers"):
        if bool(server.get("url")) == bool(server.get("command")):
            source.report(path, "needs either url or command", "Give exactly one of the two.")
        if server.get("url"):
            _url(source, (*path, "url"), server["url"], ("http", "https"))


def _agents(source: Source) -> None:
    _unique(source, ("agents",), "name")
    models = {str(model.get("name")) for _, model in _entries(source, "models")} | _OWN_MODELS
    tools = {str(tool.get("name")) for _, tool in _entries(source, "tools")}
    servers = {str(path[-1]) for path, _ in _entries(source, "mcp_servers")}
    names = {str(agent.get("name")) for _, agent in _entries(source, "agents")}
    for path, agent in _entries(source, "agents"):
        model, wanted = agent.get("model", AUTO), agent.get("tools")
        if isinstance(model, str) and model not in models:
            source.report(
                (*path, "model"), "names no entry of models", did_you_mean(model, models), model
            )
        _subagents(source, path, agent, names)
        writer = agent.get("answer_model")
        if isinstance(writer, str) and writer not in models:
            source.report(
                (*path, "answer_model"),
                "names no entry of models",
                did_you_mean(writer, models),
                writer,
            )
        for index, tool in enumerate(wanted if isinstance(wanted, list) else ()):
            if not isinstance(tool, str) or tool in tools:
                continue
            if tool.partition(_MCP_SEPARATOR)[0] not in servers:
                offered = tools | {f"{server}{_MCP_SEPARATOR}*" for server in servers}
                source.report(
                    (*path, "tools", index),
                    "names no entry of tools",
                    did_you_mean(tool, offered),
                    tool,
                )


def _jobs(source: Source) -> None:
    _unique(source, ("jobs", "schedules"), "name")
    _unique(source, ("jobs", "webhooks"), "name")
    agents = {str(agent.get("name")) for _, agent in _entries(source, "agents")}
    hooks = {str(hook.get("name")) for _, hook in _entries(source, "jobs", "webhooks")}
    for path, hook in _entries(source, "jobs", "webhooks"):
        _url(source, (*path, "url"), hook.get("url"), ("http", "https"))
        secret = str(hook.get("secret", ""))
        if secret.startswith("whsec_") and not _BASE64.fullmatch(secret.removeprefix("whsec_")):
            message = "is no base64 behind whsec_"
            source.report((*path, "secret"), message, "Take `whsec_$(openssl rand -base64 24)`.")
    for path, schedule in _entries(source, "jobs", "schedules"):
        try:
            parse(str(schedule.get("cron", "")), str(schedule.get("timezone", "UTC")))
        except ValueError as exc:
            at = "timezone" if "zone" in str(exc) else "cron"
            mend = "Write it as crontab(5) does: minute hour day month weekday."
            source.report((*path, at), str(exc), mend, schedule.get(at))
        agent, hook_name = schedule.get("agent"), schedule.get("webhook")
        if (agent is None) == (schedule.get("warm") is None):
            source.report(path, "needs exactly one of agent and warm", "Write one.")
        if isinstance(agent, str) and agent not in agents:
            mend = did_you_mean(agent, agents)
            source.report((*path, "agent"), "names no agent", mend, agent)
        if isinstance(hook_name, str) and hook_name not in hooks:
            mend = did_you_mean(hook_name, hooks)
            source.report((*path, "webhook"), "names no entry of jobs.webhooks", mend, hook_name)


def _subagents(source: Source, path: Path, agent: dict[str, object], names: set[str]) -> None:
    others = agent.get("agents")
    for index, name in enumerate(others if isinstance(others, list) else ()):
        if name not in names or name == agent.get("name"):
            source.report(
                (*path, "agents", index),
                "names no other entry of agents",
                did_you_mean(str(name), names - {str(agent.get("name"))}),
                name,
            )


def _encryption(source: Source) -> None:
    """Secrets that can be guessed encrypt nothing."""
    state = source.values.get("state")
    secrets = state.get("encryption_keys") if isinstance(state, dict) else None
    for index, secret in enumerate(secrets if isinstance(secrets, list) else ()):
        if isinstance(secret, str) and len(secret) < _LEAST_SECRET_CHARS:
            source.report(
                ("state", "encryption_keys", index),
                f"is shorter than {_LEAST_SECRET_CHARS} characters",
                "Take one of `openssl rand -base64 32`.",
            )


def _egress(source: Source) -> None:
    """Tools and MCP servers name allowed hosts only, where hosts are listed."""
    egress = source.values.get("egress")
    hosts = egress.get("hosts") if isinstance(egress, dict) else None
    if not isinstance(hosts, list) or not hosts:
        return
    allowed = [str(host).lower() for host in hosts]
    found = [
        ((*path, "http", "url"), http.get("url"))
        for path, tool in _entries(source, "tools")
        if isinstance(http := tool.get("http"), dict)
    ]
    found += [
        ((*path, "url"), server.get("url")) for path, server in _entries(source, "mcp_servers")
    ]
    found += [
        ((*path, "url"), hook.get("url")) for path, hook in _entries(source, "jobs", "webhooks")
    ]
    for at, url in found:
        if not isinstance(url, str) or not url:
            continue
        try:
            host = (urlsplit(_PLACE.sub("0", url)).hostname or "").lower()
        except ValueError:
            continue  # told as no URL
        if not any(fnmatchcase(host, pattern) for pattern in allowed):
            source.report(at, f"names {host}, which is not in egress.hosts", "Add it there.", url)


def _addresses(source: Source) -> None:
    for section, key, schemes in (
        ("state", "redis_url", ("redis", "rediss", "unix")),
        ("state", "qdrant_url", ("http", "https")),
        ("telemetry", "otlp_endpoint", ("http", "https")),
    ):
        values = source.values.get(section)
        if isinstance(values, dict) and values.get(key):
            _url(source, (section, key), values[key], schemes)


def _url(source: Source, path: Path, value: object, schemes: tuple[str, ...]) -> None:
    if not isinstance(value, str):
        return
    try:
        parts = urlsplit(_PLACE.sub("0", value))
        good = parts.scheme in schemes and bool(parts.netloc or parts.scheme == "unix")
        _ = parts.port
    except ValueError:
        good = False
    if not good:
        wanted = " or ".join(f"{scheme}://" for scheme in schemes)
        source.report(
            path, "is not a URL of this kind", f"It begins with {wanted} and a host.", value
        )


def _unique(source: Source, section: Path, key: str) -> None:
    first: dict[str, Path] = {}
    for path, entry in _entries(source, *section):
        name = entry.get(key)
        if not isinstance(name, str):
            continue
        if name in first:
            line = source.line_of(first[name])
            place = f"entry {first[name][-1]}" + ("" if line is None else f", line {line}")
            source.report(
                (*path, key), f"stands twice, first in {place}", "Rename or remove one.", name
            )
        else:
            first[name] = path


def _entries(source: Source, *section: str | int) -> Iterator[Entry]:
    """Walk the mappings inside a list or mapping section, stepping over what is neither."""
    found: object = source.values
    for part in section:
        found = found.get(part) if isinstance(found, dict) and isinstance(part, str) else None
    if isinstance(found, dict):
        pairs: Iterator[tuple[str | int, object]] = iter(found.items())
    elif isinstance(found, list):
        pairs = iter(enumerate(found))
    else:
        return
    for index, entry in pairs:
        if isinstance(entry, dict):
            yield (*section, index), entry


def _strings(value: object, path: Path) -> list[tuple[Path, str]]:
    """All strings inside a value, each with its path."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _strings(item, (*path, str(key)))]
    if isinstance(value, list):
        return [
            found for index, item in enumerate(value) for found in _strings(item, (*path, index))
        ]
    return [(path, value)] if isinstance(value, str) else []


def _places(template: str) -> list[str]:
    """The `{name}` places of a template; doubled braces are text."""
    return _PLACE.findall(template.replace("{{", "").replace("}}", ""))
